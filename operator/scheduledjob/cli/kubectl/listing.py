"""``list``: the ScheduledJobs of one namespace or of all, in one table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scheduledjob.cli.shared.objects import Object, condition_of, instant_of, is_suspended, key_of, now, status_of
from scheduledjob.cli.shared.printing import Form, age, print_objects, print_table, second
from scheduledjob.jobs.job_registry import summary_of

if TYPE_CHECKING:
    from .cluster_access import Cluster, Where


def print_list(where: Where, form: Form) -> None:
    """Print the ScheduledJobs that the options select."""

    async def read(cluster: Cluster) -> tuple[list[Object], str]:
        return await cluster.jobs(), cluster.namespace

    found, namespace = where.run(read)
    if not form.is_for_people:
        print_objects(found, form)
        return
    rows = [_row(body, everywhere=where.everywhere, wide=form is Form.WIDE) for body in found]
    print_table(rows, empty=nothing(where, namespace))


def nothing(where: Where, namespace: str) -> str:
    """Return what to print if no ScheduledJob was found."""
    place = "in any namespace" if where.everywhere else f'in namespace "{namespace}" (-A for all)'
    return f"no ScheduledJobs {'with these labels ' if where.selector else ''}{place}"


def _row(body: Object, *, everywhere: bool, wide: bool) -> dict[str, Any]:
    namespace, name = key_of(body)
    status = status_of(body)
    row: dict[str, Any] = {"namespace": namespace} if everywhere else {}
    row |= {
        "name": name,
        "schedule": status.get("schedule") or triggers_in_short(body),
        "suspended": is_suspended(body),
        "last": status.get("lastOutcome"),
        "next": status.get("nextRun"),
        "age": age(instant_of(body["metadata"].get("creationTimestamp")), now()),
    }
    if wide:
        row |= {
            "job": kind_of_job(body),
            "active": status.get("activeCount", 0),
            "ready": condition_of(body, "Ready").get("status", "Unknown"),
            "last success": second(instant_of(status.get("lastSuccessTime"))),
            "last failure": second(instant_of(status.get("lastFailureTime"))),
        }
    return row


def kind_of_job(body: Object) -> str:
    """Return the kind of job, such as ``shell``, or the name of a Python job."""
    return summary_of(body["spec"].get("job") or {})[0]


def triggers_in_short(body: Object) -> str:
    """Return the triggers as the operator would write them into status; for an object that has no status yet."""
    from scheduledjob.manifests.triggers.trigger_model import stored_of_manifest

    triggers = body["spec"].get("triggers") or ()
    try:
        return ", ".join(stored_of_manifest(trigger).short() for trigger in triggers)
    except ValueError:
        return "invalid"
