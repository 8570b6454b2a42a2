"""The operator: the only package that knows Kubernetes.

- ``client``: the client of the API server. It sends and returns JSON.
- ``watch``: watches ScheduledJobs (with kopf, which no other package uses) and Pods.
- ``reconcile``: brings ScheduledJobs into the store, and sweeps for what the watch has missed.
- ``report``: writes status and Events.
- ``pods``: creates, watches and deletes the Pods of jobs.
- ``settings``: flags, environment variables and the file of settings.

``operator`` is the life of a replica, ``runtime`` connects its parts.
"""
