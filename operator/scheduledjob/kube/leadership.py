"""The Lease that keeps two operators with a store in memory from running the same jobs.

An operator whose store is in memory works only while it holds a coordination Lease. An operator with any other store
waits at its start until no operator holds the Lease, so an upgrade from memory to Postgres runs nothing twice.

The holder renews the Lease at a third of its duration. It measures with its own boot clock, from the moment before
each renewal was sent, and exits with its jobs before the Lease can pass to another operator. The clocks of different
machines are never compared: an operator takes over a Lease that it has seen unchanged for its whole duration.

``holderIdentity`` says how the last holder ended:

- A name: the holder still works, or it crashed. Its last statuses may be missing.
- Empty: the holder released the Lease after it had written every status, so the next operator can trust them.
- Absent: an operator with another store has read those statuses. From then on only its store counts, and an operator
  that finds the store empty must not trust the statuses again.

A holder is named after its process, so no two holders share a name. An operator does not wait for the whole duration if

- the holder is a process of this host that has ended, because a container was restarted;
- the kubelet deleted the holder's Pod after its containers had ended. That happens when the chart is uninstalled,
  because the permission to release the Lease is deleted as well.

The absence of a Pod proves nothing: a Pod that was deleted by force, or whose node is lost, may still run.
"""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from scheduledjob.engine.clock import boot_seconds
from scheduledjob.kube.client.api_errors import AlreadyExists, ApiConflict, ApiError, NotFound

if TYPE_CHECKING:
    from collections.abc import Callable

    from scheduledjob.kube.client.api import Api, Params

log = structlog.get_logger("scheduledjob.lease")

CHECK_INTERVAL = 1.0
"""Seconds between two checks of a Lease that another operator holds."""
MARGIN = 0.2
"""The share of the duration that is reserved for stopping what runs."""


class LeaseObject:
    """One Lease of ``coordination.k8s.io`` in the API server. Its methods raise ApiError."""

    def __init__(self, api: Api, namespace: str, name: str) -> None:
        self._api = api
        self._leases_path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._pods_path = f"/api/v1/namespaces/{namespace}/pods"
        self.name = name
        self.full_name = f"{namespace}/{name}"
        self._path = f"{self._leases_path}/{name}"

    async def read(self) -> dict[str, Any]:
        lease: dict[str, Any] = await self._api.get(self._path, attempts=1)
        return lease

    async def create(self, spec: dict[str, Any]) -> str:
        """Return the new resourceVersion."""
        return _version_of(await self._api.post(self._leases_path, {"metadata": {"name": self.name}, "spec": spec}))

    async def patch(self, version: str, spec: dict[str, Any]) -> str:
        """Change this version of the Lease. Return the new resourceVersion."""
        body = {"metadata": {"resourceVersion": version}, "spec": spec}
        return _version_of(await self._api.patch(self._path, body, attempts=1))

    async def watch_holders_pod(self, holder: str, version: str) -> bool:
        """Watch the holder's Pod for a second. Return whether it has ended since this version of the Lease.

        The API server repeats the events since that version, so the operator need not be watching when the Pod ends.
        """
        pod = holder.rpartition("/")[0]
        params: Params = {"fieldSelector": f"metadata.name={pod}", "resourceVersion": version, "timeoutSeconds": 1}
        started = boot_seconds()
        try:
            if pod:
                async with (
                    asyncio.timeout(2 * CHECK_INTERVAL),
                    aclosing(self._api.watch(self._pods_path, params)) as events,
                ):
                    async for event in events:
                        if event["type"] == "DELETED" and _was_ended_by_kubelet(event["object"]):
                            return True
        except (ApiError, TimeoutError):
            pass  # not allowed, too old, or unavailable: the caller waits until the Lease expires
        await asyncio.sleep(max(0.0, CHECK_INTERVAL - (boot_seconds() - started)))
        return False


