"""The Pod Security Standards, as one table of checks, and the security fields that Pods have by default.

A Pod with the operator's own image meets the Standard ``restricted`` and has no token, whatever its template says. A
Pod with a user's image meets the Standard that the administrator has chosen. It has the seccomp profile
``RuntimeDefault`` and no privilege escalation by default, which ordinary images accept.

A template that violates the Standard is refused with an error. It is not corrected silently, because a job that runs
differently from what its author wrote is harder to notice than a job that does not run. The checks are those of
https://kubernetes.io/docs/concepts/security/pod-security-standards/ for the version 1.35, without its exceptions for
Windows. tests/cluster compares them with the API server's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from .strategic_merge import as_list, as_object, merge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

_SPEC = "execution.pod.template.spec"
_SECCOMP = {"type": "RuntimeDefault"}
_KINDS = ("initContainers", "containers", "ephemeralContainers")


class PodSecurity(IntEnum):
    """The Standards, from the weakest to the strongest. Each contains the checks of those before it."""

    PRIVILEGED = 0
    BASELINE = 1
    RESTRICTED = 2

    @property
    def word(self) -> str:
        return self.name.lower()


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

_RESTRICTED_VOLUMES = frozenset(
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
_BASELINE_CAPABILITIES = frozenset(
    {
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    }
)
_APPARMOR = "container.apparmor.security.beta.kubernetes.io/"
_SECCOMP_ANNOTATIONS = ("seccomp.security.alpha.kubernetes.io/", "container.seccomp.security.alpha.kubernetes.io/")
_HANDLERS = ("postStart", "preStop")
_PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
_CREDENTIALS = ("serviceAccountToken", "podCertificate")
"""Sources of projected volumes that give a Pod an identity of its own."""


@dataclass(frozen=True, slots=True)
class _Part:
    """The Pod, or one of its containers."""

    body: Mapping[str, Any]
    where: str = ""
    """``containers[job]``; empty for the Pod."""

    @property
    def context(self) -> Mapping[str, Any]:
        return self.object("securityContext")

    def object(self, name: str) -> Mapping[str, Any]:
        return _object(self.body.get(name), f"{self.where}.{name}".lstrip("."))

    def objects(self, name: str) -> Iterator[Mapping[str, Any]]:
        where = f"{self.where}.{name}".lstrip(".")
        for index, item in enumerate(_list(self.body.get(name), where)):
            yield _object(item, f"{where}[{index}]")


@dataclass(frozen=True, slots=True)
class _Pod:
    """A Pod that is checked."""

    annotations: Mapping[str, Any]
    pod: _Part
    containers: Sequence[_Part]

    @property
    def parts(self) -> Sequence[_Part]:
        return (self.pod, *self.containers)


_Violations: TypeAlias = "Iterator[tuple[_Part, str]]"


class _Check(NamedTuple):
    level: PodSecurity
    """The weakest Standard that has this check."""
    find: Callable[[_Pod], _Violations]


def with_defaults(spec: Mapping[str, Any], *, restricted: bool) -> dict[str, Any]:
    """Return a PodSpec with defaults for the security fields that it does not set."""
    of_pod: dict[str, Any] = {"seccompProfile": _SECCOMP}
    if restricted:
        of_pod["runAsNonRoot"] = True
    whole = dict(spec)
    whole["securityContext"] = merge(of_pod, _object(spec.get("securityContext"), "securityContext"))
    for kind in ("initContainers", "containers"):
        if spec.get(kind):
            whole[kind] = [_with_defaults_of_container(container, kind, restricted) for container in spec[kind]]
    return whole


def _with_defaults_of_container(container: Mapping[str, Any], kind: str, restricted: bool) -> dict[str, Any]:
    context = _object(container.get("securityContext"), f"{kind}[{container['name']}].securityContext")
    added = _object(context.get("capabilities"), "capabilities").get("add") or ()
    # The API server refuses these together with allowPrivilegeEscalation: false.
    if not restricted and (context.get("privileged") or "SYS_ADMIN" in added or "CAP_SYS_ADMIN" in added):
        return dict(container)
    return {**container, "securityContext": merge(_RESTRICTED if restricted else _ORDINARY, context)}


def refuse_violations(spec: Mapping[str, Any], annotations: Mapping[str, Any], level: PodSecurity) -> None:
    """Raise ``ValueError``, which lists all that violates the Standard ``level``, unless there is nothing."""
    pod = _pod(spec, annotations)
    found = [
        f"{part.where}: {words}" if part.where else words
        for check in _STANDARD
        if check.level <= level
        for part, words in check.find(pod)
    ]
    if found:
        raise ValueError(
            f"execution.pod.template: {'; '.join(dict.fromkeys(found))}: the Pod Security Standard {level.word}, which "
            "holds for this Pod, forbids it: leave it out"
        )


def _pod(spec: Mapping[str, Any], annotations: Mapping[str, Any]) -> _Pod:
    containers = [
        _Part(_object(container, kind), f"{kind}[{container.get('name')}]")
        for kind in _KINDS
        for container in _list(spec.get(kind), kind)
    ]
    return _Pod(annotations, _Part(spec), containers)


def refuse_credentials(spec: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` if a volume gives a Pod an identity that it must not have."""
    for volume in _Part(spec).objects("volumes"):
        for source in _Part(_object(volume.get("projected"), "volumes")).objects("sources"):
            for kind in _CREDENTIALS:
                if kind in source:
                    raise ValueError(
                        f"execution.pod.template: volume {volume.get('name')} contains a {kind}, and this Pod has no "
                        "token: leave it out, or use job.container with execution.pod.serviceAccountName"
                    )


