"""Jobs that run as Pods: what such a Pod is, what came of it, and the executor that sees it through.

Nothing here knows a client of the API server: a Pod is the JSON that the API server takes and gives, and what is done
with one goes through the protocol ``Pods`` (``pods.py``). So the whole of it is tested without a cluster where that
says enough, and against a real one where it doesn't.
"""
