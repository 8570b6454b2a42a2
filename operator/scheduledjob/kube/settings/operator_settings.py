"""Settings of the operator: one model that the flags, the variables, the file, ``--help`` and the docs come from.

A field is a setting: ``pod_capacity`` is the flag ``--pod-capacity``, the variable ``SJOB_POD_CAPACITY`` and the key
``podCapacity`` of the file that ``--config`` names. What it means, what is allowed and what holds without it stands
beside the field, once. Where values come from, and which source wins, is in ``setting_sources.py``.

A plain dataclass: what its fields need is one notation for text from three places and messages that name the place,
which is less than it would take to bend a validation library to it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypeVar

from scheduledjob.manifests.problems import listed
from scheduledjob.stores import MEMORY_URL, is_memory
from scheduledjob.web.listen import Listen

from . import setting_types as kinds

if TYPE_CHECKING:
    from collections.abc import Iterator

T = TypeVar("T")


def setting(kind: kinds.SettingType[T], default: T, says: str, *, else_: str = "") -> T:
    """A field of the model. ``else_`` describes a default that is found out at the start."""
    made: T = field(default=default, metadata={"kind": kind, "says": says, "else": else_})
    return made


def optional(kind: kinds.SettingType[T], says: str, *, else_: str) -> T | None:
    """A field that may be unset; ``else_`` says what holds then."""
    made: T | None = field(default=None, metadata={"kind": kind, "says": says, "else": else_})
    return made


class Contradiction(ValueError):
    """Two settings that can't hold together."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{flag_of(name)}: {message}")
        self.name = name
        """The field that is to be changed."""
        self.message = message


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorSettings:
    """What an operator is told. Lengths are seconds. Raises ``Contradiction``."""

    store: str = setting(
        kinds.store_url(),
        MEMORY_URL,
        "Where schedules and runs are kept. With memory: there can be one replica. Any number of replicas share a "
        "Postgres or a Firestore. Give a URL with a password through the variable, from a Secret: flags can be seen by "
        "everybody on the machine, and files are copied.",
    )
    instance: str = setting(
        kinds.installation(),
        "local",
        "The installation in the store: operators of the same one share their work, those of another neither see nor "
        "run it. Unique for each cluster and release that share a store.",
    )
    namespaces: tuple[str, ...] = setting(
        kinds.namespaces(all_is=""),
        (),
        "The namespaces whose ScheduledJobs are run. Those of one that is taken off the list end once no replica "
        "with the old list lives; put on it again, they go on from what their status remembers.",
        else_="all namespaces",
    )
    namespace: str | None = optional(
        kinds.namespace(),
        "The namespace of the operator itself, where it keeps its Lease. It does not say which ScheduledJobs are run: "
        "that is namespaces.",
        else_="that of its own Pod; outside a cluster that of the kubeconfig's context",
    )
    memory_lease: str = setting(
        kinds.object_name(),
        "scheduledjob",
        "Name of the Lease, in the operator's namespace, that an operator with a store in memory holds while it works, "
        "and that one with any other store waits for at its start. Unique for each release in a namespace.",
    )
    kubeconfig: str | None = optional(
        kinds.existing_file(),
        "The kubeconfig file that tells how to reach the API server.",
        else_="that of the variable `KUBECONFIG`; in a Pod its service account; else `~/.kube/config`",
    )
    context: str | None = optional(
        kinds.context(), "The context of the kubeconfig to use.", else_="the kubeconfig's current context"
    )
    capacity: int = setting(
        kinds.count(least=1, most=100_000),
        4096,
        "How many schedules one replica holds at once for inline runs, claimed ahead and running. More wait in the "
        "store, for any replica that has room.",
    )
    pod_capacity: int = setting(
        kinds.count(least=1, most=100_000),
        4096,
        "How many runs one replica has in Pods at once. It guards the API server and the scheduler of the cluster; "
        "what Pods may use is limited by a ResourceQuota.",
    )
    inline_shell_namespaces: tuple[str, ...] = setting(
        kinds.namespaces(all_is=kinds.ALL),
        (),
        "The namespaces whose shell jobs may run inside the operator. Whoever may write ScheduledJobs there is trusted "
        "with the operator's network, CPU, memory and disk. Elsewhere shell jobs run as Pods.",
        else_="none",
    )
    accept_unconfined_shell: bool = setting(
        kinds.switch(),
        False,
        "Run inline shell jobs even where the kernel can't confine them (no Landlock). They can then read the "
        "operator's files: its service account's token, its configuration, other jobs' files.",
    )
    inline_http_allow: tuple[str, ...] = setting(
        kinds.hosts(),
        (),
        "What inline curl jobs may reach although it is closed to them: loopback, link-local, multicast and cloud "
        "metadata addresses, and the API server. Everything else is open to them.",
        else_="nothing of that",
    )
    lease: float = setting(
        kinds.seconds(least="3s", most="10m"),
        15.0,
        "How long the runs of a replica that died stay its own before another takes them over. Shorter costs more "
        "renewals, and less patience with a slow store: an inline run is stopped when its lease can't be renewed.",
    )
    heartbeat: float = setting(
        kinds.seconds(least="1s", most="1h"),
        60.0,
        "The longest a replica sleeps without a look at the store. Shorter costs queries; only a notification that "
        "was lost needs it.",
    )
    grace: float = setting(
        kinds.seconds(least="0s", most="1h"),
        20.0,
        "How long inline runs may continue after SIGTERM, before they are stopped and handed to another replica. The "
        "Pod's terminationGracePeriodSeconds has to be at least 8 seconds longer, and 68 seconds longer with the "
        "store in memory.",
    )
    status_budget: int = setting(
        kinds.count(least=1, most=10_000),
        20,
        "How many requests a second a replica spends on writing status, whatever the rate of runs is: the latest "
        "status wins, what is between is left out.",
    )
    sweep_interval: float = setting(
        kinds.seconds(least="5s", most="1d"),
        60.0,
        "How often all ScheduledJobs are listed to find those that went without the watch telling it.",
    )
    pod_image: str | None = optional(
        kinds.image(),
        "The image of the Pods of shell and curl jobs that name none: the operator's own.",
        else_="such jobs fail, and say so",
    )
    pod_security: str = setting(
        kinds.choice("baseline", "restricted"),
        "baseline",
        "What Pods with an image of the user must keep to. baseline: seccomp RuntimeDefault, no privilege escalation, "
        "no token unless a service account is named. restricted: all of the Pod Security Standard of that name. Pods "
        "with the operator's own image are always restricted.",
    )
    plugins: bool = setting(
        kinds.switch(), False, "Load the Python jobs that packages installed beside the operator announce."
    )
    listen: Listen = setting(  # noqa: RUF009  # makes a field, as field() does
        kinds.listen(),
        Listen("", 8080),
        "Where /healthz, /readyz and /metrics are served, over plain HTTP and to everybody who can connect.",
    )
    log_level: str = setting(kinds.choice("debug", "info", "warning", "error"), "info", "What the log tells.")
    log_format: str = setting(
        kinds.choice("json", "console"), "json", "One JSON object in each line, or lines for people."
    )

    def __post_init__(self) -> None:
        left_out = [name for name in self.inline_shell_namespaces if name not in {*self.namespaces, kinds.ALL}]
        if self.namespaces and left_out:
            raise Contradiction(
                "inline_shell_namespaces",
                f"{listed(left_out, 'and')} would have no jobs to run: it is not among the namespaces watched, "
                f"{listed(self.namespaces, 'and')}; add it there too, or leave it out here",
            )

    def __repr__(self) -> str:
        """Without the store's password."""
        return f"OperatorSettings({', '.join(f'{name}={value}' for name, value in self.shown().items())})"

    def shown(self) -> dict[str, str]:
        """Every setting as it would be written, for logs: the store without its password."""
        return {setting.name: setting.show(getattr(self, setting.name)) for setting in every_setting()}

    def may_run_shell_inline(self, namespace: str) -> bool:
        """Whether the administrator allows shell jobs of this namespace inside the operator."""
        return kinds.ALL in self.inline_shell_namespaces or namespace in self.inline_shell_namespaces

    def remarks(self) -> list[str]:
        """What is allowed, and better known at the start."""
        found = []
        if is_memory(self.store):
            found.append("the store is in memory: run one replica; history ends with it, schedules go on from status")
        if self.pod_image is None:
            found.append("there is no --pod-image: shell and curl jobs in Pods have to name an image of their own")
        if self.accept_unconfined_shell and not self.inline_shell_namespaces:
            found.append("--accept-unconfined-shell does nothing: no namespace may run shell jobs inline")
        elif self.accept_unconfined_shell:
            found.append(
                "inline shell jobs run unconfined where the kernel has no Landlock: they can read the operator's files"
            )
        return found


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting, as every source and page needs it."""

    name: str
    kind: kinds.AnySettingType
    says: str
    default: Any
    default_shown: str
    """In words or as it would be written."""

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
        """As it would be written; empty where it is unset."""
        return "" if value is None else self.kind.show(value)


def flag_of(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def every_setting() -> Iterator[Setting]:
    """In the order of the model."""
    for setting in fields(OperatorSettings):
        kind: kinds.AnySettingType = setting.metadata["kind"]
        shown = setting.metadata["else"] or f"`{kind.show(setting.default)}`"
        yield Setting(setting.name, kind, setting.metadata["says"], setting.default, shown)
