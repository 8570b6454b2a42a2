"""The cluster: the only package that knows Kubernetes, and within it the only modules that know kopf.

Everything here talks to one API server, through ``api``, which speaks JSON and nothing else. What is read of the
cluster comes in three ways that back each other up: ``watching`` (kopf) tells of ScheduledJobs as they change,
``reflector`` of Pods, and ``sweep`` finds what both have missed. The engine below knows none of this.
"""
