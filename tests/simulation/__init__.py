"""The simulation: the real engine, several replicas, one fake clock, faults by seed.

``world`` turns the clock. ``loop`` gives each replica an event loop on that clock. ``network`` carries calls to the
store and loses some, and ``row_locks`` locks rows. ``processes`` and ``pods`` are the jobs. ``scenario`` decides, by
the seed, what happens: ``clients`` write schedules, ``troubles`` are the faults, ``zone_versions`` the time zone data
of the replicas, and ``backups`` restores the store. ``checker`` checks the ``history`` without knowing any of that, and
``restored`` is what it expects after a restore. ``bugs`` and ``data_bugs`` are planted to see that every rule finds
one, and ``strikes`` counts the faults and their effects, to see that each of them occurs.
"""
