"""Jobs that run as Pods: builds a Pod for an attempt, follows it to its end, and derives the result from it.

Nothing here knows a client of the API server: a Pod is JSON, and the protocol ``Pods`` (``pods_protocol.py``) has the
operations on Pods. So most of it can be tested without a cluster.
"""
