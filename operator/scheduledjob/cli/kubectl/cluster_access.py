"""Access to the cluster: which cluster and namespace are meant, and what to say when a request fails.

A command is one coroutine over an open ``Cluster``, which ``Where.run`` runs. Whatever the API server refuses becomes a
``CommandError``: one line that names what was asked for and what to do.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from scheduledjob.cli.shared.command_errors import CommandError, in_one_line, lone
from scheduledjob.cli.shared.formats import printable
from scheduledjob.cli.shared.objects import Object, key_of
from scheduledjob.extras import needs_extra
from scheduledjob.resource_names import API_VERSION, KIND, RESOURCE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from scheduledjob.kube.client.api import Api

T = TypeVar("T")

MANAGER = "kubectl-scheduledjob"
"""The field manager of everything that the plugin writes."""
ATTEMPTS = 2
"""Attempts of each request: few, because a person is waiting."""
SECONDS = 20.0
"""Time limit of each attempt."""
PAGE = 500
NO_NAME_EVERYWHERE = "-A can't be combined with a name, because names are unique in a namespace only: use -n NAMESPACE"


_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


class Missing(CommandError):
    """There is no object with this name."""

    def __init__(self, kind: str, names: Sequence[str], namespace: str) -> None:
        listing = "kubectl scheduledjob list -A" if kind == KIND else "kubectl get cronjobs -A"
        quoted = ", ".join(f'"{name}"' for name in names)
        super().__init__(f'there is no {kind} {quoted} in namespace "{namespace}" ({listing} shows all)')


@dataclass(frozen=True, slots=True)
class Where:
    """The options that select the cluster and the objects."""

    namespace: str | None = None
    everywhere: bool = False
    selector: str | None = None
    context: str | None = None
    kubeconfig: str | None = None

    def run(self, work: Callable[[Cluster], Awaitable[T]]) -> T:
        """Connect, do the work, disconnect. Raises CommandError for whatever the API server refuses."""
        with needs_extra("kube", "kubectl scheduledjob needs the kubernetes package"):
            from scheduledjob.kube.client.access import ConfigError
        from scheduledjob.kube.client.api_errors import ApiError

        try:
            return asyncio.run(self._run(work))
        except ConfigError as error:
            raise CommandError(in_one_line(error)) from None
        except ApiError as error:
            raise CommandError(in_words(error)) from None
        except BaseExceptionGroup as group:
            alone = lone(group)
            if isinstance(alone, ApiError):
                raise CommandError(in_words(alone)) from None
            if isinstance(alone, CommandError):
                raise alone from None
            raise

    async def _run(self, work: Callable[[Cluster], Awaitable[T]]) -> T:
        from scheduledjob.kube.client.api import Api

        async with Api.from_config(self.kubeconfig, self.context) as api:
            return await work(Cluster(api, self))


class Cluster:
    """A connection to the API server, and the namespace that is meant."""

    def __init__(self, api: Api, where: Where) -> None:
        self.api = api
        self.where = where
        self.namespace = _checked(where.namespace or api.access.namespace, "a namespace")
        """The namespace of an object that is named."""

    async def job(self, name: str) -> Object:
        """Return a ScheduledJob by its name. Raises CommandError if there is none."""
        from scheduledjob.kube.client.paths import scheduled_jobs

        if self.where.everywhere:
            raise CommandError(NO_NAME_EVERYWHERE, 2)
        return await self._named(scheduled_jobs(self.namespace, _checked(name, "a ScheduledJob")), KIND, name)

    async def each(self, names: Sequence[str], act: Callable[[Object], Awaitable[None]]) -> None:
        """Call ``act`` with each ScheduledJob that exists, then raise CommandError for the missing ones."""
        missing = []
        for name in dict.fromkeys(names):
            try:
                body = await self.job(name)
            except Missing:
                missing.append(name)
            else:
                await act(body)
        if missing:
            raise Missing(KIND, missing, self.namespace)

    async def jobs(self) -> list[Object]:
        """Return the ScheduledJobs that the options select, sorted by namespace and name."""
        from scheduledjob.kube.client.paths import scheduled_jobs

        found = await self.all(scheduled_jobs("" if self.where.everywhere else self.namespace))
        for body in found:  # items of a list leave these out
            body |= {"apiVersion": API_VERSION, "kind": KIND}
        return found

    async def cronjobs(self, names: Sequence[str]) -> list[Object]:
        """Return the CronJobs with these names; without names, those that the options select."""
        root, everywhere = "/apis/batch/v1", self.where.everywhere
        if names:
            path = f"{root}/namespaces/{self.namespace}/cronjobs"
            return [await self._named(f"{path}/{_checked(name, 'a CronJob')}", "CronJob", name) for name in names]
        found = await self.all(f"{root}/cronjobs" if everywhere else f"{root}/namespaces/{self.namespace}/cronjobs")
        for body in found:
            body |= {"apiVersion": "batch/v1", "kind": "CronJob"}
        return found

    async def all(self, path: str, **params: str) -> list[Object]:
        """Return every item below a path that matches the selector."""
        from scheduledjob.kube.client.api_errors import BadRequest

        query: dict[str, str | int] = {"limit": PAGE, **params}
        if self.where.selector:
            query["labelSelector"] = self.where.selector
        found: list[Object] = []
        while True:
            try:
                page = await self.get(path, query)
            except BadRequest as error:
                if not self.where.selector:
                    raise
                raise CommandError(f'--selector "{self.where.selector}": {in_one_line(error)}', 2) from None
            found += page["items"]
            if not (token := page["metadata"].get("continue")):
                return sorted(found, key=key_of)
            query["continue"] = token

    async def get(self, path: str, query: Mapping[str, str | int] | None = None) -> Any:
        return await self.api.request("GET", path, params=query, seconds=SECONDS, attempts=ATTEMPTS)

    async def patch(self, name: str, body: Object) -> Object:
        """Merge ``body`` into a ScheduledJob and return the changed object."""
        from scheduledjob.kube.client.api_errors import NotFound
        from scheduledjob.kube.client.paths import scheduled_jobs

        path = scheduled_jobs(self.namespace, name)
        try:
            changed: Object = await self.api.patch(path, body, {"fieldManager": MANAGER}, attempts=ATTEMPTS)
        except NotFound as error:
            raise self._missing(error, KIND, name) from None
        return changed

    async def _named(self, path: str, kind: str, name: str) -> Object:
        from scheduledjob.kube.client.api_errors import NotFound

        try:
            found: Object = await self.get(path)
        except NotFound as error:
            raise self._missing(error, kind, name) from None
        return found

    def _missing(self, error: Any, kind: str, name: str) -> CommandError:
        if not error.details.get("name"):
            return CommandError(in_words(error))
        return Missing(kind, [name], self.namespace)


def _checked(name: str, of_what: str) -> str:
    """Return a name that is safe in a path of the API. Raises CommandError for any other."""
    if not _NAME.fullmatch(name):
        allowed = 'lower-case letters, digits, "-" and ".", at most 253 characters'
        raise CommandError(f"{printable(name)!r} can't be the name of {of_what}: use {allowed}", 2)
    return name


def in_words(error: Any) -> str:
    """Return an error of the API server in one line."""
    from scheduledjob.kube.client.api_errors import NotFound, Unauthorized

    if isinstance(error, NotFound) and not error.details.get("name"):
        return (
            f"the cluster knows no ScheduledJobs: install the operator, or its CRD ({RESOURCE}); "
            "kubectl config current-context shows which cluster this is"
        )
    if isinstance(error, Unauthorized):
        return f"the API server does not accept the credentials: {in_one_line(error)}"
    return in_one_line(error)
