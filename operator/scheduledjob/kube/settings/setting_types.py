"""The types of settings, with the same notation for flags, variables and the file.

Each type reads text, and raises a ``ValueError`` that says what is wrong and what to write instead. All three sources
provide text, so ``15s`` means the same everywhere, and errors have the same message.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from scheduledjob.domain.time.durations import format_duration, parse_duration
from scheduledjob.domain.time.instants import SECOND, from_seconds
from scheduledjob.engine.capacity import MAX_WEIGHT, MIN_WEIGHT
from scheduledjob.manifests.problems import listed, nearest, quoted
from scheduledjob.web.listen import Listen, parse_listen

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")

ALL = "*"
"""Stands for every namespace in settings whose empty list means none."""

_TRUE = frozenset({"true", "yes", "on", "1"})
_FALSE = frozenset({"false", "no", "off", "0"})
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_IMAGE = re.compile(r"[A-Za-z0-9]\S{0,1023}")


@dataclass(frozen=True, slots=True)
class SettingType(Generic[T]):
    """A type of value."""

    metavar: str
    allowed: str
    """What is allowed, in words, for the documentation."""
    read: Callable[[Sequence[str]], T]
    """Returns the value of a single text, or of any number of texts if ``many``."""
    show: Callable[[T], str] = field(default=str)
    """Returns a value as it is written."""
    many: bool = False
    """Whether the value is a list."""
    switch: bool = False
    """Whether the flag has no value: ``--plugins``, ``--no-plugins``."""


def _single(parse: Callable[[str], T]) -> Callable[[Sequence[str]], T]:
    def read(texts: Sequence[str]) -> T:
        (text,) = texts
        return parse(text.strip())

    return read


def seconds(*, least: str, most: str = "1d") -> SettingType[float]:
    """A duration, in seconds."""
    shortest, longest = parse_duration(least), parse_duration(most)

    def parse(text: str) -> float:
        length = parse_duration(text)
        if not shortest <= length <= longest:
            raise ValueError(f"{quoted(text)} is too {'short' if length < shortest else 'long'}: {allowed}")
        return length / SECOND

    allowed = f"write {least} to {most}"
    return SettingType(
        "DURATION", f"`{least}` to `{most}`", _single(parse), lambda value: format_duration(from_seconds(value))
    )


def count(*, least: int, most: int) -> SettingType[int]:
    allowed = f"write a whole number from {least} to {most}"

    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,12}", text) or not least <= int(text) <= most:
            raise ValueError(f"{quoted(text)} is not allowed: {allowed}")
        return int(text)

    return SettingType("NUMBER", f"a whole number from {least} to {most}", _single(parse))


def switch() -> SettingType[bool]:
    def parse(text: str) -> bool:
        if text.lower() in _TRUE:
            return True
        if text.lower() in _FALSE:
            return False
        raise ValueError(f"{quoted(text)} is not allowed: write true or false")

    return SettingType(
        "BOOLEAN", "`true` or `false`", _single(parse), lambda value: "true" if value else "false", switch=True
    )


def choice(*names: str) -> SettingType[str]:
    def parse(text: str) -> str:
        if text in names:
            return text
        near = nearest(text, names)
        hint = f"did you mean {near}? " if near else ""
        raise ValueError(f"{quoted(text)} is not allowed: {hint}write {listed(names)}")

    return SettingType("|".join(names), listed([f"`{name}`" for name in names]), _single(parse))


def matching(metavar: str, form: re.Pattern[str], allowed: str, longest: int) -> SettingType[str]:
    """A text that matches a pattern. ``allowed`` describes the pattern."""

    def parse(text: str) -> str:
        if len(text) > longest or not form.fullmatch(text):
            raise ValueError(f"{quoted(text)} is not allowed: write {allowed}")
        return text

    return SettingType(metavar, allowed, _single(parse))


def namespace() -> SettingType[str]:
    return matching("NAMESPACE", _LABEL, "lower-case letters, digits and -, 63 characters at most", 63)


def object_name() -> SettingType[str]:
    return matching("NAME", _SUBDOMAIN, "lower-case letters, digits, - and ., 253 characters at most", 253)


def installation() -> SettingType[str]:
    return matching("NAME", re.compile(r"[!-~]+"), "1 to 253 printable ASCII characters without spaces", 253)


def image() -> SettingType[str]:
    return matching("IMAGE", _IMAGE, "a container image, as in registry.example.com/team/scheduledjob:1.2", 1024)


def context() -> SettingType[str]:
    return matching("NAME", re.compile(r"[^\x00-\x1f]+"), "the name of a context in the kubeconfig", 253)


def existing_file() -> SettingType[str]:
    def parse(text: str) -> str:
        if not Path(text).is_file():
            raise ValueError(f"there is no file {quoted(text)}: write the path of a kubeconfig file")
        return text

    return SettingType("PATH", "the path of an existing file", _single(parse))


def listen() -> SettingType[Listen]:
    return SettingType(
        "HOST:PORT", "`host:port`, or `:port` for every address; port 0 means a free port", _single(parse_listen)
    )


def store_url() -> SettingType[str]:
    def parse(text: str) -> str:
        from scheduledjob.stores import ALLOWED, open_store

        try:
            open_store(text)
        except ValueError as error:
            # The message may quote a part of the URL that can't be read, which may be the password.
            message = (
                str(error) if not _repeats_a_secret(str(error), text) else f"the URL can't be read: write {ALLOWED}"
            )
            raise ValueError(message) from None
        return text

    return SettingType(
        "URL", "`memory:`, `postgresql://...` or `firestore://project/collection`", _single(parse), without_password
    )


def _repeats_a_secret(message: str, url: str) -> bool:
    """Whether the message contains a word of the user, the password or the parameters of the URL."""
    rest = url.partition(":")[2]
    login, parameters = rest.rpartition("@")[0], "".join(re.split("[?#]", rest, maxsplit=1)[1:])
    if "password" not in parameters:
        # The names of parameters are no secret, unless they may be the rest of a password that was not encoded.
        parameters = re.sub("(^|&)[^&=]*=", " ", parameters)
    words = re.findall("[0-9A-Za-z]{3,}", f"{login} {parameters}")
    return any(word in message for word in words)


def without_password(url: str) -> str:
    """Return a store's URL without user, password and parameters."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return f"{url.partition(':')[0]}:"
    shown = re.split("[?#]", rest, maxsplit=1)[0]
    # A password that was not encoded may contain any of the characters that end it.
    return f"{scheme}://..." if "@" in rest[len(shown) :] else f"{scheme}://{shown.rpartition('@')[2]}"


