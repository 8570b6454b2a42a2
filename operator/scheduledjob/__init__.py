"""ScheduledJob: a job scheduler that never loses a run.

The names in ``__all__`` are the public surface; everything else may change.
"""
