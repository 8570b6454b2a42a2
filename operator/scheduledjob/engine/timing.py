"""The intervals, delays and limits of the engine that are not configurable. All are seconds.

What a user may set is in ``replica_settings.py``. The limits of the shutdown phases are in ``shutdown.py``.
"""

from __future__ import annotations

# ---- claims

MIN_POLL_INTERVAL = 0.02
"""Between two polls whose batches were not full. Rows that become due in between are claimed together."""

MIN_ANNOUNCED_SLEEP = 0.05
"""A longer sleep is announced in the store first."""

ANNOUNCE_RETRY_DELAY = 0.5
"""Until the poll after an announcement that a client's lock prevented."""

FIRST_CLAIM_RETRY_DELAY, LAST_CLAIM_RETRY_DELAY = 0.1, 5.0
"""Delay after a claim that the store did not answer. It doubles from the first value to the last."""

WRITES_FIRST_DELAY = 1.0
"""From the end of an outage in which leases may have expired to the first claim. A run that ended during the outage
would run again if a replica claimed it before its end is written."""

CLAIM_START_LIMIT = 1.0
"""The store starts a claim within this time of its sending, or claims nothing. A claim that an outage delayed for
longer would arrive before the writes that ``WRITES_FIRST_DELAY`` waits for."""

UNREADABLE_RETRY_DELAY = 60.0
"""Until a row that this version can't read is due again. By then a newer replica may claim it."""

FAIR_BATCH = 64
"""Rows that a claim takes at most while tenants share the replica and more is due than one claim takes. A run that
comes due beside such a backlog waits for the claim in flight, for the next one, and for the hand-over of their rows."""

QUOTA_OF_OTHERS = 16
"""How many rows a claim with quotas takes of a tenant that had nothing due before."""

# ---- attempts

STILL_STOPPING_DELAY = 1.0
"""Until a row is due again that was lost and claimed again while one of its attempts is still stopping here."""

LOST_RETRY_DELAY = 1.0
"""Until a detached attempt that its executor could not follow is started again."""

# ---- writes

MIN_WRITE_INTERVAL = 0.01
"""Between the starts of two batches that are not full. A single settlement is written at once; of two thousand in a
second, twenty share a round trip."""

WRITE_RETRY_DELAY = 0.25
"""Until a write that the store did not answer is repeated."""

# ---- leases

RENEWED_WITHIN = 0.5
"""The part of a lease after which its owner has renewed it: a third, one step of the lease thread and a round trip."""

FIRST_LEASE_THREAD_RESTART_DELAY, LAST_LEASE_THREAD_RESTART_DELAY = 0.1, 5.0
"""After a failure of the lease thread, until it starts again. It doubles from the first value to the last."""

FENCE_LIMIT = 2.0
"""From the moment at which a lease is given up until its attempts have been told to stop, at most. The event loop does
not run if it takes longer."""

# ---- services of a replica

LOOP_BEAT_INTERVAL = 1.0
"""Between two signs of life of the event loop."""

WEDGED_AFTER = 60.0
"""Without a sign of life of the event loop for this long, the replica is not alive, and logs what blocks it."""

CLOCK_READ_INTERVAL = 0.5
"""Between two reads of the store's clock. In that time two clocks drift apart by less than a round trip takes."""

SUSPENDED_FOR = 0.5
"""The machine was suspended if its boot clock is ahead of the event loop's clock by this much more than before."""

EXCLUSIVE_LEASE = 30 * 86_400.0
"""The lease of a replica whose store no other process can use. A machine may sleep for that long within a run."""

ZONE_REFRESH_INTERVAL, ZONE_RECHECK_INTERVAL = 600.0, 86_400.0
"""Between two checks whether the rows have to be read for new zone data, and until that is so although none was planned
by older data."""

HOOK_LIMIT, HOOK_CLAIM = 90.0, 120.0
"""For one call of a hook, and for its claim, after which another replica makes the call again."""

HOOK_FIRST_RETRY_DELAY, HOOK_LAST_RETRY_DELAY = 5.0, 900.0
"""After a failed call of a hook, until the next one. It doubles from the first value to the last."""

HOOK_POLL_INTERVAL = 60.0
"""Between two polls for calls of hooks that other replicas have left, at most."""

PRUNE_INTERVAL = 60.0
"""Between two prunings of history, on average."""

TIMER_RESOLUTION = 0.001
"""The shortest wait that the event loop supports."""
