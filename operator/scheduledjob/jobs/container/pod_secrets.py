"""The Secrets that the containers of a Pod can read, with the values that they had when the Pod read them.

The kubelet, and not the operator, gives values of Secrets to a Pod. So the operator reads each Secret before it creates
the Pod, and again when the job has started and when it has ended. If the version is the same, the values are those that
the Pod has. The versions stand in an annotation of the Pod, for the replica that adopts it. If a Secret has changed
in between, the Pod may have values that nobody can read any more: then the text of the job is withheld.
"""

from __future__ import annotations

import asyncio
import base64
import re
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from scheduledjob.jobs.redaction import Redaction
from scheduledjob.jobs.shell.environment import PREFIX

from .pod_names import CONTAINER, SECRETS, annotation
from .pod_retrying import retry_until_answered
from .pods_protocol import PodRefused, PodsUnavailable, SecretVersion
from .runner_order import REFERENCE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .pod_limits import PodLimits
    from .pods_protocol import Pods

READ_SECONDS = 15.0
"""Maximum seconds for reading the Secrets of a Pod that exists."""
_PAYLOAD = f"{PREFIX}PAYLOAD"
_OF_IMAGE = re.compile("image|registry", re.IGNORECASE)
"""In words that may quote a registry. Others are not worth a request for its credentials."""
_KINDS = ("containers", "initContainers", "ephemeralContainers")


@dataclass(slots=True)
class SecretUse:
    """How a Pod uses a Secret."""

    keys: set[str] | None = field(default_factory=set)
    """None: all keys."""
    live: bool = False
    """Whether a container may read it after the job's container has started: from a volume, or as a sidecar."""

    def add(self, key: str | None, *, live: bool) -> None:
        if key is None or self.keys is None:
            self.keys = None
        else:
            self.keys.add(key)
        self.live = self.live or live


def secret_uses(pod: Mapping[str, Any]) -> dict[str, SecretUse]:
    """Return the Secrets that any container of a Pod can read."""
    found: dict[str, SecretUse] = {}
    for kind in _KINDS:
        for container in pod["spec"].get(kind) or ():
            if kind == "initContainers":
                live = container.get("restartPolicy") == "Always"
            else:
                live = container.get("name") != CONTAINER
            for name, key in _of_container(container):
                found.setdefault(name, SecretUse()).add(key, live=live)
    for volume in pod["spec"].get("volumes") or ():
        for name in _of_volume(volume):
            found.setdefault(name, SecretUse()).add(None, live=True)
    return found


