"""Converts CronJobs to ScheduledJobs, and reports every difference."""
