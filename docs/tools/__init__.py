"""What makes pages and pictures of the documentation from the code: ``make docs`` writes them, a test finds them stale.

The pictures are drawn by the domain's own code, not by somebody's idea of it: a timeline is what a schedule decided
when it was given that specification and that past.
"""