def _of_container(container: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    for variable in container.get("env") or ():
        reference = (variable.get("valueFrom") or {}).get("secretKeyRef")
        if reference is not None and reference.get("name"):
            yield reference["name"], reference.get("key")
    for source in container.get("envFrom") or ():
        if name := (source.get("secretRef") or {}).get("name"):
            yield name, None


def _of_volume(volume: Mapping[str, Any]) -> Iterator[str]:
    if name := (volume.get("secret") or {}).get("secretName"):
        yield name
    for source in (volume.get("projected") or {}).get("sources") or ():
        if name := (source.get("secret") or {}).get("name"):
            yield name
    if name := ((volume.get("csi") or {}).get("nodePublishSecretRef") or {}).get("name"):
        yield name


def are_known_to_runner(pod: Mapping[str, Any]) -> bool:
    """Whether all Secrets of a Pod are references of its job, so that the runner has masked them."""
    given = {name for kind in _KINDS for container in pod["spec"].get(kind) or () for name, _ in _of_others(container)}
    return not given and not any(True for volume in pod["spec"].get("volumes") or () for _ in _of_volume(volume))


def _of_others(container: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    """Return the Secrets of a container without those in variables for the runner."""
    env = [item for item in container.get("env") or () if not item["name"].startswith((REFERENCE, _PAYLOAD))]
    return _of_container({**container, "env": env})


def has_token(pod: Mapping[str, Any]) -> bool:
    """Whether the kubelet gives the Pod a token of its service account."""
    return any(
        item.get("serviceAccountToken")
        for volume in pod["spec"].get("volumes") or ()
        for item in (volume.get("projected") or {}).get("sources") or ()
    )


def _unknown_secrets(pod: Mapping[str, Any]) -> str:
    """Return why volumes may contain secrets that nobody can read here; empty if none may."""
    for volume in pod["spec"].get("volumes") or ():
        name = volume.get("name")
        for source, kind in (("csi", "CSI volume"), ("flexVolume", "FlexVolume")):
            if volume.get(source):  # its driver may fetch secrets from anywhere
                return f'the {kind} "{name}" may contain secrets that the operator can\'t know'
        for item in (volume.get("projected") or {}).get("sources") or ():
            if item.get("podCertificate"):
                return f'the operator can\'t know the private key in the volume "{name}"'
    return ""


class PodSecrets:
    """The Secrets of the Pod of an attempt. ``redaction`` returns what masks their values."""

    def __init__(self, pods: Pods, namespace: str) -> None:
        self._pods = pods
        self._namespace = namespace
        self._first: dict[str, SecretVersion] = {}
        """As they were before the Pod read them."""
        self._at_start: dict[str, SecretVersion] = {}
        """As they were when the job's container had started."""
        self._known: tuple[int, Redaction] | None = None
        """How many Secrets had been read when this redaction of their values was made."""
        self._knows_registries = False
        """Whether it also has the credentials for registries."""
        self._unknown: dict[str, str] = {}
        """Why the values that the Pod has can't be known, by the name of the Secret."""

    async def read(self, pod: Mapping[str, Any], limits: PodLimits) -> None:
        """Read the Secrets of a Pod that is about to be created.

        Raises ``NotStartedError`` if they can't be read within the limits.
        """
        for name in sorted(secret_uses(pod)):
            try:
                self._first[name] = await retry_until_answered(
                    partial(self._pods.secret, self._namespace, name), limits
                )
            except PodRefused:
                self._unknown[name] = _unreadable(name)

    async def complete(self, pod: Mapping[str, Any]) -> None:
        """Read the Secrets of a Pod that was just created, which are more if admission has added containers."""
        for name in secret_uses(pod).keys() - self._first.keys() - self._unknown.keys():
            found = await self._try(name)
            if isinstance(found, str):
                self._unknown[name] = found
            else:
                self._first[name] = found

    @property
    def annotation(self) -> str:
        """The versions of the Secrets, for an annotation of the Pod; empty if it has none."""
        versions = {name: found.version for name, found in sorted(self._first.items())}
        return msgspec.json.encode(versions).decode() if versions else ""

    async def adopt(self, pod: Mapping[str, Any]) -> None:
        """Read the Secrets of a Pod that exists, and compare them with the versions in its annotation."""
        self._first.clear()
        self._known = None
        self._unknown.clear()
        versions = _versions(annotation(pod, SECRETS))
        for name in secret_uses(pod):
            found = await self._try(name)
            if isinstance(found, str):
                self._unknown[name] = found
            elif name not in versions:
                self._unknown[name] = f'the Pod does not say which version of Secret "{name}" it has'
            elif versions[name] != found.version:
                self._unknown[name] = _changed(name)
            else:
                self._first[name] = found

    async def note_start(self, pod: Mapping[str, Any]) -> None:
        """Read the Secrets again: if they are the same as before, the job has these values."""
        for name, use in secret_uses(pod).items():
            if not use.live and name in self._first and name not in self._at_start:
                found = await self._try(name)
                if isinstance(found, SecretVersion):
                    self._at_start[name] = found

    async def redaction(self, pod: Mapping[str, Any]) -> Redaction:
        """Return what masks the values that the containers of a Pod have had, or withholds what it can't mask."""
        redaction = Redaction(tokens=True, namespace=self._namespace)
        if why := _unknown_secrets(pod):
            redaction.withhold(why)
        for name, use in secret_uses(pod).items():
            if name in self._unknown:
                redaction.withhold(self._unknown[name])
                continue
            now = await self._try(name)
            first, at_start = self._first.get(name), self._at_start.get(name)
            for version in {id(found): found for found in (first, at_start, now)}.values():
                if isinstance(version, SecretVersion):
                    _remember(redaction, version, use)
            if first is None:
                redaction.withhold(f'Secret "{name}" was added to the Pod after its creation')
            elif isinstance(now, SecretVersion) and now.version == first.version:
                continue
            elif use.live or at_start is None or at_start.version != first.version:
                redaction.withhold(now if isinstance(now, str) else _changed(name))
        return redaction

    async def mask_known(self, pod: Mapping[str, Any], words: str) -> str:
        """Mask the values that were read before the Pod started, and credentials for registries, in words about a Pod
        that waits."""
        registries = bool(pod["spec"].get("imagePullSecrets")) and _OF_IMAGE.search(words) is not None
        if not words or not (self._first or registries):
            return words
        if self._known is None or self._known[0] != len(self._first):
            redaction, uses = Redaction(namespace=self._namespace), secret_uses(pod)
            for name, version in self._first.items():
                if name in uses:
                    _remember(redaction, version, uses[name])
            self._known = len(self._first), redaction
            self._knows_registries = False
        redaction = self._known[1]
        if registries and not self._knows_registries:
            self._knows_registries = True
            await self.pull_secrets(pod, redaction)
        return await redaction.secrets.masked_text(words)

    async def pull_secrets(self, pod: Mapping[str, Any], redaction: Redaction) -> None:
        """Mask the credentials for registries, too. No container can read them, but an error of a registry may."""
        for reference in pod["spec"].get("imagePullSecrets") or ():
            found = await self._try(str(reference.get("name")))
            if isinstance(found, SecretVersion):
                for value in found.values.values():
                    for credential in _credentials(value):
                        redaction.remember(credential)

    async def _try(self, name: str) -> SecretVersion | str:
        """Read a Secret; return why it can't be read if that fails."""
        try:
            async with asyncio.timeout(READ_SECONDS):
                return await self._pods.secret(self._namespace, name)
        except (PodRefused, PodsUnavailable, TimeoutError):
            return _unreadable(name)


def _remember(redaction: Redaction, version: SecretVersion, use: SecretUse) -> None:
    for key, value in version.values.items():
        if use.keys is None or key in use.keys:
            redaction.remember(value)


def _unreadable(name: str) -> str:
    return f"Secret \"{name}\" can't be read, so its values can't be masked"


def _changed(name: str) -> str:
    return f'Secret "{name}" was changed since the Pod started'


def _versions(text: str) -> dict[str, str]:
    try:
        return msgspec.json.decode(text or "{}", type=dict[str, str])
    except (msgspec.MsgspecError, RecursionError):
        return {}


def _credentials(value: bytes) -> Iterator[str | bytes]:
    """Yield the parts of a registry configuration that must not be shown."""
    try:
        found = msgspec.json.decode(value)
    except (msgspec.MsgspecError, RecursionError):
        return
    servers = found.get("auths", found) if isinstance(found, dict) else {}
    for entry in servers.values() if isinstance(servers, dict) else ():
        for key in ("password", "auth", "identitytoken", "registrytoken"):
            if isinstance(entry, dict) and isinstance(entry.get(key), str) and entry[key]:
                yield entry[key]
                if key == "auth":  # a user and a password
                    with suppress(ValueError):
                        yield base64.b64decode(entry[key]).partition(b":")[2]
