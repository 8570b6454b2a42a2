"""Generate pages and pictures of the documentation from the code. ``make docs`` writes them; a test finds stale ones.

The domain's own code decides what the pictures show: a timeline is what the state machine does with a given spec.
"""
