"""``kubectl scheduledjob``: the plugin with which people see and steer the ScheduledJobs of a cluster.

It needs nothing but the API server: what it tells stands in the objects, in their status and in the logs of their
Pods, and what it asks for is written as annotations that the operator reads.
"""