class MemoryLease:
    """This operator's view of the Lease. All lengths are seconds."""

    def __init__(
        self,
        lease: LeaseObject,
        holder: str,
        duration: float,
        *,
        now: Callable[[], str],
        fence: Callable[[str], None],
        is_dead: Callable[[str], bool] = lambda _: False,
    ) -> None:
        """``holder`` is the name of this process. ``now`` returns the wall clock in RFC 3339 with six digits, for
        people to read. ``fence`` ends the process. ``is_dead`` returns whether another holder is known to have ended.
        """
        self._lease = lease
        self._holder = holder
        self._duration = duration
        self._now = now
        self._fence = fence
        self._is_dead = is_dead
        self._version = ""
        self._deadline = 0.0
        self.released_cleanly = False
        """Whether the last holder released the Lease, and status is still the newest record of what has run."""
        self.other_holder = ""
        """The holder that this operator waits for; empty if it does not wait."""

    def safe_until(self) -> float:
        """Return the monotonic second until which no other operator can hold the Lease, less the margin."""
        return self._deadline - self._duration * MARGIN

    async def wait_until_free(self) -> None:
        """Wait until no operator holds the Lease. Another operator may take it after that."""
        found = await self._wait()
        self.released_cleanly = _is_released(found)
        if found is not None:
            self._version = _version_of(found)
        self.other_holder = ""

    async def clear_release(self) -> None:
        """Remove the mark that the last holder released the Lease: this operator's store has all that status said."""
        while self.released_cleanly:
            try:
                await self._lease.patch(self._version, {"holderIdentity": None})
            except (ApiConflict, NotFound):
                pass  # another replica has removed the mark, or another operator holds the Lease
            except ApiError as error:
                self._warn("can't be changed", error)
                await asyncio.sleep(CHECK_INTERVAL)
                continue
            self.released_cleanly = False

    async def acquire(self) -> None:
        """Wait until no operator holds the Lease, then take it. Call ``keep`` at once."""
        while True:
            found = await self._wait()
            sent_at = boot_seconds()
            try:
                if found is None:
                    self._version = await self._lease.create(self._new_spec())
                else:
                    self._version = await self._lease.patch(_version_of(found), self._new_spec())
            except (ApiConflict, AlreadyExists, NotFound):
                continue
            except ApiError as error:
                self._warn("can't be taken", error)
                await asyncio.sleep(CHECK_INTERVAL)
                continue
            self._deadline = sent_at + self._duration
            self.released_cleanly = _is_released(found)
            self.other_holder = ""
            return

    async def keep(self) -> None:
        """Renew until cancelled. End the process before the Lease can pass to another operator."""
        while True:
            await asyncio.sleep(self._duration / 3)
            while True:
                left = self.safe_until() - boot_seconds()
                if left <= 0:
                    self._fence(f"the Lease {self._lease.full_name} could not be renewed in {self._duration:g} s")
                    return
                try:
                    async with asyncio.timeout(left):
                        await self._renew()
                    break
                except ApiConflict:
                    self._fence(f"the Lease {self._lease.full_name} was taken by somebody else")
                    return
                except (ApiError, TimeoutError) as error:
                    log.warning("the Lease could not be renewed yet", error=str(error), seconds_left=round(left, 1))
                    await asyncio.sleep(min(CHECK_INTERVAL, max(0.0, left)))

    async def release(self) -> None:
        """Release the Lease, so that the next operator can start at once."""
        await self._write({"holderIdentity": ""})

    async def _renew(self) -> None:
        """Raises ApiConflict if another operator has the Lease."""
        sent_at = boot_seconds()
        await self._write({"renewTime": self._now()})
        self._deadline = sent_at + self._duration

    async def _write(self, spec: dict[str, Any]) -> None:
        """Change our own Lease. Raises ApiConflict if another operator has it."""
        while True:
            try:
                self._version = await self._lease.patch(self._version, spec)
            except ApiConflict:
                # It is still ours if an earlier write succeeded and its answer was lost.
                found = await self._lease.read()
                if _holder_of(found) != self._holder:
                    raise
                self._version = _version_of(found)
            else:
                return

    async def _wait(self) -> dict[str, Any] | None:
        """Wait until no operator holds the Lease. Return it, or None if it does not exist."""
        seen_version, seen_at, ended_holder = "", 0.0, ""
        while True:
            try:
                lease = await self._lease.read()
            except NotFound:
                return None
            except ApiError as error:
                self._warn("can't be read", error)
                await asyncio.sleep(CHECK_INTERVAL)
                continue
            holder, version = _holder_of(lease), _version_of(lease)
            if not holder or holder in (self._holder, ended_holder) or self._is_dead(holder):
                return lease
            if version != seen_version:
                seen_version, seen_at = version, boot_seconds()
            elif boot_seconds() - seen_at >= lease["spec"].get("leaseDurationSeconds", self._duration):
                return lease
            if self.other_holder != holder:
                self.other_holder = holder
                log.info("waiting for another operator with a store in memory", holder=holder, lease=self._lease.name)
            if await self._lease.watch_holders_pod(holder, version):
                log.info("the Lease is free: its holder's Pod has ended", holder=holder, lease=self._lease.name)
                ended_holder = holder  # read the Lease again: another operator may have taken it

    def _warn(self, problem: str, error: ApiError) -> None:
        log.warning(f"the Lease {problem}", lease=self._lease.full_name, error=str(error))

    def _new_spec(self) -> dict[str, Any]:
        now = self._now()
        return {
            "holderIdentity": self._holder,
            "leaseDurationSeconds": round(self._duration),
            "acquireTime": now,
            "renewTime": now,
        }


def _was_ended_by_kubelet(pod: dict[str, Any]) -> bool:
    """Whether the last state of a deleted Pod says that all its containers had ended, which only the kubelet knows.

    A generated name proves that no other Pod had the same name. A kubelet that could not find a container reports
    ContainerStatusUnknown: that container may still run.
    """
    statuses = pod.get("status", {}).get("containerStatuses", [])
    ends = [container.get("state", {}).get("terminated") or {} for container in statuses]
    known = [end.get("containerID") and end.get("reason") != "ContainerStatusUnknown" for end in ends]
    return "generateName" in pod["metadata"] and bool(known) and all(known)


def _version_of(lease: dict[str, Any]) -> str:
    version: str = lease["metadata"]["resourceVersion"]
    return version


def _holder_of(lease: dict[str, Any]) -> str:
    return lease["spec"].get("holderIdentity") or ""


def _is_released(lease: dict[str, Any] | None) -> bool:
    """Whether the last holder released the Lease, and no operator with another store has removed that mark."""
    return lease is not None and lease["spec"].get("holderIdentity") == ""


def this_process() -> str:
    """Return a name for this process that no other process has: ``host/pid.start``."""
    return f"{socket.gethostname()}/{os.getpid()}.{start_time_of(os.getpid())}"


def is_dead(holder: str) -> bool:
    """Return whether this is the name of a process of this host that has ended."""
    host, _, process = holder.rpartition("/")
    pid, _, started = process.partition(".")
    return host == socket.gethostname() and pid.isdigit() and start_time_of(int(pid)) != started


def start_time_of(pid: int) -> str:
    """Return when a process started, in clock ticks since boot; empty if there is no such process or no ``/proc``."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]
