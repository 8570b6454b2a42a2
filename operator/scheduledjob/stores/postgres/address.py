"""The address of the database: a ``postgresql://`` URL with libpq's parameters, checked before anything is opened.

asyncpg passes a parameter that it does not know to the server, whose answer does not hint at a typing error in the
URL. So unknown parameters are refused here, by name. Messages and logs never show a password.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode, urlsplit

CONNECT_TIMEOUT = 5.0
"""Seconds that opening a connection may take, unless the URL's ``connect_timeout`` says otherwise."""

_FOR_ASYNCPG = {
    "database", "dbname", "gsslib", "host", "krbsrvname", "passfile", "password", "port", "service", "sslcert",
    "sslcrl", "sslkey", "ssl_max_protocol_version", "ssl_min_protocol_version", "sslmode", "sslnegotiation",
    "sslpassword", "sslrootcert", "target_session_attrs", "user",
}  # fmt: skip
_FOR_THE_SERVER = {"application_name", "options"}
_OURS = {"connect_timeout"}
_KNOWN = sorted(_FOR_ASYNCPG | _FOR_THE_SERVER | _OURS)


@dataclass(frozen=True, slots=True)
class Address:
    """A checked address."""

    dsn: str
    """The URL for asyncpg. It contains the password, so it must not be shown."""
    shown: str
    """Hosts and database, for messages."""
    connect_timeout: float
    """Seconds."""
    application_name: str


def parse_address(url: str) -> Address:
    """Check the URL. Raises ValueError that says what is wrong with it, without its user and password."""
    try:
        parts = urlsplit(url)
        query = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError as error:
        raise ValueError(
            f"the store's URL is malformed ({error}): write postgresql://user:password@host:5432/database, "
            "with special characters of the password percent-encoded"
        ) from None
    if parts.scheme not in {"postgresql", "postgres"}:
        raise ValueError(f"{parts.scheme!r} is not a scheme of Postgres: write postgresql://...")
    if parts.fragment:
        raise ValueError("the store's URL contains a '#': write %23 if it is part of the password")
    hosts = parts.netloc.rpartition("@")[2]
    given: dict[str, str] = {}
    for name, value in query:
        if name not in _KNOWN:
            near = difflib.get_close_matches(name, _KNOWN, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"unknown parameter {name!r} in the store's URL: {hint}allowed are {', '.join(_KNOWN)}")
        if name in given:
            raise ValueError(f"parameter {name!r} is given twice in the store's URL: give it once")
        given[name] = value
    for host in hosts.split(","):
        port = host.rpartition("]")[2].rpartition(":")[2] if ":" in host.rpartition("]")[2] else ""
        if port and not (port.isdecimal() and 0 < int(port) < 65536):
            raise ValueError(f"{port!r} in the store's URL is not a port: write a number from 1 to 65535")
    timeout = given.pop("connect_timeout", "")
    if timeout and (not timeout.isdecimal() or int(timeout) < 1):
        raise ValueError(f"connect_timeout={timeout!r} in the store's URL: give whole seconds, 1 at least")
    application_name = given.pop("application_name", "scheduledjob")
    database = parts.path.lstrip("/") or given.get("dbname") or given.get("database")
    shown = hosts or given.get("host") or "the local server"
    return Address(
        dsn=parts._replace(scheme="postgresql", query=urlencode(given)).geturl(),
        shown=f"{shown}/{database}" if database else shown,
        connect_timeout=float(timeout) if timeout else CONNECT_TIMEOUT,
        application_name=application_name,
    )
