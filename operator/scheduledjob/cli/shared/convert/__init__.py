"""From CronJobs to ScheduledJobs: what becomes of each field, and what is told of those that can't come along."""
