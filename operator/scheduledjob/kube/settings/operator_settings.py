"""The settings of the operator. Its flags, variables, keys of the file, ``--help`` and docs are derived from them.

Each field is a setting: ``pod_capacity`` is the flag ``--pod-capacity``, the variable ``SJOB_POD_CAPACITY`` and the key
``podCapacity`` of the file that ``--config`` names. The field has its description, its type and its default. Where
values come from, and which source wins, is in ``setting_sources.py``.

This is a plain dataclass, because the same text has to be read from three sources, with error messages that name the
source. A validation library would need more code for that.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypeVar

from scheduledjob.manifests.problems import listed
from scheduledjob.stores import MEMORY_URL, is_memory
from scheduledjob.web.listen import Listen

from . import setting_types as types

if TYPE_CHECKING:
    from collections.abc import Iterator

T = TypeVar("T")


def setting(type: types.SettingType[T], default: T, description: str, *, default_text: str = "") -> T:
    """Return a field. ``default_text`` describes the default if the value does not speak for itself."""
    made: T = field(default=default, metadata={"type": type, "description": description, "default_text": default_text})
    return made


def optional(type: types.SettingType[T], description: str, *, default_text: str) -> T | None:
    """Return a field that may be unset. ``default_text`` says what happens then."""
    made: T | None = field(
        default=None, metadata={"type": type, "description": description, "default_text": default_text}
    )
    return made


class SettingsConflict(ValueError):
    """Two settings contradict each other."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{flag_of(name)}: {message}")
        self.name = name
        """The field to change."""
        self.message = message


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorSettings:
    """The settings of an operator. Durations are in seconds. Raises ``SettingsConflict``."""

    store: str = setting(
        types.store_url(),
        MEMORY_URL,
        "Where schedules and runs are stored. With memory: only one replica may run. Any number of replicas can share "
        "Postgres or Firestore. Pass a URL with a password in the variable, from a Secret: everybody on the machine "
        "can see flags, and files are copied.",
    )
    instance: str = setting(
        types.installation(),
        "local",
        "The name of the installation in the store. Operators with the same name share their work; others neither see "
        "nor run it. It must be unique for each cluster and release that share a store.",
    )
    namespaces: tuple[str, ...] = setting(
        types.namespaces(all_is=""),
        (),
        "The namespaces whose ScheduledJobs the operator runs. If you remove a namespace from the list, its schedules "
        "end when no replica with the old list is left. If you add it again, they continue from their status.",
        default_text="all namespaces",
    )
    namespace: str | None = optional(
        types.namespace(),
        "The namespace of the operator itself, which contains its Lease. The setting namespaces decides which "
        "ScheduledJobs it runs.",
        default_text="that of its own Pod; outside a cluster, that of the kubeconfig's context",
    )
    memory_lease: str = setting(
        types.object_name(),
        "scheduledjob",
        "The name of the Lease, in the operator's namespace, that an operator with its store in memory holds while it "
        "works. An operator with any other store waits for it before it starts. It must be unique for each release in "
        "a namespace.",
    )
    kubeconfig: str | None = optional(
        types.existing_file(),
        "The kubeconfig file with the address of the API server and the credentials.",
        default_text="that of the variable `KUBECONFIG`; in a Pod, its service account; else `~/.kube/config`",
    )
    context: str | None = optional(
        types.context(), "The context of the kubeconfig to use.", default_text="the kubeconfig's current context"
    )
    capacity: int = setting(
        types.count(least=1, most=100_000),
        4096,
        "The maximum number of inline runs that one replica has at a time, running or about to run. "
        "More wait in the store for any replica that has room.",
    )
    pod_capacity: int = setting(
        types.count(least=1, most=100_000),
        4096,
        "The maximum number of runs that one replica has in Pods at a time. This protects the API server and the "
        "cluster's scheduler. One namespace alone may have three quarters of them. Use a ResourceQuota to limit "
        "what Pods may use.",
    )
    namespace_share: float = setting(
        types.number(least=0.1, most=1),
        0.875,
        "The largest share of capacity for one namespace, of what it uses and what is free. With 0.875, a namespace "
        "whose runs hang leaves an eighth for others, and two such namespaces leave a fifteenth. 1: no bound.",
    )
    namespace_weights: tuple[tuple[str, float], ...] = setting(
        types.weights(),
        (),
        "When more is due than there is room for, runs start in fair shares for each namespace. A namespace of weight "
        "2 gets twice as much as one of weight 1.",
        default_text="1 for each namespace",
    )
    inline_shell_namespaces: tuple[str, ...] = setting(
        types.namespaces(all_is=types.ALL),
        (),
        "The namespaces whose shell jobs may run inside the operator. Anyone who may write ScheduledJobs there is "
        "trusted with the operator's network, CPU, memory and disk. In other namespaces, shell jobs run as Pods.",
        default_text="none",
    )
    accept_unconfined_shell: bool = setting(
        types.switch(),
        False,
        "Run inline shell jobs even if the kernel can't confine them because it has no Landlock. They can then read "
        "the operator's files: the token of its service account, its configuration, and the files of other jobs.",
    )
    inline_http_allow: tuple[str, ...] = setting(
        types.hosts(),
        (),
        "Networks, addresses and host names that inline curl jobs may reach although they are blocked: loopback, "
        "link-local, multicast and cloud metadata addresses, and the API server. A network or a name does not allow "
        "the API server, only its exact address does. Nothing else is blocked.",
        default_text="none of them",
    )
    inline_http_proxies: tuple[str, ...] = setting(
        types.hosts(),
        (),
        "Networks, addresses and host names of the proxies that inline curl jobs may use (`job.curl.proxy`). A proxy "
        "looks up names itself, so whoever may use it reaches whatever it reaches: restrict it at the proxy.",
        default_text="none",
    )
    lease: float = setting(
        types.seconds(least="3s", most="10m"),
        15.0,
        "How long other replicas wait before they take over the runs of a replica that died. A shorter lease costs "
        "more renewals and tolerates a slow store less: an inline run is stopped if its lease can't be renewed.",
    )
    heartbeat: float = setting(
        types.seconds(least="1s", most="1h"),
        60.0,
        "The longest time between two polls of the store by a replica. A shorter time costs more queries, and helps "
        "only if a notification is lost.",
    )
    grace: float = setting(
        types.seconds(least="0s", most="1h"),
        20.0,
        "How long inline runs may continue after SIGTERM, before they are stopped and handed to another replica. The "
        "Pod's terminationGracePeriodSeconds has to be at least 8 seconds longer, and 68 seconds longer with the "
        "store in memory.",
    )
    status_budget: int = setting(
        types.count(least=1, most=10_000),
        20,
        "The maximum number of status writes a second by one replica, whatever the rate of runs. Only the latest "
        "status of an object is written.",
    )
    sweep_interval: float = setting(
        types.seconds(least="5s", most="1d"),
        60.0,
        "How often the operator lists all ScheduledJobs to find changes that its watch missed.",
    )
    pod_image: str | None = optional(
        types.image(),
        "The image for Pods of shell and curl jobs that don't name one, usually the operator's own image.",
        default_text="such jobs are invalid, and their status says why",
    )
    pod_security: str = setting(
        types.choice("privileged", "baseline", "restricted"),
        "baseline",
        "The Pod Security Standard that Pods with a user's image must meet. privileged: none. A job whose template "
        "violates it is invalid. By default, these Pods have seccomp RuntimeDefault, no privilege escalation, and no "
        "token unless the job names a service account. Pods with the operator's own image are always restricted.",
    )
    plugins: bool = setting(
        types.switch(), False, "Load the Python jobs of the packages that are installed with the operator."
    )
    listen: Listen = setting(  # noqa: RUF009  # makes a field, as field() does
        types.listen(),
        Listen("", 8080),
        "The address that serves /healthz, /readyz and /metrics, over plain HTTP, to everybody who can connect.",
    )
    log_level: str = setting(types.choice("debug", "info", "warning", "error"), "info", "The log level.")
    log_format: str = setting(
        types.choice("json", "console"), "json", "The log format: a JSON object in each line, or lines for people."
    )

    def __post_init__(self) -> None:
        left_out = [name for name in self.inline_shell_namespaces if name not in {*self.namespaces, types.ALL}]
        if self.namespaces and left_out:
            raise SettingsConflict(
                "inline_shell_namespaces",
                f"{listed(left_out, 'and')} would have no jobs to run, because the operator watches only "
                f"{listed(self.namespaces, 'and')}: add it there too, or remove it here",
            )

    def __repr__(self) -> str:
        """Return the settings without the store's password."""
        return f"OperatorSettings({', '.join(f'{name}={value}' for name, value in self.shown().items())})"

    def shown(self) -> dict[str, str]:
        """Return the text of every setting, for logs. The store's URL is without its password."""
        return {setting.name: setting.show(getattr(self, setting.name)) for setting in every_setting()}

    def may_run_shell_inline(self, namespace: str) -> bool:
        """Return whether the administrator allows shell jobs of this namespace inside the operator."""
        return types.ALL in self.inline_shell_namespaces or namespace in self.inline_shell_namespaces

    def warnings(self) -> list[str]:
        """Return warnings about settings that are valid but may surprise."""
        found = []
        if is_memory(self.store):
            found.append(
                "the store is in memory: run only one replica; a restart loses history, schedules continue from status"
            )
        if self.pod_image is None:
            found.append("without --pod-image, shell and curl jobs that run in Pods have to name an image")
        if self.accept_unconfined_shell and not self.inline_shell_namespaces:
            found.append("--accept-unconfined-shell has no effect: no namespace may run shell jobs inline")
        elif self.accept_unconfined_shell:
            found.append(
                "on a kernel without Landlock, inline shell jobs run unconfined: they can read the operator's files"
            )
        return found


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting, for the sources and the documentation."""

    name: str
    type: types.AnySettingType
    description: str
    default: Any
    default_text: str
    """The default in words, or as it is written."""

    @property
    def flag(self) -> str:
        return flag_of(self.name)

    @property
    def variable(self) -> str:
        return f"SJOB_{self.name.upper()}"

    @property
    def key(self) -> str:
        first, *others = self.name.split("_")
        return first + "".join(word.capitalize() for word in others)

    def show(self, value: Any) -> str:
        """Return a value as it is written; empty if it is unset."""
        return "" if value is None else self.type.show(value)


def flag_of(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def every_setting() -> Iterator[Setting]:
    """Yield the settings in the order of their fields."""
    for setting in fields(OperatorSettings):
        type: types.AnySettingType = setting.metadata["type"]
        default_text = setting.metadata["default_text"] or f"`{type.show(setting.default)}`"
        yield Setting(setting.name, type, setting.metadata["description"], setting.default, default_text)
