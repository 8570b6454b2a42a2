"""``kubectl scheduledjob``: the plugin with which people see and steer the ScheduledJobs of a cluster.

It needs only the API server: it shows the objects, their status and the logs of their Pods, and it writes requests as
annotations, which the operator reads.
"""
