"""Keeps the schedules in the store in step with manifest files, even while the files change.

The files are the desired state. A new or changed document is put into the store. A document that disappears from its
file ends its schedule. A document that is rejected leaves the schedule of its last valid version as it is. A schedule
that somebody else wrote (a program through the library, an operator) is never touched, whatever its name.

Several processes may do this with the same files and one store: an unchanged document leaves its row alone, so the
second process, or the same one after a restart, changes nothing.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import msgspec

from scheduledjob.cli.shared.command_errors import in_one_line
from scheduledjob.domain.schedule.machine import first_state, first_wake
from scheduledjob.domain.schedule.plan import Plan, slots_of
from scheduledjob.domain.triggers.following import FollowingTrigger
from scheduledjob.engine.store import Put, Store
from scheduledjob.engine.stored_row import NewRow, Origin, Row
from scheduledjob.engine.threads import wait_apart
from scheduledjob.jobs.job_registry import stored_kind
from scheduledjob.manifests.loader import Loaded, LoadedJob, load
from scheduledjob.manifests.manifest_references import ManifestReferences
from scheduledjob.manifests.problems import plain
from scheduledjob.manifests.translate import needs_pod, payload_of, to_definition

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from scheduledjob.domain.schedule.definition import Definition
    from scheduledjob.domain.time.instants import Instant
    from scheduledjob.manifests.models import ConfigMap, ScheduledJob, Secret
    from scheduledjob.manifests.problems import Problem

PAGE = 1000
STORED_PREFIX = "manifest"
"""The prefix of the names that kinds of manifest files have in the store."""


class ChangeListener(Protocol):
    """Receives what this process itself changes in the store; a replica, for example."""

    def due(self, instant: Instant) -> None: ...

    def changed(self, slugs: Sequence[str]) -> None: ...


@dataclass(frozen=True, slots=True)
class _DesiredSchedule:
    """The schedule that one document describes."""

    file: str
    line: int
    kind: str
    definition: str
    payload: bytes | None
    plan: Plan = field(compare=False)

    @property
    def content(self) -> tuple[str, bytes | None]:
        return (self.definition, self.payload)


class FileSchedules:
    """The schedules of some manifests in one store."""

    def __init__(
        self, paths: Sequence[str], store: Store, kinds: Collection[str], say: Callable[[str], object]
    ) -> None:
        """``say`` receives a line for each document that is rejected or ignored."""
        self._paths = paths
        self._store = store
        self._kinds = kinds
        self._say = say
        self._reported: set[str] = set()
        self._applied: dict[str, _DesiredSchedule] = {}
        """By slug: what this process put into the store."""
        self._followers: dict[str, list[str]] = {}
        """By slug: the slugs of the jobs that follow it."""
        self._secrets: dict[tuple[str, str], Secret] = {}
        self._config_maps: dict[tuple[str, str], ConfigMap] = {}
        self.references = ManifestReferences({}, {})
        self.on_put: Callable[[str, Instant | None], object] = lambda slug, wake_at: None
        """Called with each slug that was put, and when it is due if that is known."""
        self.on_end: Callable[[str], object] = lambda slug: None

    @property
    def count(self) -> int:
        return len(self._applied)

    def followers(self, slug: str) -> Sequence[str]:
        """Return the slugs of the jobs that follow this one."""
        return self._followers.get(slug, ())

    async def begin(self, *, prune: bool) -> None:
        """Read the files and put their schedules; with ``prune``, first remove those that are in no file any more."""
        loaded, desired_by_slug, rejected = await self._read()
        if prune:
            await self._prune(desired_by_slug.keys() | rejected, loaded.problems)
        await self._put(desired_by_slug, None)
        self._find_followers()

    async def update(self, replica: ChangeListener) -> None:
        """Read the files again and apply what changed.

        Raises ``StoreError`` if the store can't be reached; another call then applies the rest.
        """
        loaded, desired_by_slug, rejected = await self._read()
        gone = [
            slug
            for slug, desired in self._applied.items()
            if slug not in desired_by_slug
            and slug not in rejected
            and not any(_may_be(problem, slug, desired.file) for problem in loaded.problems)
        ]
        changed = {
            slug: desired
            for slug, desired in desired_by_slug.items()
            if slug not in self._applied or self._applied[slug].content != desired.content
        }
        self._applied |= {slug: desired for slug, desired in desired_by_slug.items() if slug not in changed}
        await self._end(gone, replica)
        await self._put(changed, replica)
        self._find_followers()

    def _find_followers(self) -> None:
        self._followers = {}
        for slug, desired in self._applied.items():
            namespace, _, _ = slug.partition("/")
            for trigger in desired.plan.definition.triggers:
                if isinstance(trigger, FollowingTrigger):
                    self._followers.setdefault(f"{namespace}/{trigger.name}", []).append(slug)

    # ---------------------------------------------------------------- reading

    async def _read(self) -> tuple[Loaded, dict[str, _DesiredSchedule], set[str]]:
        """Read the files. Returns what was loaded, the desired schedules, and the slugs of jobs that can't run here."""
        loaded = await wait_apart(load, self._paths)
        lines = [str(problem) for problem in loaded.problems] + loaded.ignored
        desired_by_slug: dict[str, _DesiredSchedule] = {}
        rejected: set[str] = set()
        for (namespace, name), found in loaded.jobs.items():
            slug = f"{namespace}/{name}"
            reason = self._cannot_run(found)
            if reason is None:
                try:
                    desired_by_slug[slug] = _desired(found, slug)
                except ValueError as error:
                    reason = in_one_line(error)
            if reason is not None:
                rejected.add(slug)
                lines.append(f"{plain(found.file)}:{found.line}: {reason}")
        for line in lines:
            if line not in self._reported:
                self._say(line)
        self._reported = set(lines)
        self._refer(loaded)
        return loaded, desired_by_slug, rejected

    def _cannot_run(self, found: LoadedJob) -> str | None:
        """Return why a valid job can't run here and what to do, or None."""
        job = found.job
        pod = needs_pod(job)
        if pod is not None:
            return f"{job.metadata.name} needs a Pod (spec.{pod}): run it in a cluster, or make it an inline job"
        custom = job.spec.job.custom
        if custom is not None and _kind_of(custom.kind) not in self._kinds:
            return (
                f'spec.job.custom.kind: there is no job "{plain(custom.kind)}": install the package that provides '
                f"it and add --plugins (known: {', '.join(self._known())})"
            )
        return None

    def _known(self) -> list[str]:
        prefix = _kind_of("")
        return sorted(kind.removeprefix(prefix) for kind in self._kinds if kind.startswith(prefix))

    def _refer(self, loaded: Loaded) -> None:
        """Let references resolve to what the files contain now. A rejected Secret keeps its last valid values."""
        unclear = any(problem.job is None for problem in loaded.problems)
        rejected = {problem.job for problem in loaded.problems}
        kept_secrets = {key: kept for key, kept in self._secrets.items() if unclear or key in rejected}
        kept_maps = {key: kept for key, kept in self._config_maps.items() if unclear or key in rejected}
        self._secrets = {**kept_secrets, **loaded.secrets}
        self._config_maps = {**kept_maps, **loaded.config_maps}
        self.references.replace(self._secrets, self._config_maps)

    # ---------------------------------------------------------------- writing

    async def _put(self, desired_by_slug: dict[str, _DesiredSchedule], replica: ChangeListener | None) -> None:
        slugs = list(desired_by_slug)
        for start in range(0, len(slugs), PAGE):
            page = slugs[start : start + PAGE]
            there = dict(zip(page, await self._store.get(page), strict=True))
            mine = [slug for slug in page if self._is_free(slug, there[slug], desired_by_slug[slug])]
            now = await self._store.now()
            rows = [_new_row(slug, desired_by_slug[slug], now) for slug in mine]
            puts = await self._store.put(rows, replace=True)
            for slug, row, put in zip(mine, rows, puts, strict=True):
                self._applied[slug] = desired_by_slug[slug]
                old = there[slug]
                self.on_put(slug, row.wake_at if put is Put.CREATED or old is None else old.wake_at)
            if replica is not None and rows:
                replica.changed([slug for slug, put in zip(mine, puts, strict=True) if put is Put.UPDATED])
                replica.due(min([now, *(row.wake_at for row in rows if row.wake_at is not None)]))

    def _is_free(self, slug: str, there: Row | None, desired: _DesiredSchedule) -> bool:
        if there is None or there.origin == Origin.MANIFEST.value:
            return True
        whose = "a program through the library" if there.origin == Origin.LIBRARY.value else "an operator"
        self._say(
            f"{plain(desired.file)}:{desired.line}: metadata.name: {slug} is scheduled by {whose} in this "
            "installation: choose another name, or another --instance"
        )
        return False

    async def _end(self, slugs: Sequence[str], replica: ChangeListener) -> None:
        if slugs:
            await self._store.delete(slugs)
            replica.changed(slugs)
        for slug in slugs:
            del self._applied[slug]
            self.on_end(slug)

    async def _prune(self, named: Collection[str], problems: Iterable[Problem]) -> None:
        """End the schedules of manifests that are in no file. A file that can't be read may contain any of them."""
        unclear = next((problem for problem in problems if problem.job is None), None)
        if unclear is not None:
            self._say(f"--prune ends nothing: {plain(unclear.file)} can't be read, and the missing jobs may be in it")
            return
        rejected = {f"{problem.job[0]}/{problem.job[1]}" for problem in problems if problem.job is not None}
        after = ""
        while page := await self._store.rows(origin=Origin.MANIFEST, after=after, limit=PAGE):
            gone = [row.slug for row in page if row.slug not in named and row.slug not in rejected]
            if gone:
                await self._store.delete(gone)
            after = page[-1].slug


