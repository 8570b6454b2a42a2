"""What a replica is made from: its settings, what its program provides, and what its parts share."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

from scheduledjob.domain.time.durations import in_seconds, is_number

from .capacity import MAX_WEIGHT, MIN_WEIGHT
from .clock import boot_seconds
from .executor import MAX_RESULT
from .lease_thread import LeaseThread, no_action
from .observer import Observer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .clock import Clock, StoreClock
    from .executor import Hook, References
    from .kinds import JobKind
    from .lease_thread import LeaseCallbacks, LeaseDriver
    from .leases import Leases
    from .store import Store


@dataclass(slots=True, frozen=True)
class ReplicaSettings:
    """Settings of one replica. All times are seconds; the defaults suit production."""

    heartbeat: float = 60.0
    """The longest time between two polls of the store. A shorter one costs queries, and helps only if notifications
    get lost."""
    jitter: float = 0.0
    """The heartbeat is shortened by a random part of this, so that replicas don't poll at the same time."""
    lease: float = 15.0
    """How long the rows of a dead replica stay its own. A shorter lease means quicker recovery, more renewals, and less
    tolerance of a slow store."""
    ahead: float = 1.0
    """How long before it is due a row is claimed. Must cover the slowest answer of the store. If the replica dies, a
    row that it claimed ahead waits for the lease."""
    capacity: int = 4096
    """How many attempts a replica runs at once. A row that it owns and of which no attempt runs counts as one."""
    tenant_share: float = 0.875
    """The largest share of capacity for one tenant (a namespace), of what it holds and what is free. The rest is left
    for tenants that run nothing yet. 1: no bound."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """By tenant: its weight when more is due than fits. A tenant of weight 2 gets twice as much as one of weight 1,
    which is the default."""
    batch: int = 500
    """How many rows one claim takes at most. More is quicker for a backlog; less delays running jobs less."""
    max_result: int = MAX_RESULT
    """Bytes of the result and of the payload that a run may leave. The run of a job that leaves more fails. The store
    must take them within seconds, together with the end of the run."""
    grace: float = 8.0
    """How long running attempts may continue at shutdown before they are stopped and their rows released."""

    def __post_init__(self) -> None:
        for setting in fields(self):
            if setting.name == "weights":
                continue
            value = getattr(self, setting.name)
            least = 0 if setting.name in {"jitter", "grace"} else 1 if setting.type == "int" else 0.001
            if (
                not is_number(value)
                or not math.isfinite(value)
                or value < least
                or (setting.type == "int" and value != int(value))
            ):
                hint = "" if setting.type == "int" or isinstance(value, int | float) else in_seconds(value)
                what = "a whole number" if setting.type == "int" else "a number of seconds"
                raise ValueError(f"{setting.name} of {value!r:.60} is not allowed: {what}, at least {least:g}{hint}")
        if self.tenant_share > 1:
            raise ValueError(f"tenant_share of {self.tenant_share!r} is not allowed: a share of capacity, at most 1")
        if not isinstance(self.weights, Mapping):
            raise TypeError(f"weights of {self.weights!r:.60} are not allowed: a dict, as in {{'team-a': 2.0}}")
        for tenant, weight in self.weights.items():
            if not is_number(weight) or not MIN_WEIGHT <= weight <= MAX_WEIGHT:
                allowed = f"a number from {MIN_WEIGHT:g} to {MAX_WEIGHT:g}"
                raise ValueError(f"weight {weight!r:.60} of tenant {tenant!r:.80} is not allowed: {allowed}")


@dataclass(slots=True, frozen=True)
class ReplicaHost:
    """What the program that runs a replica provides."""

    name: str | None = None
    """A unique name for the replica; None: made from the host name and the process id."""
    program_version: str = ""
    observer: Observer = field(default_factory=Observer)
    references: References | None = None
    """Resolves references to Secrets and ConfigMaps; None: jobs can't have such references."""
    hook: Hook | None = None
    """Calls the hooks of jobs; None: no hooks are called."""
    followers: Callable[[str], Sequence[str]] | None = None
    """Returns the slugs of the schedules that follow a slug, as far as this process knows."""
    lease_bound: Clock | None = None
    """Returns the monotonic second at which every lease ends at the latest; None: there is no such bound."""
    on_outlived: Callable[[str], object] = no_action
    """Called in the lease thread with the slug of a job that blocks the event loop although its lease is over. Nothing
    but the end of the process stops it, and another replica may start its run."""
    clock: StoreClock | None = None
    """The clock that the replica keeps in time, if other parts of the program read it too; None: one of its own."""


@dataclass(slots=True, frozen=True)
class ReplicaPlatform:
    """The clock, the random numbers and the lease thread of a replica, which the simulation replaces."""

    monotonic: Clock = boot_seconds
    rng: random.Random = field(default_factory=random.Random)
    """Spreads load."""
    lease_thread: Callable[[Store, str, Leases, Clock, LeaseCallbacks], LeaseDriver] = LeaseThread


@dataclass(slots=True, frozen=True)
class ReplicaContext:
    """What the parts of one replica share."""

    store: Store
    replica: str
    """The replica's id: the owner of its rows."""
    kinds: Mapping[str, JobKind]
    settings: ReplicaSettings
    clock: StoreClock
    monotonic: Clock
    observer: Observer
