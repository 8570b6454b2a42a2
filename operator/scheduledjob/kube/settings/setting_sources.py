"""Where settings come from: flags win over variables, variables over the file, the file over the defaults.

Whatever is wrong is found before anything starts, all of it at once, and said with its place: the flag, the variable,
or the file and line. A name that is not known is an error in each of the three, because a setting that is misspelt
is one that silently does not hold.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scheduledjob.manifests.problems import nearest, plain, quoted

from .operator_settings import Contradiction, OperatorSettings, Setting, every_setting

if TYPE_CHECKING:
    from collections.abc import Collection
    from collections.abc import Mapping as Given
    from collections.abc import Sequence as Texts

    from scheduledjob.manifests.yamltree import Mapping, Node

PREFIX = "SJOB_"
CONFIG_VARIABLE = "SJOB_CONFIG"
LARGEST_FILE = 1 << 20
"""Bytes."""

# What Kubernetes puts into the environment for a Service whose name begins with "sjob".
_SERVICE_LINK = re.compile(
    r"SJOB(_[A-Z0-9_]+)?_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_SERVICE_URL = re.compile(r"(tcp|udp|sctp)://")


class SettingsError(ValueError):
    """Settings that nothing can be started with; each fault names its place and what to write instead."""

    def __init__(self, faults: Texts[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = tuple(faults)


@dataclass(frozen=True, slots=True)
class Found:
    """What one source says of one setting."""

    origin: str
    """``--lease``, ``SJOB_LEASE``, ``operator.yaml:3: lease``."""
    texts: Texts[str]


def read_settings(flags: Given[str, Texts[str]], environment: Given[str, str]) -> OperatorSettings:
    """The settings; ``SettingsError`` says everything that is wrong with them.

    ``flags`` holds the texts of each flag that was typed, by the field's name, and that of ``config``. A variable that
    is empty counts as not set, and so does a key of the file without a value.
    """
    faults: list[str] = []
    known = {setting.name: setting for setting in every_setting()}
    found: dict[str, Found] = {}
    file = flags["config"][0] if "config" in flags else environment.get(CONFIG_VARIABLE, "")
    if file:
        origin = "--config" if "config" in flags else CONFIG_VARIABLE
        found.update(_from_file(file, origin, known.values(), faults))
    found.update(_from_environment(environment, known.values(), faults))
    found.update({name: Found(known[name].flag, texts) for name, texts in flags.items() if name != "config"})
    values: dict[str, Any] = {}
    for name, given in found.items():
        try:
            values[name] = known[name].kind.read(given.texts)
        except ValueError as error:
            faults.append(f"{given.origin}: {error}")
    if faults:
        raise SettingsError(faults)
    try:
        return OperatorSettings(**values)
    except Contradiction as error:
        raise SettingsError([f"{found[error.name].origin}: {error.message}"]) from None


def _from_environment(environment: Given[str, str], known: Collection[Setting], faults: list[str]) -> dict[str, Found]:
    names = {setting.variable: setting.name for setting in known}
    found = {}
    for variable, text in sorted(environment.items()):
        if not variable.startswith(PREFIX) or variable == CONFIG_VARIABLE:
            continue
        if variable in names:
            if text.strip():
                found[names[variable]] = Found(variable, [text])
        elif not _is_service_link(variable, text):
            faults.append(_unknown(variable, "is no variable of the operator", [*names, CONFIG_VARIABLE]))
    return found


def _is_service_link(variable: str, text: str) -> bool:
    return bool(_SERVICE_LINK.fullmatch(variable)) or (variable.endswith("_PORT") and bool(_SERVICE_URL.match(text)))


def _from_file(path: str, origin: str, known: Collection[Setting], faults: list[str]) -> dict[str, Found]:
    from scheduledjob.manifests.yamltree import YamlError, to_python

    try:
        root = _parsed(path, faults)
    except (OSError, UnicodeDecodeError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        faults.append(f"{origin}: {quoted(path)} can't be read: {reason}")
        return {}
    except YamlError as error:
        faults.append(f"{plain(path)}:{error.line}: {error.message}")
        return {}
    if root is None:
        return {}
    names = {setting.key: setting for setting in known}
    found = {}
    for key, (place, node) in root.entries.items():
        where = f"{plain(path)}:{place.line}"
        if key not in names:
            faults.append(f"{where}: {_unknown(plain(key[:60]), 'is no setting of the operator', list(names))}")
            continue
        try:
            texts = _texts(node, names[key])
            empty = texts is None or (isinstance(texts, str) and to_python(node) is None)
        except (YamlError, ValueError) as error:
            faults.append(f"{where}: {key}: {error}")
            continue
        if not empty and texts is not None:
            found[names[key].name] = Found(f"{where}: {key}", [texts] if isinstance(texts, str) else texts)
    return found


def _parsed(path: str, faults: list[str]) -> Mapping | None:
    """The file's one mapping; None for an empty file."""
    from scheduledjob.manifests.yamltree import Mapping, YamlError, documents

    with Path(path).open("rb") as file:
        content = file.read(LARGEST_FILE + 1)
    if len(content) > LARGEST_FILE:
        raise ValueError(f"it is larger than {LARGEST_FILE >> 20} MiB, and no file of settings")
    twice: list[YamlError] = []
    found = list(documents(content.decode(), twice))
    faults += [f"{plain(path)}:{fault.line}: {fault.message}" for fault in twice]
    if not found:
        return None
    if len(found) > 1:
        raise YamlError(found[1].line, 1, "a second document: write all settings in one")
    if not isinstance(found[0], Mapping):
        raise YamlError(found[0].line, 1, "these are no settings: write lines such as lease: 15s")
    return found[0]


def _texts(node: Node, setting: Setting) -> str | list[str]:
    """What stands there, as it was written."""
    from scheduledjob.manifests.yamltree import Scalar, Sequence

    if isinstance(node, Scalar):
        return node.text
    if not setting.kind.many:
        raise ValueError(f"one value is expected: write {setting.kind.allowed.replace('`', '')}")
    if isinstance(node, Sequence):
        texts = [item.text for item in node.items if isinstance(item, Scalar)]
        if len(texts) == len(node.items):
            return texts
    raise ValueError(f"a list is expected: write {setting.kind.allowed.replace('`', '')}, each after a dash")


def _unknown(name: str, what: str, known: list[str]) -> str:
    near = nearest(name, known)
    return f"{name} {what}: " + (f"did you mean {near}?" if near else f"there are {', '.join(sorted(known))}")
