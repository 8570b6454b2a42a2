"""Generated manifests for the loader and the API server: what the loader accepts, the API server must accept.

The reverse is no fault: what only the engine can check is reported in status. But it should be rare, so a minimum share
of what the loader refuses must be refused by the API server, too.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from scheduledjob.manifests.models import ScheduledJob
from tests.cluster.crd.install import install, verdict
from tests.manifests.cron_support import expressions, spoilt

if TYPE_CHECKING:
    from tests.cluster.harness import Cluster

pytestmark = pytest.mark.cluster

Strategy = st.SearchStrategy[Any]
EXAMPLES = 400
AT_ONCE = 16


def mapping(needed: dict[str, Strategy] | None = None, **optional: Strategy) -> Strategy:
    return st.fixed_dictionaries(needed or {}, optional={_key(key): part for key, part in optional.items()})


def _key(name: str) -> str:
    first, *rest = name.rstrip("_").split("_")
    return first + "".join(word.title() for word in rest)


def mostly(right: Strategy, wrong: Strategy) -> Strategy:
    """One wrong value in a hundred: a manifest has about ten."""
    return st.integers(0, 99).flatmap(lambda number: wrong if number == 99 else right)


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
anything = st.one_of(st.none(), st.booleans(), st.integers(-5, 2**40), texts, st.just([]), st.just({}))
durations = mostly(
    st.lists(st.integers(0, 40_000), min_size=4, max_size=4).flatmap(
        lambda counts: st.sets(st.sampled_from("dhms"), min_size=1).map(
            lambda units: "".join(f"{count}{unit}" for count, unit in zip(counts, "dhms", strict=True) if unit in units)
        )
    ),
    st.one_of(st.sampled_from(["", "5", "1h1d", "-1s", "1.5h", "9999999999d", "0s", "1H"]), texts),
)
instants = mostly(
    st.builds(
        "20{:02d}-{:02d}-{:02d}{}{:02d}:{:02d}{}{}".format,
        st.integers(0, 99),
        st.integers(1, 12),
        st.integers(1, 28),
        st.sampled_from("Tt "),
        st.integers(0, 23),
        st.integers(0, 59),
        st.sampled_from(["", ":00", ":59.5", ":00.123456"]),
        st.sampled_from(["Z", "z", "+01:00", "-23:59"]),
    ),
    st.sampled_from(["2026-12-01", "2026-02-29T00:00:00Z", "soon", "2026-12-01T10:00:00", "9999-01-01T00:00Z"]),
)
dates = st.builds("20{:02d}-{:02d}-{:02d}".format, st.integers(20, 30), st.integers(1, 12), st.integers(1, 28))
zones = mostly(
    st.sampled_from(["UTC", "Europe/Lisbon", "America/Argentina/Buenos_Aires", "Etc/GMT+12", "Pacific/Kiritimati"]),
    st.sampled_from(["Lisbon", "Europe/Lisboa", "+01:00", ""]),
)
crons = mostly(expressions(), spoilt())
names = mostly(
    st.from_regex(r"\A[a-z0-9]([a-z0-9.-]{0,8}[a-z0-9])?\Z"), st.sampled_from(["A", "-a", "a_b", "", "a" * 54])
)
references = mapping(
    {"name": names, "key": mostly(st.just("a.b_C-1"), st.sampled_from(["", "a/b"]))}, optional=st.booleans()
)
sources = mostly(
    st.one_of(
        st.fixed_dictionaries({"secretKeyRef": references}), st.fixed_dictionaries({"configMapKeyRef": references})
    ),
    mapping(secret_key_ref=references, config_map_key_ref=references),
)
secrets = st.fixed_dictionaries({"secretKeyRef": references})

_kinds = {
    "cron": crons,
    "every": durations,
    "at": instants,
    "after": durations,
    "following": mapping({"name": names}, outcome=st.sampled_from(["Succeeded", "Failed", "Cancelled"])),
}
triggers = mostly(
    st.one_of(
        mapping({"cron": crons}, time_zone=zones),
        mapping({"every": durations}, anchor=instants),
        *(st.fixed_dictionaries({kind: part}) for kind, part in _kinds.items()),
    ),
    mapping(None, time_zone=zones, anchor=instants, **_kinds),
)
excludes = mostly(
    st.one_of(
        mapping({"cron": crons}, time_zone=zones),
        mapping({"from": st.one_of(dates, instants), "to": st.one_of(dates, instants)}, time_zone=zones),
    ),
    mapping(from_=dates, to=dates, cron=crons),
)
shell = mapping(
    {"command": mostly(texts.filter(bool), st.sampled_from(["", "a\0b"]))},
    shell=mostly(st.just("/bin/bash"), st.just("bash")),
    env=st.lists(
        mapping(
            {"name": st.sampled_from(["A", "B_1", "a.b", "SCHEDULEDJOB_X", "1A"])}, value=texts, value_from=sources
        ),
        max_size=2,
    ),
    working_dir=st.just("/tmp"),
)
headers = st.dictionaries(
    mostly(st.from_regex(r"\A[A-Za-z-]{1,6}\Z"), st.sampled_from(["Content-Length", "a b", "idempotency-key", ""])),
    mostly(st.text(st.characters(exclude_categories=["C"]), max_size=9), st.just("a\nb")),
    max_size=3,
)
urls = st.builds(
    "http{}://{}{}{}".format,
    st.sampled_from(["", "s"]),
    st.sampled_from(["a", "[::1]", "a-b.example"]),
    st.sampled_from(["", ":80", ":65535", ":"]),
    st.sampled_from(["", "/", "/a@b?c#d", "?q"]),
)
curl = mapping(
    {
        "url": mostly(
            urls,
            st.sampled_from(["a", "ftp://a", "http://", "http://u:p@a", "http://a:0", "http://a:99999", "http://a b"]),
        )
    },
    method=mostly(st.sampled_from(["GET", "POST"]), st.just("get")),
    headers=headers,
    body=texts,
    follow_redirects=st.booleans(),
    expect=mapping(status=st.lists(mostly(st.sampled_from(["200", "2xx"]), st.just("6xx")), min_size=1, max_size=2)),
    tls=mapping(
        insecure_skip_verify=st.booleans(),
        server_name=st.sampled_from(["a.example", "a b"]),
        ca=sources,
    )
    | st.fixed_dictionaries({"clientCertificate": sources, "clientKey": secrets}),
    auth=mostly(
        st.fixed_dictionaries({"bearer": secrets}),
        mapping(bearer=secrets, basic=st.fixed_dictionaries({"username": secrets, "password": secrets})),
    ),
)
container = mapping(
    {"image": mostly(st.just("a/b:1"), st.sampled_from(["", " a"]))},
    command=st.lists(texts, min_size=1, max_size=2),
    args=st.lists(texts, max_size=2),
)
custom = mapping(
    {"kind": mostly(st.just("report"), st.sampled_from(["shell", "a b", "print"]))},
    params=st.dictionaries(texts, anything, max_size=2),
)
_jobs = {"shell": shell, "curl": curl, "container": container, "custom": custom}
jobs = mostly(
    st.one_of(*(st.fixed_dictionaries({kind: part}) for kind, part in _jobs.items())),
    mapping(None, **_jobs),
)
quantities = mostly(st.sampled_from(["500m", 2, "1Gi", "1e3", ".5"]), st.sampled_from([-1, "1 GB", "", True]))
counts = mostly(st.integers(1, 1_000), st.integers(-3, 2**33))
hooks = st.lists(st.fixed_dictionaries({"curl": curl}), max_size=1)
concurrency = mostly(
    st.sampled_from(
        [
            {},
            {"concurrencyPolicy": "Replace"},
            {"concurrencyPolicy": "Allow", "maxConcurrent": 2},
            {"concurrencyPolicy": "Queue", "maxConcurrent": 1, "queueDepth": 3},
        ]
    ),
    mapping(
        concurrency_policy=st.sampled_from(["Forbid", "Allow", "Queue", "allow"]),
        max_concurrent=counts,
        queue_depth=counts,
    ),
)
specs = st.builds(
    lambda one, two: one | two,
    mapping(
        {"triggers": st.lists(triggers, min_size=1, max_size=2), "job": jobs},
        exclude=st.lists(excludes, max_size=2),
        start_at=instants,
        end_at=instants,
        max_runs=counts,
        jitter=durations,
        suspend=mostly(st.booleans(), anything),
        payload=mostly(texts, st.sampled_from(["\0", "é" * 40_000])),
        execution=mapping(
            mode=st.sampled_from(["Inline", "Pod"]),
            pod=mapping(
                image=st.just("a"),
                service_account_name=names,
                resources=mapping(limits=st.dictionaries(st.sampled_from(["cpu", "memory"]), quantities)),
                template=mapping(spec=st.dictionaries(texts, anything, max_size=2)),
            ),
        ),
        misfire=mapping(
            catch_up=st.sampled_from(["Skip", "Last", "All"]), max_catch_up=counts, starting_deadline=durations
        ),
        retry=st.one_of(
            mapping(
                max_retries=counts,
                not_on=mapping(
                    exit_codes=st.lists(st.integers(0, 256), min_size=1, max_size=3),
                    http_status=st.lists(st.integers(99, 600), min_size=1, max_size=3),
                ),
                exponential=mapping(initial=durations, max=durations, multiplier=st.floats(0.9, 9)),
            ),
            mapping(max_retries=counts, fixed=mapping({"intervals": st.lists(durations, min_size=1, max_size=3)})),
        ),
        timeouts=mapping(attempt=durations, pending=durations, total=durations),
        complete_on=mapping(
            exit_codes=st.lists(st.integers(0, 256), min_size=1, max_size=3),
            http_status=st.lists(st.integers(99, 599), min_size=1, max_size=3),
        ),
        pause_after_failures=counts,
        expect_success_within=durations,
        history=mapping(succeeded=counts, failed=counts, ttl=durations),
        on_failure=hooks,
        on_success=hooks,
    ),
    concurrency,
)


def manifest(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    head = {"apiVersion": "scheduledjobs.dev/v1beta1", "kind": "ScheduledJob", "metadata": {"name": name}}
    return head | {"spec": spec}


def generated() -> list[dict[str, Any]]:
    """The same manifests in each run."""
    found: list[dict[str, Any]] = []

    @settings(max_examples=EXAMPLES, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(st.builds(manifest, st.just("a"), specs))
    def collect(job: dict[str, Any]) -> None:
        found.append(job)

    collect()
    return found


def is_valid(job: dict[str, Any]) -> bool:
    try:
        ScheduledJob.model_validate(job)
    except ValidationError:
        return False
    return True


async def test_what_the_loader_takes_the_api_server_takes(cluster: Cluster) -> None:
    await install(cluster)
    gate = asyncio.Semaphore(AT_ONCE)
    jobs_sent = generated()
    async with cluster.client() as api:

        async def ask(job: dict[str, Any]) -> str:
            async with gate:
                return await verdict(api, job, "default")

        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(ask(job)) for job in jobs_sent]
    valid = invalid = refused = 0
    for job, task in zip(jobs_sent, asked, strict=True):
        said = task.result()
        if not is_valid(job):
            invalid += 1
            refused += bool(said)
        else:
            valid += 1
            assert said == "", json.dumps(job)
    assert valid > EXAMPLES / 10
    assert invalid > EXAMPLES / 10
    assert refused / invalid > 0.9, f"{refused} of {invalid}"
