"""Templates that violate the Pod Security Standards, and from which Standard on."""

from __future__ import annotations

from typing import Any

from scheduledjob.jobs.container.pod_security import PodSecurity

BASELINE, RESTRICTED = PodSecurity.BASELINE, PodSecurity.RESTRICTED
APPARMOR = "container.apparmor.security.beta.kubernetes.io/job"

OF_POD: list[tuple[PodSecurity, dict[str, Any], str]] = [
    (BASELINE, {"hostNetwork": True}, "hostNetwork is true"),
    (BASELINE, {"hostPID": True}, "hostPID is true"),
    (BASELINE, {"hostIPC": True}, "hostIPC is true"),
    (BASELINE, {"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}, "volume v is of type hostPath"),
    (RESTRICTED, {"volumes": [{"name": "v", "nfs": {"server": "a", "path": "/"}}]}, "volume v is of type nfs"),
    (RESTRICTED, {"securityContext": {"runAsNonRoot": False}}, "runAsNonRoot is not true"),
    (RESTRICTED, {"securityContext": {"runAsUser": 0}}, "runAsUser is 0"),
    (BASELINE, {"securityContext": {"seccompProfile": {"type": "Unconfined"}}}, "seccompProfile is Unconfined"),
    (BASELINE, {"securityContext": {"appArmorProfile": {"type": "Unconfined"}}}, "appArmorProfile is Unconfined"),
    (BASELINE, {"securityContext": {"seLinuxOptions": {"type": "spc_t"}}}, "seLinuxOptions are set"),
    (BASELINE, {"securityContext": {"windowsOptions": {"hostProcess": True}}}, "hostProcess is true"),
    (
        BASELINE,
        {"securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}},
        "sysctl kernel.msgmax is set",
    ),
]
"""The weakest Standard that forbids it, the spec of the template, and the words."""

_HTTP = {"httpGet": {"host": "10.0.0.1", "port": 1}}
_TCP = {"tcpSocket": {"host": "10.0.0.1", "port": 1}}

OF_CONTAINER: list[tuple[PodSecurity, dict[str, Any], str]] = [
    (
        BASELINE,
        {"securityContext": {"privileged": True, "allowPrivilegeEscalation": True}},
        "privileged is true",
    ),
    (
        RESTRICTED,
        {"securityContext": {"allowPrivilegeEscalation": True}},
        "allowPrivilegeEscalation is not false",
    ),
    (BASELINE, {"securityContext": {"capabilities": {"add": ["NET_ADMIN"]}}}, "capability NET_ADMIN is added"),
    (RESTRICTED, {"securityContext": {"capabilities": {"add": ["CHOWN"]}}}, "capability CHOWN is added"),
    (RESTRICTED, {"securityContext": {"capabilities": {"drop": ["NET_RAW"]}}}, "capabilities.drop lacks ALL"),
    (RESTRICTED, {"securityContext": {"runAsNonRoot": False}}, "runAsNonRoot is false"),
    (RESTRICTED, {"securityContext": {"runAsUser": 0}}, "runAsUser is 0"),
    (BASELINE, {"securityContext": {"procMount": "Unmasked"}}, "procMount is set"),
    (BASELINE, {"securityContext": {"seLinuxOptions": {"user": "u"}}}, "seLinuxOptions are set"),
    (BASELINE, {"securityContext": {"seccompProfile": {"type": "Unconfined"}}}, "seccompProfile is Unconfined"),
    (BASELINE, {"securityContext": {"appArmorProfile": {"type": "Unconfined"}}}, "appArmorProfile is Unconfined"),
    (BASELINE, {"securityContext": {"windowsOptions": {"hostProcess": True}}}, "hostProcess is true"),
    (BASELINE, {"ports": [{"containerPort": 1, "hostPort": 1}]}, "hostPort 1 is used"),
    (BASELINE, {"lifecycle": {"preStop": _HTTP}}, "preStop.httpGet names a host"),
    (BASELINE, {"livenessProbe": _TCP}, "livenessProbe.tcpSocket names a host"),
]
