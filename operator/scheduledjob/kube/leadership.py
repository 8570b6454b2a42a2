"""The Lease of an operator whose store is its own memory.

Two such operators would run everything twice, so one that has its store in memory works only while it holds a
coordination Lease, and an operator with any other store waits at its start until nobody does: that makes an upgrade
from memory to Postgres run nothing twice.

It is held as a run is: renewed at a third of its length, measured by our own monotonic clock from before each renewal
was sent. When it could have passed to another, this process has already ended, and its jobs with it. Other people's
clocks are never compared with ours: a Lease of somebody else has passed when we saw it unchanged for its whole length.

An end in order empties the holder, after status was brought up to date. So whoever comes next knows whether status
tells the whole truth. An operator with another store that has made use of that removes the holder altogether: from then
on it is in its store what has happened, and who finds that one empty must not take status for the whole truth again.

A holder is named after its process, so that no other is ever taken for it. Whoever finds the name of a process of its
own host that is there no more (a container that was started again) need not wait. Nor need whoever sees that the
kubelet itself took the holder's Pod away, after its containers had ended: an uninstall takes the rights to let go with
everything else. That a Pod is not there says nothing: one that was deleted by force, or whose node is gone, may run on.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from scheduledjob.kube.client.api_errors import AlreadyExists, ApiConflict, ApiError, NotFound

if TYPE_CHECKING:
    from collections.abc import Callable

    from scheduledjob.kube.client.api import Api, Params

log = structlog.get_logger("scheduledjob.lease")

CHECK_INTERVAL = 1.0
"""Seconds between two looks at a Lease that somebody else holds."""
MARGIN = 0.2
"""The part of the Lease that is kept for ending what runs."""


class MemoryLease:
    """A Lease of ``coordination.k8s.io``. All lengths are seconds."""

    def __init__(
        self,
        api: Api,
        namespace: str,
        name: str,
        holder: str,
        length: float,
        *,
        now: Callable[[], str],
        fence: Callable[[str], None],
        is_dead: Callable[[str], bool] = lambda _: False,
    ) -> None:
        """``now``: the wall clock as RFC 3339 with six digits, for people to read. ``fence`` ends the process.
        ``is_dead``: whether another holder is known to be no more."""
        self._api = api
        self._path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._pods = f"/api/v1/namespaces/{namespace}/pods"
        self._namespace = namespace
        self._name = name
        self._holder = holder
        self._length = length
        self._now = now
        self._fence = fence
        self._is_dead = is_dead
        self._version = ""
        self._deadline = 0.0
        self.in_order = False
        """Whether the last holder had let go of it, and status has been the newest since."""
        self.waits_for = ""
        """Who holds it, while we wait."""

    @property
    def ours_until(self) -> float:
        """Monotonic seconds until which nobody else can have it, less what is kept for ending what runs."""
        return self._deadline - self._length * MARGIN

    async def free(self) -> None:
        """Wait until nobody holds it; nobody can keep another from taking it after that."""
        there = await self._wait()
        self.in_order = _let_go(there)
        if there is not None:
            self._version = there["metadata"]["resourceVersion"]
        self.waits_for = ""

    async def used(self) -> None:
        """After ``free``, once another store knows all that status told: that its holder had let go counts no more."""
        while self.in_order:
            body = {"metadata": {"resourceVersion": self._version}, "spec": {"holderIdentity": None}}
            try:
                await self._api.patch(f"{self._path}/{self._name}", body)
            except (ApiConflict, NotFound):
                pass  # another replica has done it, or somebody holds it
            except ApiError as error:
                self._cannot("changed", error)
                await asyncio.sleep(CHECK_INTERVAL)
                continue
            self.in_order = False

    async def take(self) -> None:
        """Wait until nobody holds it, and hold it; ``hold`` must follow at once."""
        while True:
            there = await self._wait()
            sent = time.monotonic()
            try:
                if there is None:
                    lease = await self._api.post(self._path, {"metadata": {"name": self._name}, "spec": self._spec()})
                else:
                    body = {"metadata": {"resourceVersion": there["metadata"]["resourceVersion"]}, "spec": self._spec()}
                    lease = await self._api.patch(f"{self._path}/{self._name}", body)
            except (ApiConflict, AlreadyExists, NotFound):
                continue
            except ApiError as error:
                self._cannot("taken", error)
                await asyncio.sleep(CHECK_INTERVAL)
                continue
            self._version = lease["metadata"]["resourceVersion"]
            self._deadline = sent + self._length
            self.in_order = _let_go(there)
            self.waits_for = ""
            return

    async def hold(self) -> None:
        """Renew until cancelled; ends the process before the Lease can pass to another."""
        last_call = self._length * MARGIN
        while True:
            await asyncio.sleep(self._length / 3)
            while True:
                left = self._deadline - last_call - time.monotonic()
                if left <= 0:
                    self._fence(f"the Lease {self._namespace}/{self._name} could not be renewed in {self._length:g} s")
                    return
                try:
                    async with asyncio.timeout(left):
                        await self._renew()
                    break
                except ApiConflict:
                    self._fence(f"the Lease {self._namespace}/{self._name} was taken by somebody else")
                    return
                except (ApiError, TimeoutError) as error:
                    log.warning("the Lease could not be renewed yet", error=str(error), seconds_left=round(left, 1))
                    await asyncio.sleep(min(CHECK_INTERVAL, max(0.0, left)))

    async def release(self) -> None:
        """Let go of it: whoever waits for it need not wait for its end."""
        await self._write({"holderIdentity": ""})

    async def _renew(self) -> None:
        """Raises ApiConflict where it is another's."""
        sent = time.monotonic()
        await self._write({"renewTime": self._now()})
        self._deadline = sent + self._length

    async def _write(self, spec: dict[str, Any]) -> None:
        """Change what is ours. Raises ApiConflict where it is another's."""
        while True:
            body = {"metadata": {"resourceVersion": self._version}, "spec": spec}
            try:
                lease = await self._api.patch(f"{self._path}/{self._name}", body, attempts=1)
            except ApiConflict:
                # Ours all the same, if an earlier write was carried out and its answer lost.
                lease = await self._api.get(f"{self._path}/{self._name}", attempts=1)
                if _holder(lease) != self._holder:
                    raise
                self._version = lease["metadata"]["resourceVersion"]
                continue
            self._version = lease["metadata"]["resourceVersion"]
            return

    async def _wait(self) -> dict[str, Any] | None:
        """The Lease, once nobody holds it; None where there is none."""
        seen, since, ended = "", 0.0, ""
        while True:
            try:
                lease: dict[str, Any] = await self._api.get(f"{self._path}/{self._name}", attempts=1)
            except NotFound:
                return None
            except ApiError as error:
                self._cannot("read", error)
                await asyncio.sleep(CHECK_INTERVAL)
                continue
            holder = _holder(lease)
            if not holder or holder in (self._holder, ended) or self._is_dead(holder):
                return lease
            version = lease["metadata"]["resourceVersion"]
            if version != seen:
                seen, since = version, time.monotonic()
            elif time.monotonic() - since >= lease["spec"].get("leaseDurationSeconds", self._length):
                return lease
            if self.waits_for != holder:
                self.waits_for = holder
                log.info("waiting for an operator whose store is its memory", holder=holder, lease=self._name)
            if await self._seen_to_end(holder, version):
                log.info("its holder has ended with its Pod: the Lease is free", holder=holder, lease=self._name)
                ended = holder  # unless somebody has taken it meanwhile

    async def _seen_to_end(self, holder: str, version: str) -> bool:
        """Look for a second; whether the holder's Pod has ended since it wrote that version of the Lease.

        The API server tells again what it has told since then, so an end of which nobody was a witness counts, too.
        """
        pod = holder.rpartition("/")[0]
        watched: Params = {"fieldSelector": f"metadata.name={pod}", "resourceVersion": version, "timeoutSeconds": 1}
        since = time.monotonic()
        try:
            if pod:
                async with (
                    asyncio.timeout(2 * CHECK_INTERVAL),
                    aclosing(self._api.watch(self._pods, watched)) as events,
                ):
                    async for event in events:
                        if event["type"] == "DELETED" and _ended_by_kubelet(event["object"]):
                            return True
        except (ApiError, TimeoutError):
            pass  # not allowed, forgotten by now, away: then it is waited for
        await asyncio.sleep(max(0.0, CHECK_INTERVAL - (time.monotonic() - since)))
        return False

    def _cannot(self, be: str, error: ApiError) -> None:
        log.warning(f"the Lease can't be {be}", lease=f"{self._namespace}/{self._name}", error=str(error))

    def _spec(self) -> dict[str, Any]:
        now = self._now()
        return {
            "holderIdentity": self._holder,
            "leaseDurationSeconds": round(self._length),
            "acquireTime": now,
            "renewTime": now,
        }


