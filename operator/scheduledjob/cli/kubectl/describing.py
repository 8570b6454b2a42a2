"""``describe``: everything about one ScheduledJob on one page."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

from scheduledjob.cli.shared.explanation import explanation
from scheduledjob.cli.shared.formats import printable
from scheduledjob.cli.shared.objects import Object, instant_of, key_of, now, status_of
from scheduledjob.cli.shared.planned_schedule import schedule_of
from scheduledjob.cli.shared.printing import BOLD, Form, age, coloured, out, print_objects, print_table, second
from scheduledjob.jobs.job_registry import summary_of

from .run_history import run_as_row

if TYPE_CHECKING:
    from .cluster_access import Cluster, Where

_SLOTS = 3
_EVENTS = 10
_WIDTH = 16
_SETTINGS = (
    "misfire", "retry", "timeouts", "completeOn", "pauseAfterFailures", "expectSuccessWithin", "history", "execution",
    "payloadFrom", "onFailure", "onSuccess",
)  # fmt: skip
"""Fields of the spec that are shown as they are written."""
_IN_WORDS = ("misfire", "retry")
"""Fields among them that the explanation of the schedule covers in words."""

_COUNTERS = ("started", "succeeded", "failed", "cancelled", "skippedOverlap", "missed", "excluded")


def print_description(where: Where, name: str, form: Form) -> None:
    """Print one ScheduledJob."""

    async def read(cluster: Cluster) -> tuple[Object, list[Object] | str]:
        body = await cluster.job(name)
        return body, await _events(cluster, body) if form.is_for_people else []

    body, events = where.run(read)
    if not form.is_for_people:
        print_objects([body], form, one=True)
        return
    _head(body)
    _spec(body, explained=_schedule(body))
    _state(body)
    _heading("Events")
    if isinstance(events, str):
        out(f"  {events}")
    elif events:
        print_table([_event(event) for event in events], empty="")
    else:
        out("  none")


async def _events(cluster: Cluster, body: Object) -> list[Object] | str:
    from scheduledjob.kube.client.api_errors import Forbidden

    path = f"/api/v1/namespaces/{cluster.namespace}/events"
    try:
        metadata = body["metadata"]
        selector = f"involvedObject.uid={metadata['uid']},involvedObject.name={metadata['name']}"
        found = await cluster.get(path, {"fieldSelector": selector})
    except Forbidden as error:
        return printable(error.message)
    return sorted(found["items"], key=_time_of)[-_EVENTS:]


def _time_of(event: Object) -> str:
    series = event.get("series") or {}
    return str(
        series.get("lastObservedTime")
        or event.get("lastTimestamp")
        or event.get("eventTime")
        or event["metadata"]["creationTimestamp"]
    )


def _event(event: Object) -> dict[str, Any]:
    count = (event.get("series") or {}).get("count") or event.get("count") or 1
    seen = age(instant_of(_time_of(event)), now())
    return {
        "type": event.get("type"),
        "reason": event.get("reason"),
        "age": f"{seen} (x{count})" if count > 1 else seen,
        "message": event.get("message"),
    }


def _heading(text: str) -> None:
    out(coloured(f"{text}:", BOLD))


def _field(name: str, value: Any) -> None:
    if value not in (None, "", {}, []):
        out(f"{coloured(f'{name}:', BOLD)}{' ' * max(1, _WIDTH - len(name) - 1)}{printable(str(value))}")


def _head(body: Object) -> None:
    namespace, name = key_of(body)
    metadata = body["metadata"]
    _field("Name", name)
    _field("Namespace", namespace)
    _field("Labels", _pairs(metadata.get("labels")))
    _field("Annotations", _pairs(metadata.get("annotations")))
    created = instant_of(metadata.get("creationTimestamp"))
    _field("Created", f"{second(created)} ({age(created, now())} ago)")


def _pairs(found: Object | None) -> str:
    shown = {name: value for name, value in (found or {}).items() if not name.startswith("kubectl.kubernetes.io/")}
    return ", ".join(f"{name}={value}" for name, value in shown.items())


def _schedule(body: Object) -> bool:
    """Print the schedule in words; return whether the spec is valid."""
    try:
        schedule = schedule_of(body)
    except ValueError as error:
        _field("Invalid", error)
        return False
    for heading, said in explanation(schedule).items():
        for index, line in enumerate([said] if isinstance(said, str) else said):
            if index:
                out(" " * _WIDTH + printable(line))
            else:
                _field(heading, line)
    if not schedule.inactive_reason:
        slots = [second(start) for _, start in itertools.islice(schedule.starts(now()), _SLOTS)]
        _field("Next", ", ".join(slots) or "no slots are left")
    return True


def _spec(body: Object, *, explained: bool) -> None:
    spec = body["spec"]
    _field("Job", " ".join(summary_of(spec.get("job") or {})).strip())
    for name in _SETTINGS:
        if explained and name in _IN_WORDS:
            continue
        _field(name[0].upper() + name[1:], _compact(spec.get(name)))


def active_for(run: Object) -> str:
    """Return the time since the first attempt started, or since the slot if unknown; empty while it waits."""
    since = run.get("started") or (run.get("slot") if not run.get("due") else None)
    return age(instant_of(since), now())


def _compact(value: Any) -> str:
    if value is None:
        return ""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value)


def _state(body: Object) -> None:
    status, name = status_of(body), body["metadata"]["name"]
    if not status:
        _field("Status", "none: no operator has seen it yet")
        return
    if not status.get("nextRunTime"):
        _field("Next run", status.get("nextRun"))
    for label, key in (
        ("Last slot", "lastScheduleTime"),
        ("Last success", "lastSuccessTime"),
        ("Last failure", "lastFailureTime"),
    ):
        _field(label, status.get(key))
    counters = status.get("counters") or {}
    _field("Counters", ", ".join(f"{key} {counters[key]}" for key in _COUNTERS if counters.get(key)))
    _heading("Conditions")
    columns = ("type", "status", "reason", "message")
    print_table(
        [{key: condition.get(key) for key in columns} for condition in status.get("conditions") or ()], empty="none"
    )
    if active := status.get("active"):
        _heading("Active runs")
        uid = body["metadata"]["uid"]
        some_wait = any(run.get("waitingFor") for run in active)
        rows = [
            {
                "run": run["runID"].removeprefix(f"{uid}-"),
                "slot": second(instant_of(run.get("slot"))),
                "attempt": run.get("attempt"),
                "for": active_for(run),
            }
            | ({"waits for": run.get("waitingFor")} if some_wait else {})
            for run in active
        ]
        print_table(rows, empty="")
    if recent := status.get("recentRuns"):
        _heading("Recent runs")
        print_table([run_as_row(run) for run in recent], empty="")
        failed = next((run for run in recent if run.get("output")), None)
        if failed is not None:
            out(f"  end of the failed run's output: kubectl scheduledjob logs {name} --run {failed['slot']}")
