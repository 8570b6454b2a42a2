"""The security contexts of Pods.

A Pod with the operator's own image meets the Pod Security Standard ``restricted`` and has no token, whatever its
template says. A Pod with a user's image has the seccomp profile ``RuntimeDefault`` and no privilege escalation by
default, which ordinary images accept, and its template may override that. With the setting ``restricted``, the standard
is the default, and a template that violates it is refused with an error. It is not corrected silently, because a job
that runs differently from what its author wrote is harder to notice than a job that does not run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .strategic_merge import as_list, as_object, merge

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_SPEC = "execution.pod.template.spec"
_SECCOMP = {"type": "RuntimeDefault"}

OF_RUNNER: Mapping[str, Any] = {
    "allowPrivilegeEscalation": False,
    "privileged": False,
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": _SECCOMP,
}
"""The security context of a container with the operator's own image."""

_ORDINARY: Mapping[str, Any] = {"allowPrivilegeEscalation": False}
_RESTRICTED: Mapping[str, Any] = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}

_VOLUMES = frozenset(
    {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "image",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
)
_SELINUX_TYPES = frozenset({"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"})
_SYSCTLS = frozenset(
    {
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.ip_local_reserved_ports",
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.ping_group_range",
        "net.ipv4.tcp_fin_timeout",
        "net.ipv4.tcp_keepalive_intvl",
        "net.ipv4.tcp_keepalive_probes",
        "net.ipv4.tcp_keepalive_time",
        "net.ipv4.tcp_rmem",
        "net.ipv4.tcp_syncookies",
        "net.ipv4.tcp_wmem",
    }
)
_HANDLERS = ("postStart", "preStop")
_PROBES = ("livenessProbe", "readinessProbe", "startupProbe")


def with_defaults(spec: Mapping[str, Any], *, restricted: bool) -> dict[str, Any]:
    """Return a PodSpec with defaults for the security fields that it does not set."""
    of_pod: dict[str, Any] = {"seccompProfile": _SECCOMP}
    if restricted:
        of_pod["runAsNonRoot"] = True
    of_container = _RESTRICTED if restricted else _ORDINARY
    whole = dict(spec)
    whole["securityContext"] = merge(of_pod, _object(spec.get("securityContext"), "securityContext"))
    for kind in ("initContainers", "containers"):
        if spec.get(kind):
            whole[kind] = [
                {**container, "securityContext": merge(of_container, _context(container, kind))}
                for container in spec[kind]
            ]
    return whole


def refuse_violations(spec: Mapping[str, Any]) -> None:
    """Raise ``ValueError``, which lists all that violates the standard ``restricted``, unless there is nothing."""
    found = [*_of_pod(spec)]
    for kind in ("initContainers", "containers"):
        for container in spec.get(kind) or ():
            found += (f"{kind}[{container['name']}]: {words}" for words in _of_container(container, kind, spec))
    if found:
        raise ValueError(
            f"execution.pod.template: {'; '.join(found)}: the Pod Security standard restricted, which holds for this "
            "Pod, forbids it: leave it out"
        )


def _of_pod(spec: Mapping[str, Any]) -> Iterator[str]:
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(name):
            yield f"{name} is true"
    for index, volume in enumerate(_list(spec.get("volumes"), "volumes")):
        for source in _object(volume, f"volumes[{index}]"):
            if source != "name" and source not in _VOLUMES:
                yield f"volume {volume.get('name')} is of type {source}"
    context = _object(spec.get("securityContext"), "securityContext")
    yield from _of_context(context)
    if context.get("runAsNonRoot") is not True:
        yield "runAsNonRoot is not true"
    for index, sysctl in enumerate(_list(context.get("sysctls"), "sysctls")):
        if _object(sysctl, f"sysctls[{index}]").get("name") not in _SYSCTLS:
            yield f"sysctl {sysctl.get('name')} is set"


def _of_container(container: Mapping[str, Any], kind: str, spec: Mapping[str, Any]) -> Iterator[str]:
    context = _context(container, kind)
    yield from _of_context(context)
    if context.get("privileged"):
        yield "privileged is true"
    if context.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation is not false"
    if context.get("procMount") not in (None, "Default"):
        yield "procMount is set"
    if context.get("runAsNonRoot") is False:
        yield "runAsNonRoot is false"
    capabilities = _object(context.get("capabilities"), "capabilities")
    if "ALL" not in _list(capabilities.get("drop"), "capabilities.drop"):
        yield "capabilities.drop lacks ALL"
    for name in _list(capabilities.get("add"), "capabilities.add"):
        if name != "NET_BIND_SERVICE":
            yield f"capability {name} is added"
    for port in _list(container.get("ports"), "ports"):
        if _object(port, "ports").get("hostPort"):
            yield f"hostPort {port['hostPort']} is used"
    handlers = _object(container.get("lifecycle"), "lifecycle")
    for name, handler in [(name, handlers.get(name)) for name in _HANDLERS] + [
        (name, container.get(name)) for name in _PROBES
    ]:
        for way in ("httpGet", "tcpSocket"):
            if _object(_object(handler, name).get(way), way).get("host"):
                yield f"{name}.{way} names a host"


def _of_context(context: Mapping[str, Any]) -> Iterator[str]:
    """Yield violations in fields that Pods and containers both have."""
    if context.get("runAsUser") == 0:
        yield "runAsUser is 0"
    for name in ("seccompProfile", "appArmorProfile"):
        profile = _object(context.get(name), name)
        if profile and profile.get("type") not in ("RuntimeDefault", "Localhost"):
            yield f"{name} is {profile.get('type')}"
    selinux = _object(context.get("seLinuxOptions"), "seLinuxOptions")
    if (selinux.get("type") or "") not in _SELINUX_TYPES or selinux.get("user") or selinux.get("role"):
        yield "seLinuxOptions are set"
    if _object(context.get("windowsOptions"), "windowsOptions").get("hostProcess"):
        yield "hostProcess is true"


def _context(container: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    return _object(container.get("securityContext"), f"{kind}[{container['name']}].securityContext")


def _object(value: Any, where: str) -> Mapping[str, Any]:
    return as_object(value, f"{_SPEC}.{where}")


def _list(value: Any, where: str) -> Sequence[Any]:
    return as_list(value, f"{_SPEC}.{where}")
