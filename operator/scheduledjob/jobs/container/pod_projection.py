"""What is remembered of a Pod: enough to say how it ended, and little enough to hold thousands of them.

A Pod as the API server shows it is ten kilobytes, most of which never changes, and some of which (probes, heartbeats,
addresses) changes without meaning anything here. What is left out here can't be a reason to look again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scheduledjob.resource_names import GROUP

from .pod_names import CONTAINER
from .runner_order import ORDER

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_METADATA = ("name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "ownerReferences")
_STATUS = ("phase", "reason", "message", "startTime")
_CONDITIONS = frozenset({"PodScheduled", "DisruptionTarget"})


def trim(pod: Mapping[str, Any]) -> dict[str, Any]:
    """The same Pod without what nothing here reads; trimming it again changes nothing."""
    metadata, spec, status = pod["metadata"], pod["spec"], pod.get("status") or {}
    kept = _some(metadata, _METADATA)
    for name in ("labels", "annotations"):
        kept[name] = {key: text for key, text in (metadata.get(name) or {}).items() if key.startswith(f"{GROUP}/")}
    return {
        "metadata": kept,
        "spec": {
            **_some(spec, ("nodeName", "terminationGracePeriodSeconds", "activeDeadlineSeconds")),
            "containers": [_container(one) for one in spec["containers"] if one["name"] == CONTAINER],
            "initContainers": [_some(one, ("name", "restartPolicy")) for one in spec.get("initContainers") or ()],
            "volumes": [one for one in spec.get("volumes") or () if "secret" in one or "projected" in one],
        },
        "status": {
            **_some(status, _STATUS),
            "conditions": [
                _some(one, ("type", "status", "reason", "message"))
                for one in status.get("conditions") or ()
                if one["type"] in _CONDITIONS
            ],
            "containerStatuses": _states(
                [one for one in status.get("containerStatuses") or () if one["name"] == CONTAINER]
            ),
            "initContainerStatuses": _states(status.get("initContainerStatuses") or ()),
        },
    }


def secrets_of(pod: Mapping[str, Any]) -> dict[str, set[str] | None]:
    """The Secrets that the job's container is given: their keys, or None for all of one."""
    found: dict[str, set[str] | None] = {}
    for container in pod["spec"]["containers"]:
        if container["name"] != CONTAINER:
            continue
        for variable in container.get("env") or ():
            reference = (variable.get("valueFrom") or {}).get("secretKeyRef")
            if reference is not None and (keys := found.setdefault(reference["name"], set())) is not None:
                keys.add(reference["key"])
        for source in container.get("envFrom") or ():
            if "secretRef" in source:
                found[source["secretRef"]["name"]] = None
    for volume in pod["spec"].get("volumes") or ():
        if name := (volume.get("secret") or {}).get("secretName"):
            found[name] = None
        for source in (volume.get("projected") or {}).get("sources") or ():
            if name := (source.get("secret") or {}).get("name"):
                found[name] = None
    return found


def _container(container: Mapping[str, Any]) -> dict[str, Any]:
    kept = _some(container, ("name", "resources", "envFrom"))
    kept["env"] = [
        {"name": one["name"]} if one["name"] == ORDER else one
        for one in container.get("env") or ()
        if one["name"] == ORDER or "secretKeyRef" in (one.get("valueFrom") or {})
    ]
    return kept


def _states(statuses: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [_some(one, ("name", "state", "started")) for one in statuses]


def _some(whole: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: whole[name] for name in names if name in whole}
