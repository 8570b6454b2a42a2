"""The API server refuses the operator's requests with 429, by its priority and fairness, and the operator repeats them.

The operator shares a priority level with another user, whose one request takes as long as the test wants, because a
webhook admits it. The level has no room for a second one, so each of the operator is refused until the test lets go.
"""

from __future__ import annotations

import asyncio
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from aiohttp import web

from tests.cluster.crd.install import install
from tests.cluster.e2e.operators import PATIENCE, OperatorProcess, Sink, curl, granted, manifest, status_of, until
from tests.cluster.e2e.records import Records, create
from tests.cluster.harness import ApiError
from tests.cluster.harness.credentials import in_base64
from tests.cluster.pods_support import exited

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from tests.cluster.harness import ApiClient, ControlPlane

pytestmark = pytest.mark.cluster

FLOW = "/apis/flowcontrol.apiserver.k8s.io/v1"
WEBHOOKS = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
PODS = {"verbs": ["create"], "apiGroups": [""], "resources": ["pods"], "namespaces": ["*"]}
EVERYTHING = {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": True}
REQUESTS = "scheduledjob_api_requests_total"
CONTAINER = "{container: {image: localhost/x, command: [x]}}"
LIMITED = {
    "type": "Limited",
    "limited": {"nominalConcurrencyShares": 0, "lendablePercent": 0, "limitResponse": {"type": "Reject"}},
}


class Place(NamedTuple):
    cluster: ControlPlane
    api: ApiClient
    namespace: str

    @property
    def pods(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/pods"

    async def operator(self, dsn: str) -> OperatorProcess:
        kubeconfig = await granted(self.cluster, "operator", self.namespace, [self.namespace])
        flags = [f"--namespaces={self.namespace}", f"--store={dsn}", "--inline-http-allow=127.0.0.1"]
        return OperatorProcess(kubeconfig, self.namespace, *flags)

    async def no_room_for(self, rule: dict[str, Any]) -> None:
        """Let the users `operator` and `holder` make only one of these requests at a time."""
        metadata = {"name": "no-room"}
        await self.api.post(f"{FLOW}/prioritylevelconfigurations", {"metadata": metadata, "spec": LIMITED})
        users = [{"kind": "User", "user": {"name": name}} for name in ("operator", "holder")]
        rules = [{"subjects": users, "resourceRules": [rule]}]
        spec = {"priorityLevelConfiguration": metadata, "matchingPrecedence": 2, "rules": rules}
        await self.api.post(f"{FLOW}/flowschemas", {"metadata": metadata, "spec": spec})

    @asynccontextmanager
    async def full(self) -> AsyncIterator[None]:
        """Within, that one request is under way: every other is refused."""
        held, let_go = asyncio.Event(), asyncio.Event()

        async def review_late(request: web.Request) -> web.Response:
            asked = (await request.json())["request"]
            held.set()
            await let_go.wait()
            review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}
            return web.json_response(review | {"response": {"uid": asked["uid"], "allowed": False}})

        async with self._webhook(review_late), self.cluster.client(self.cluster.kubeconfig_for("holder")) as holder:
            holding = asyncio.create_task(self._hold(holder, held))
            try:
                await held.wait()
                yield
            finally:
                let_go.set()
                await holding

    async def _hold(self, holder: ApiClient, held: asyncio.Event) -> None:
        """Make the one request, again until the API server knows of the webhook and has its level for us."""
        body = {
            "metadata": {"generateName": "holder-", "labels": {"hold": "yes"}},
            "spec": {"containers": [{"name": "x", "image": "localhost/x"}]},
        }
        while not held.is_set():
            try:
                await holder.post(self.pods, body, dryRun="All")
            except ApiError as error:
                if error.status not in (400, 403, 429):  # refused by the webhook, not allowed yet, no room
                    raise
            await asyncio.sleep(0.05)

    @asynccontextmanager
    async def _webhook(self, review_late: Any) -> AsyncIterator[None]:
        authority = self.cluster.authority
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(*authority.issue_server("webhook", ["127.0.0.1"]))
        app = web.Application()
        app.router.add_post("/", review_late)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        hook = {
            "name": "hold.example.com",
            "clientConfig": {
                "url": f"https://127.0.0.1:{runner.addresses[0][1]}/",
                "caBundle": in_base64(authority.certificate.read_bytes()),
            },
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}],
            "objectSelector": {"matchLabels": {"hold": "yes"}},
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
            "timeoutSeconds": 30,
        }
        try:
            await self.api.post(WEBHOOKS, {"metadata": {"name": "hold"}, "webhooks": [hook]})
            yield
        finally:
            await self.api.delete(f"{WEBHOOKS}/hold")
            await runner.cleanup()