def _desired(found: LoadedJob, slug: str) -> _DesiredSchedule:
    """Return the desired schedule of a document. Raises ``ValueError`` for faults that only its plan shows."""
    definition = _definition_of(found.job)
    plan = Plan(definition)
    slots_of(plan, seed=slug, created=0)
    return _DesiredSchedule(found.file, found.line, definition.kind, definition.encode(), payload_of(found.job), plan)


def _new_row(slug: str, desired: _DesiredSchedule, now: Instant) -> NewRow:
    definition = desired.plan.definition
    uid = str(uuid.uuid4())
    state = first_state(definition, slots_of(desired.plan, seed=slug, created=now), uid, now)
    wake = first_wake(definition, state, now)
    return NewRow(
        slug, uid, desired.kind, Origin.MANIFEST, desired.definition, state.encode(), wake, None, desired.payload, now
    )


def _may_be(problem: Problem, slug: str, file: str) -> bool:
    """Return whether a rejected document may be the one that this schedule came from."""
    if problem.job is not None:
        return f"{problem.job[0]}/{problem.job[1]}" == slug
    return file == problem.file or file.startswith(problem.file.rstrip("/") + "/")


def _kind_of(kind: str) -> str:
    """Return the name of a kind in the store, such as ``manifest.shell`` or ``manifest.custom.report``."""
    return stored_kind(STORED_PREFIX, kind)


def _definition_of(job: ScheduledJob) -> Definition:
    """Return the definition of a manifest, whose kind has its name in the store."""
    definition = to_definition(job)
    return msgspec.structs.replace(definition, kind=_kind_of(definition.kind))
