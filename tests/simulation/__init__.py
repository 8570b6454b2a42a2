"""The simulation: the real engine, several replicas, one fake clock, faults by seed.

``world`` turns the clock, ``loop`` gives each replica an event loop that lives in it, ``network`` carries calls to the
store and loses some, ``processes`` are the jobs, ``scenario`` is what a seed makes of all that, and ``checker`` judges
the history without knowing any of it. ``bugs`` are planted to see that each rule bites.
"""