def refuse_other_profiles(spec: Mapping[str, Any], annotations: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` if a Pod with the operator's image has a seccomp profile other than ``RuntimeDefault``.

    The Standard ``restricted`` also allows profiles of the node, and such a profile may allow everything.
    """
    pod = _pod(spec, annotations)
    found = [f"{part.where}: {words}".removeprefix(": ") for part, words in _other_seccomp(pod)]
    if found:
        raise ValueError(
            f"execution.pod.template: {'; '.join(found)}: a Pod with the operator's image has RuntimeDefault: leave it "
            "out, or give the job an image of yours"
        )


def _other_seccomp(pod: _Pod) -> _Violations:
    for part in pod.parts:
        profile = _object(part.context.get("seccompProfile"), "seccompProfile")
        if profile and profile.get("type") != "RuntimeDefault":
            yield part, f"seccompProfile is {profile.get('type')}"
    for name, value in pod.annotations.items():
        if name.startswith(_SECCOMP_ANNOTATIONS) and value not in ("runtime/default", "docker/default"):
            yield pod.pod, f"the annotation {name} is {value}"


# ---------------------------------------------------------------- baseline


def _host_process(pod: _Pod) -> _Violations:
    for part in pod.parts:
        if _object(part.context.get("windowsOptions"), "windowsOptions").get("hostProcess"):
            yield part, "hostProcess is true"


def _host_namespaces(pod: _Pod) -> _Violations:
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.pod.body.get(name):
            yield pod.pod, f"{name} is true"


def _privileged(pod: _Pod) -> _Violations:
    for part in pod.containers:
        if part.context.get("privileged"):
            yield part, "privileged is true"


def _capabilities(part: _Part, name: str) -> Sequence[Any]:
    return _list(_object(part.context.get("capabilities"), "capabilities").get(name), f"capabilities.{name}")


def _baseline_capabilities(pod: _Pod) -> _Violations:
    for part in pod.containers:
        for name in _capabilities(part, "add"):
            if name not in _BASELINE_CAPABILITIES:
                yield part, f"capability {name} is added"


def _host_paths(pod: _Pod) -> _Violations:
    for volume in pod.pod.objects("volumes"):
        if "hostPath" in volume:
            yield pod.pod, f"volume {volume.get('name')} is of type hostPath"


def _host_ports(pod: _Pod) -> _Violations:
    for part in pod.containers:
        for port in part.objects("ports"):
            if port.get("hostPort"):
                yield part, f"hostPort {port['hostPort']} is used"


def _host_probes(pod: _Pod) -> _Violations:
    for part in pod.containers:
        handlers = part.object("lifecycle")
        found = [(name, handlers.get(name)) for name in _HANDLERS] + [(name, part.body.get(name)) for name in _PROBES]
        for name, handler in found:
            for way in ("httpGet", "tcpSocket"):
                if _object(_object(handler, name).get(way), way).get("host"):
                    yield part, f"{name}.{way} names a host"


def _app_armor(pod: _Pod) -> _Violations:
    for part in pod.parts:
        yield from _profile(part, "appArmorProfile")
    for name, value in pod.annotations.items():
        if name.startswith(_APPARMOR) and value != "runtime/default" and not str(value).startswith("localhost/"):
            yield pod.pod, f"the annotation {name} is {value}"


def _profile(part: _Part, name: str) -> _Violations:
    profile = _object(part.context.get(name), name)
    if profile and profile.get("type") not in ("RuntimeDefault", "Localhost"):
        yield part, f"{name} is {profile.get('type')}"


def _selinux(pod: _Pod) -> _Violations:
    for part in pod.parts:
        options = _object(part.context.get("seLinuxOptions"), "seLinuxOptions")
        if (options.get("type") or "") not in _SELINUX_TYPES or options.get("user") or options.get("role"):
            yield part, "seLinuxOptions are set"


def _proc_mount(pod: _Pod) -> _Violations:
    for part in pod.containers:
        if part.context.get("procMount") not in (None, "Default"):
            yield part, "procMount is set"


def _seccomp(pod: _Pod) -> _Violations:
    for part in pod.parts:
        yield from _profile(part, "seccompProfile")
    for name, value in pod.annotations.items():
        allowed = value in ("runtime/default", "docker/default") or str(value).startswith("localhost/")
        if name.startswith(_SECCOMP_ANNOTATIONS) and not allowed:
            yield pod.pod, f"the annotation {name} is {value}"


def _sysctls(pod: _Pod) -> _Violations:
    for sysctl in _Part(pod.pod.context).objects("sysctls"):
        if sysctl.get("name") not in _SYSCTLS:
            yield pod.pod, f"sysctl {sysctl.get('name')} is set"


# ---------------------------------------------------------------- restricted


def _volume_types(pod: _Pod) -> _Violations:
    for volume in pod.pod.objects("volumes"):
        for source in volume:
            if source != "name" and source not in _RESTRICTED_VOLUMES:
                yield pod.pod, f"volume {volume.get('name')} is of type {source}"


def _privilege_escalation(pod: _Pod) -> _Violations:
    for part in pod.containers:
        if part.context.get("allowPrivilegeEscalation") is not False:
            yield part, "allowPrivilegeEscalation is not false"


def _non_root(pod: _Pod) -> _Violations:
    if pod.pod.context.get("runAsNonRoot") is not True:
        yield pod.pod, "runAsNonRoot is not true"
    for part in pod.containers:
        if part.context.get("runAsNonRoot") is False:
            yield part, "runAsNonRoot is false"


def _root_user(pod: _Pod) -> _Violations:
    for part in pod.parts:
        if part.context.get("runAsUser") == 0:
            yield part, "runAsUser is 0"


def _seccomp_set(pod: _Pod) -> _Violations:
    of_pod = pod.pod.context.get("seccompProfile")
    for part in pod.containers:
        if not (part.context.get("seccompProfile") or of_pod):
            yield part, "seccompProfile is not set"


def _restricted_capabilities(pod: _Pod) -> _Violations:
    for part in pod.containers:
        if "ALL" not in _capabilities(part, "drop"):
            yield part, "capabilities.drop lacks ALL"
        for name in _capabilities(part, "add"):
            if name != "NET_BIND_SERVICE":
                yield part, f"capability {name} is added"


_STANDARD: Final = (
    _Check(PodSecurity.BASELINE, _host_process),
    _Check(PodSecurity.BASELINE, _host_namespaces),
    _Check(PodSecurity.BASELINE, _privileged),
    _Check(PodSecurity.BASELINE, _baseline_capabilities),
    _Check(PodSecurity.BASELINE, _host_paths),
    _Check(PodSecurity.BASELINE, _host_ports),
    _Check(PodSecurity.BASELINE, _host_probes),
    _Check(PodSecurity.BASELINE, _app_armor),
    _Check(PodSecurity.BASELINE, _selinux),
    _Check(PodSecurity.BASELINE, _proc_mount),
    _Check(PodSecurity.BASELINE, _seccomp),
    _Check(PodSecurity.BASELINE, _sysctls),
    _Check(PodSecurity.RESTRICTED, _volume_types),
    _Check(PodSecurity.RESTRICTED, _privilege_escalation),
    _Check(PodSecurity.RESTRICTED, _non_root),
    _Check(PodSecurity.RESTRICTED, _root_user),
    _Check(PodSecurity.RESTRICTED, _seccomp_set),
    _Check(PodSecurity.RESTRICTED, _restricted_capabilities),
)


def _object(value: Any, where: str) -> Mapping[str, Any]:
    return as_object(value, f"{_SPEC}.{where}")


def _list(value: Any, where: str) -> Sequence[Any]:
    return as_list(value, f"{_SPEC}.{where}")