def _ended_by_kubelet(pod: dict[str, Any]) -> bool:
    """Whether all containers had ended, as only the kubelet can know, in the last that was heard of a Pod.

    Its name was made up for it, so that no other Pod has had it. A kubelet that could not find a container says that it
    does not know how that ended.
    """
    containers = pod.get("status", {}).get("containerStatuses", [])
    ends = [container.get("state", {}).get("terminated") or {} for container in containers]
    known = [end.get("containerID") and end.get("reason") != "ContainerStatusUnknown" for end in ends]
    return "generateName" in pod["metadata"] and bool(known) and all(known)


def _holder(lease: dict[str, Any]) -> str:
    return lease["spec"].get("holderIdentity") or ""


def _let_go(lease: dict[str, Any] | None) -> bool:
    """Whether its holder did, and nothing has been made of it since."""
    return lease is not None and lease["spec"].get("holderIdentity") == ""


def this_process() -> str:
    """A name for this process that no other has: ``host/pid.start``."""
    return f"{socket.gethostname()}/{os.getpid()}.{_started(os.getpid())}"


def is_dead(holder: str) -> bool:
    """Whether this is the name of a process that was on this host and is there no more."""
    host, _, process = holder.rpartition("/")
    pid, _, started = process.partition(".")
    return host == socket.gethostname() and pid.isdigit() and _started(int(pid)) != started


def _started(pid: int) -> str:
    """When a process began, in ticks since the start of its machine; empty where there is none, or no ``/proc``."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]
