"""The part of a Pod that is kept in memory: enough to say how it ended, and small enough for thousands of Pods.

A Pod of the API server is ten kilobytes. Most of it never changes, and some of it (probes, heartbeats, addresses)
changes without meaning anything here. A change of what is left out is not a change of the Pod.
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
_OF_OTHERS = ("name", "restartPolicy", "envFrom")
_SECRET_VOLUMES = frozenset({"secret", "projected", "csi", "flexVolume"})
_CONDITIONS = frozenset({"PodScheduled", "DisruptionTarget"})


def project(pod: Mapping[str, Any]) -> dict[str, Any]:
    """Return a Pod without the fields that nothing reads. Idempotent."""
    metadata, spec, status = pod["metadata"], pod["spec"], pod.get("status") or {}
    kept = _some(metadata, _METADATA)
    for name in ("labels", "annotations"):
        kept[name] = {key: text for key, text in (metadata.get(name) or {}).items() if key.startswith(f"{GROUP}/")}
    return {
        "metadata": kept,
        "spec": {
            **_some(spec, ("nodeName", "terminationGracePeriodSeconds", "activeDeadlineSeconds", "imagePullSecrets")),
            "containers": [_container(item) for item in spec["containers"]],
            **{
                kind: [_container(item) for item in spec[kind]]
                for kind in ("initContainers", "ephemeralContainers")
                if spec.get(kind)
            },
            "volumes": [item for item in spec.get("volumes") or () if _SECRET_VOLUMES & item.keys()],
        },
        "status": {
            **_some(status, _STATUS),
            "conditions": [
                _some(item, ("type", "status", "reason", "message"))
                for item in status.get("conditions") or ()
                if item["type"] in _CONDITIONS
            ],
            "containerStatuses": _states(
                [item for item in status.get("containerStatuses") or () if item["name"] == CONTAINER]
            ),
            "initContainerStatuses": _states(status.get("initContainerStatuses") or ()),
        },
    }


def _container(container: Mapping[str, Any]) -> dict[str, Any]:
    names = ("name", "restartPolicy", "resources", "envFrom") if container["name"] == CONTAINER else _OF_OTHERS
    kept = _some(container, names)
    kept["env"] = [
        {"name": variable["name"]} if variable["name"] == ORDER else variable
        for variable in container.get("env") or ()
        if variable["name"] == ORDER or "secretKeyRef" in (variable.get("valueFrom") or {})
    ]
    return kept


def _states(statuses: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [_some(status, ("name", "state", "started")) for status in statuses]


def _some(whole: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: whole[name] for name in names if name in whole}
