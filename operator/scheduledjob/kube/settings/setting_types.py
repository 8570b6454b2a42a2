"""How settings are written: one notation for flags, variables and the file.

Each kind of value reads text and says in a ``ValueError`` what is wrong with it and what to write instead. All three
sources hand over text, so that ``15s`` means the same, and is refused with the same words, wherever it stands.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from scheduledjob.domain.time.durations import format_duration, parse_duration
from scheduledjob.domain.time.instants import SECOND, from_seconds
from scheduledjob.manifests.problems import listed, nearest, quoted
from scheduledjob.web.listen import Listen, parse_listen

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")

ALL = "*"
"""Every namespace, where a list of namespaces is otherwise empty by default."""

_TRUE = frozenset({"true", "yes", "on", "1"})
_FALSE = frozenset({"false", "no", "off", "0"})
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_IMAGE = re.compile(r"[A-Za-z0-9]\S{0,1023}")


@dataclass(frozen=True, slots=True)
class SettingType(Generic[T]):
    """One kind of value."""

    metavar: str
    allowed: str
    """In words, for the documentation."""
    read: Callable[[Sequence[str]], T]
    """The value of one text; of any number where it is ``many``."""
    show: Callable[[T], str] = field(default=str)
    """As it would be written."""
    many: bool = False
    switch: bool = False


def _single(parse: Callable[[str], T]) -> Callable[[Sequence[str]], T]:
    def read(words: Sequence[str]) -> T:
        (word,) = words
        return parse(word.strip())

    return read


def seconds(*, least: str, most: str = "1d") -> SettingType[float]:
    """A length of time, as seconds."""
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
    """Text of one form; ``allowed`` says which."""

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
            raise ValueError(f"{quoted(text)} is no file that is there: write the path of a kubeconfig file")
        return text

    return SettingType("PATH", "the path of a file that is there", _single(parse))


def listen() -> SettingType[Listen]:
    return SettingType(
        "HOST:PORT", "`host:port`, or `:port` for every address; port 0 is a free one", _single(parse_listen)
    )


def store_url() -> SettingType[str]:
    def parse(text: str) -> str:
        from scheduledjob.stores import ALLOWED, open_store

        try:
            open_store(text)
        except ValueError as error:
            # Whoever could not read a part of the URL repeats it, and it may be the password.
            message = (
                str(error) if not _repeats_a_secret(str(error), text) else f"the URL can't be read: write {ALLOWED}"
            )
            raise ValueError(message) from None
        return text

    return SettingType(
        "URL", "`memory:`, `postgresql://...` or `firestore://project/collection`", _single(parse), without_password
    )


def _repeats_a_secret(message: str, url: str) -> bool:
    """Whether any word of the user, the password or the values of parameters of a URL stands in the message."""
    rest = url.partition(":")[2]
    login, parameters = rest.rpartition("@")[0], "".join(re.split("[?#]", rest, maxsplit=1)[1:])
    if "password" not in parameters:
        # The names of parameters may be repeated; beside a password they may be the rest of it.
        parameters = re.sub("(^|&)[^&=]*=", " ", parameters)
    words = re.findall("[0-9A-Za-z]{3,}", f"{login} {parameters}")
    return any(word in message for word in words)


def without_password(url: str) -> str:
    """A store's URL as it may be shown: without user, password and parameters."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return f"{url.partition(':')[0]}:"
    shown = re.split("[?#]", rest, maxsplit=1)[0]
    # A password that is not encoded as it should be may hold any of the characters that end it.
    return f"{scheme}://..." if "@" in rest[len(shown) :] else f"{scheme}://{shown.rpartition('@')[2]}"


def _words(given: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(word.strip() for text in given for word in text.split(",") if word.strip()))


def _join(values: Sequence[str]) -> str:
    return ",".join(values)


def namespaces(*, all_is: str) -> SettingType[tuple[str, ...]]:
    """A list of namespaces; ``all_is`` is how all of them are written: ``*``, or an empty list (\"\")."""

    def read(given: Sequence[str]) -> tuple[str, ...]:
        words = _words(given)
        if ALL in words:
            if not all_is:
                raise ValueError(f'"{ALL}" is not allowed: leave the setting out for all namespaces')
            if len(words) > 1:
                raise ValueError(f'"{ALL}" stands for all namespaces: write it alone, or leave it out')
            return (ALL,)
        name = namespace()
        return tuple(name.read([word]) for word in words)

    allowed = "names of namespaces" + (f", or `{ALL}` for all" if all_is else "")
    return SettingType("NAMESPACE,...", allowed, read, _join, many=True)


def hosts() -> SettingType[tuple[str, ...]]:
    """Networks, addresses and host names, as the filter of HTTP jobs takes them."""

    def read(given: Sequence[str]) -> tuple[str, ...]:
        from scheduledjob.jobs.curl.addresses import AddressFilter

        words = _words(given)
        for word in words:
            try:
                AddressFilter([word])
            except ValueError:
                raise ValueError(
                    f"{quoted(word)} is not allowed: write a network such as 10.0.0.0/8, an address or a host name"
                ) from None
        return tuple(words)

    return SettingType("HOST,...", "networks such as `10.0.0.0/8`, addresses and host names", read, _join, many=True)


AnySettingType = SettingType[Any]
