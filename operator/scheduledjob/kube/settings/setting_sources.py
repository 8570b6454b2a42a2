"""Reads settings from flags, variables and a file: flags win over variables, variables over the file.

All errors are found before anything starts, and reported together. Each message names the flag, the variable, or the
file and the line. Unknown names are errors in all three sources, because a misspelled setting would silently have no
effect.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scheduledjob.manifests.problems import nearest, plain, quoted

from .operator_settings import OperatorSettings, Setting, SettingsConflict, every_setting

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from scheduledjob.manifests import yamltree

PREFIX = "SJOB_"
CONFIG_VARIABLE = "SJOB_CONFIG"
MAX_FILE = 1 << 20
"""Bytes of the file."""

# Variables that Kubernetes sets for a Service whose name begins with "sjob".
_SERVICE_LINK = re.compile(
    r"SJOB(_[A-Z0-9_]+)?_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_SERVICE_URL = re.compile(r"(tcp|udp|sctp)://")


class SettingsError(ValueError):
    """Invalid settings. Each fault names its source and says what to write instead."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = tuple(faults)


@dataclass(frozen=True, slots=True)
class SettingText:
    """The text of a setting in one source."""

    origin: str
    """``--lease``, ``SJOB_LEASE``, ``operator.yaml:3: lease``."""
    texts: Sequence[str]


def read_settings(flags: Mapping[str, Sequence[str]], environment: Mapping[str, str]) -> OperatorSettings:
    """Return the settings. Raises ``SettingsError`` with everything that is wrong.

    ``flags`` has the texts of each flag that was given, by the field's name, and of ``config``. An empty variable and a
    key of the file without a value count as not set.
    """
    faults: list[str] = []
    known = {setting.name: setting for setting in every_setting()}
    found: dict[str, SettingText] = {}
    file = flags["config"][0] if "config" in flags else environment.get(CONFIG_VARIABLE, "")
    if file:
        origin = "--config" if "config" in flags else CONFIG_VARIABLE
        found.update(_from_file(file, origin, known.values(), faults))
    found.update(_from_environment(environment, known.values(), faults))
    found.update({name: SettingText(known[name].flag, texts) for name, texts in flags.items() if name != "config"})
    values: dict[str, Any] = {}
    for name, given in found.items():
        try:
            values[name] = known[name].type.read(given.texts)
        except ValueError as error:
            faults.append(f"{given.origin}: {error}")
    if faults:
        raise SettingsError(faults)
    try:
        return OperatorSettings(**values)
    except SettingsConflict as error:
        raise SettingsError([f"{found[error.name].origin}: {error.message}"]) from None


def _from_environment(
    environment: Mapping[str, str], known: Collection[Setting], faults: list[str]
) -> dict[str, SettingText]:
    names = {setting.variable: setting.name for setting in known}
    found = {}
    for variable, text in sorted(environment.items()):
        if not variable.startswith(PREFIX) or variable == CONFIG_VARIABLE:
            continue
        if variable in names:
            if text.strip():
                found[names[variable]] = SettingText(variable, [text])
        elif not _is_service_link(variable, text):
            faults.append(_unknown(variable, "is not a variable of the operator", [*names, CONFIG_VARIABLE]))
    return found


def _is_service_link(variable: str, text: str) -> bool:
    return bool(_SERVICE_LINK.fullmatch(variable)) or (variable.endswith("_PORT") and bool(_SERVICE_URL.match(text)))


def _from_file(path: str, origin: str, known: Collection[Setting], faults: list[str]) -> dict[str, SettingText]:
    from scheduledjob.manifests.yamltree import YamlError, to_python

    try:
        root = _parse_file(path, faults)
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
            faults.append(f"{where}: {_unknown(plain(key[:60]), 'is not a setting of the operator', list(names))}")
            continue
        try:
            texts = _texts(node, names[key])
            empty = texts is None or (isinstance(texts, str) and to_python(node) is None)
        except (YamlError, ValueError) as error:
            faults.append(f"{where}: {key}: {error}")
            continue
        if not empty and texts is not None:
            texts = [texts] if isinstance(texts, str) else texts
            found[names[key].name] = SettingText(f"{where}: {key}", texts)
    return found


def _parse_file(path: str, faults: list[str]) -> yamltree.Mapping | None:
    """Return the mapping in the file, or None if the file is empty."""
    from scheduledjob.manifests.yamltree import Mapping, YamlError, documents

    with Path(path).open("rb") as file:
        content = file.read(MAX_FILE + 1)
    if len(content) > MAX_FILE:
        raise ValueError(f"it is larger than {MAX_FILE >> 20} MiB, so it is not a file of settings")
    duplicates: list[YamlError] = []
    found = list(documents(content.decode(), duplicates))
    faults += [f"{plain(path)}:{fault.line}: {fault.message}" for fault in duplicates]
    if not found:
        return None
    if len(found) > 1:
        raise YamlError(found[1].line, 1, "a second document is not allowed: write all settings in one document")
    if not isinstance(found[0], Mapping):
        raise YamlError(found[0].line, 1, "no settings found: write lines such as lease: 15s")
    return found[0]


def _texts(node: yamltree.Node, setting: Setting) -> str | list[str]:
    """Return the text of a value, or the texts of a list, as they were written."""
    from scheduledjob.manifests.yamltree import Scalar, Sequence

    if isinstance(node, Scalar):
        return node.text
    if not setting.type.many:
        raise ValueError(f"a single value is expected: write {setting.type.allowed.replace('`', '')}")
    if isinstance(node, Sequence):
        texts = [item.text for item in node.items if isinstance(item, Scalar)]
        if len(texts) == len(node.items):
            return texts
    raise ValueError(f"a list is expected: write {setting.type.allowed.replace('`', '')}, each after a dash")


def _unknown(name: str, what: str, known: list[str]) -> str:
    near = nearest(name, known)
    return f"{name} {what}: " + (f"did you mean {near}?" if near else f"known are {', '.join(sorted(known))}")
