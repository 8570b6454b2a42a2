"""The output of a Pod, with a log and Secrets that the test provides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from scheduledjob.jobs.container.pod_logs import output_of
from scheduledjob.jobs.container.pods_protocol import PodRefused, PodsUnavailable
from tests.jobs.container.pod_support import with_template

if TYPE_CHECKING:
    from collections.abc import Mapping

ENV = [{"name": "P", "valueFrom": {"secretKeyRef": {"name": "db", "key": "p"}}}]
POD = with_template({"containers": [{"name": "job", "env": ENV}]})
PLAIN = with_template({})


class PodsStub:
    """The part of the protocol that ``output_of`` needs."""

    def __init__(self, log: bytes | Exception, secrets: Mapping[str, Mapping[str, bytes]] | None = None) -> None:
        self._log = log
        self._secrets = secrets

    async def log(self, pod: Mapping[str, Any]) -> bytes:
        if isinstance(self._log, Exception):
            raise self._log
        return self._log

    async def secret(self, namespace: str, name: str) -> Mapping[str, bytes]:
        if self._secrets is None:
            raise PodRefused("no")
        return self._secrets.get(name, {})


async def kept(pods: PodsStub, pod: Mapping[str, Any] = POD) -> bytes:
    return await output_of(pods, pod)  # type: ignore[arg-type]  # the rest of the protocol is not used


async def test_values_of_the_jobs_secrets_are_masked() -> None:
    secrets = {"db": {"p": b"hunter2", "q": b"other"}}
    assert await kept(PodsStub(b"it is hunter2, other\n", secrets)) == b"it is ***, other\n"
    assert await kept(PodsStub(b"hunter2", {})) == b"hunter2"


async def test_output_is_left_out_if_a_secret_can_not_be_read() -> None:
    found = await kept(PodsStub(b"it is hunter2\n"))
    assert found == b"[the output is left out: Secret \"db\" can't be read, so its values can't be masked]\n"
    assert await kept(PodsStub(b"it is hunter2\n"), PLAIN) == b"it is hunter2\n"


async def test_the_end_is_kept_and_no_part_of_a_secret_or_a_character() -> None:
    secrets = {"db": {"p": b"S" * 100}}
    long = b"S" * 100 + b"x" * 4050
    found = await kept(PodsStub(long, secrets))
    assert found == b"***" + b"x" * 4050
    assert await kept(PodsStub("é".encode() * 4000 + b"x"), PLAIN) == "é".encode() * 2047 + b"x"


@pytest.mark.parametrize("error", [PodRefused("no"), PodsUnavailable("away")])
async def test_a_missing_log_is_not_an_error(error: Exception) -> None:
    assert await kept(PodsStub(error)) == b""