def _items(texts: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(item.strip() for text in texts for item in text.split(",") if item.strip()))


def _join(values: Sequence[str]) -> str:
    return ",".join(values)


def namespaces(*, all_is: str) -> SettingType[tuple[str, ...]]:
    """A list of namespaces. ``all_is`` is how all namespaces are written: ``*``, or an empty list (\"\")."""

    def read(texts: Sequence[str]) -> tuple[str, ...]:
        names = _items(texts)
        if ALL in names:
            if not all_is:
                raise ValueError(f'"{ALL}" is not allowed: omit the setting for all namespaces')
            if len(names) > 1:
                raise ValueError(f'"{ALL}" stands for all namespaces: write it alone, or remove it')
            return (ALL,)
        name_type = namespace()
        return tuple(name_type.read([name]) for name in names)

    allowed = "names of namespaces" + (f", or `{ALL}` for all" if all_is else "")
    return SettingType("NAMESPACE,...", allowed, read, _join, many=True)


def hosts() -> SettingType[tuple[str, ...]]:
    """Networks, addresses and host names, as the address filter of HTTP jobs reads them."""

    def read(texts: Sequence[str]) -> tuple[str, ...]:
        from scheduledjob.jobs.curl.addresses import AddressFilter

        items = _items(texts)
        for item in items:
            try:
                AddressFilter([item])
            except ValueError:
                raise ValueError(
                    f"{quoted(item)} is not allowed: write a network such as 10.0.0.0/8, an address or a host name"
                ) from None
        return tuple(items)

    return SettingType("HOST,...", "networks such as `10.0.0.0/8`, addresses and host names", read, _join, many=True)


def number(*, least: float, most: float) -> SettingType[float]:
    """A number, as in ``0.875``."""
    allowed = f"a number from {least:g} to {most:g}"

    def read(text: str) -> float:
        if _NUMBER.fullmatch(text) and least <= float(text) <= most:
            return float(text)
        raise ValueError(f"{quoted(text)} is not allowed: write {allowed}")

    return SettingType("NUMBER", allowed, _single(read), lambda value: f"{value:g}")


def weights() -> SettingType[tuple[tuple[str, float], ...]]:
    """Weights of namespaces, as in ``team-a=2``."""
    names, values = namespace(), number(least=MIN_WEIGHT, most=MAX_WEIGHT)

    def read(texts: Sequence[str]) -> tuple[tuple[str, float], ...]:
        found: dict[str, float] = {}
        for item in _items(texts):
            name, separator, weight = item.partition("=")
            if not separator:
                raise ValueError(f"{quoted(item)} is not allowed: write NAMESPACE=WEIGHT, as in team-a=2")
            found[names.read([name])] = values.read([weight])
        return tuple(found.items())

    return SettingType(
        "NAMESPACE=WEIGHT,...",
        f"names of namespaces with their weights, {values.allowed[2:].replace('number', 'numbers')}, as in `team-a=2`",
        read,
        lambda items: ",".join(f"{name}={weight:g}" for name, weight in items),
        many=True,
    )


AnySettingType = SettingType[Any]