@pytest.fixture
async def place(own_cluster: ControlPlane) -> AsyncIterator[Place]:
    await install(own_cluster)
    namespace = await own_cluster.new_namespace()
    writer = ("--verb=create", "--resource=pods", "-n", namespace)
    await own_cluster.kubectl("create", "role", "holder", *writer)
    await own_cluster.kubectl("create", "rolebinding", "holder", "--role=holder", "--user=holder", "-n", namespace)
    async with own_cluster.client() as api:
        yield Place(own_cluster, api, namespace)


async def test_pods_are_made_later_and_each_once(place: Place, postgres_dsn: str) -> None:
    names = [f"pod-{number}" for number in range(12)]  # few, because a webhook holds a request for 30 s at most
    more = "  retry: {maxRetries: 0}\n"
    refused = {"verb": "create", "resource": "pods", "code": "429"}
    await place.no_room_for(PODS)
    async with await place.operator(postgres_dsn) as operator, Records(postgres_dsn, place.namespace) as records:
        async with place.full():
            await create(place.api, place.namespace, [manifest(name, "after: 0s", CONTAINER, more) for name in names])
            await operator.until_metric(REQUESTS, lambda count: count > len(names), **refused)
            assert await place.api.list(place.pods) == []
        for pod in await _pods(place, names):
            await place.api.patch(f"{place.pods}/{pod}/status", {"status": exited(0)})
        runs = await records.until_ended(len(names))
        assert {run.name for run in runs} == set(names)
        assert {(run.attempt, run.outcome) for run in runs} == {(1, "Succeeded")}
        assert len(await place.api.list(place.pods)) == len(names)


async def test_work_goes_on_while_every_request_is_refused(place: Place, postgres_dsn: str, sink: Sink) -> None:
    """Status comes later, and so does what was applied meanwhile, if the watch did not report it."""
    await place.no_room_for(EVERYTHING)
    async with await place.operator(postgres_dsn) as operator:
        await create(place.api, place.namespace, [manifest("steady", "every: 1s", curl(sink.url))])
        await sink.reached(lambda calls: len(calls) >= 1)
        async with place.full():
            before = len(sink.calls)
            await sink.reached(lambda calls: len(calls) >= before + 8)
            assert await operator.metric(REQUESTS, code="429") > 0
            assert (await operator.fetch("/healthz"))[0] == 200
            await create(place.api, place.namespace, [manifest("new", "after: 0s", curl(sink.url))])
        await until(place.api, place.namespace, "new", _succeeded)
        seen = len(sink.calls)
        await until(place.api, place.namespace, "steady", lambda body: _succeeded(body) >= seen)
        await operator.ready()
    assert len({call.run_id for call in sink.calls}) == len(sink.calls)
    assert {call.attempt for call in sink.calls} == {1}


def _succeeded(body: dict[str, Any]) -> int:
    return int((status_of(body).get("counters") or {}).get("succeeded", 0))


async def _pods(place: Place, names: Sequence[str]) -> set[str]:
    """The names of the Pods, when each of these ScheduledJobs has one."""
    found: dict[str, str] = {}
    async with asyncio.timeout(PATIENCE):
        async for event in place.api.watch(place.pods, labelSelector="scheduledjobs.dev/name"):
            metadata = event["object"]["metadata"]
            found[metadata["labels"]["scheduledjobs.dev/name"]] = metadata["name"]
            if found.keys() == set(names):
                break
    return set(found.values())
