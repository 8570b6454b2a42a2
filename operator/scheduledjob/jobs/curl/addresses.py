"""The addresses that HTTP jobs may not connect to.

A replica can reach what the authors of manifests should not: its loopback interface, the cloud's metadata server and
the API server. The filter checks the numeric address right before a socket connects to it, because nothing earlier can
be trusted: a name may resolve to anything, and to something else a moment later; a literal may be in octal; a redirect
may lead anywhere; an IPv6 address may be a tunnel to an IPv4 address. ``CurlExecutor`` calls it for each socket.
"""

from __future__ import annotations

import errno
import re
import socket
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

# The first match gives the words of the error, so metadata addresses come before the link-local networks.
_BLOCKED: tuple[tuple[str, tuple[Network, ...]], ...] = tuple(
    (what, tuple(ip_network(network) for network in networks))
    for what, networks in (
        ("an unspecified address", ("0.0.0.0/8", "::/128")),
        ("a loopback address", ("127.0.0.0/8", "::1/128")),
        (
            "a cloud metadata address",
            (
                "169.254.169.254/32",  # AWS, Azure, Google, OpenStack, DigitalOcean, Oracle
                "169.254.169.123/32",
                "169.254.169.253/32",
                "169.254.170.0/24",  # AWS: credentials of ECS tasks and EKS pods
                "169.254.42.42/32",  # Scaleway
                "100.100.100.200/32",  # Alibaba
                "168.63.129.16/32",  # Azure's wire server
                "192.0.0.192/32",  # Oracle, classic
                "fd00:ec2::/32",  # AWS: ::254 metadata, ::23 credentials of EKS pods
                "fd20:ce::254/128",  # Google
                "fd00:42::42/128",  # Scaleway
                "fd00:c1::a9fe:a9fe/128",  # Oracle
            ),
        ),
        ("a link-local address", ("169.254.0.0/16", "fe80::/10")),
        ("a multicast address", ("224.0.0.0/4", "ff00::/8")),
        ("a broadcast address", ("255.255.255.255/32",)),
    )
)

# Networks whose addresses contain an IPv4 address, and by how many bits to shift right to get it.
_EMBEDDING: tuple[tuple[IPv6Network, tuple[int, ...]], ...] = (
    (IPv6Network("::/96"), (0,)),  # IPv4-compatible
    (IPv6Network("::ffff:0:0/96"), (0,)),  # IPv4-mapped
    (IPv6Network("::ffff:0:0:0/96"), (0,)),  # IPv4-translated
    (IPv6Network("64:ff9b::/96"), (0,)),  # NAT64
    (IPv6Network("2002::/16"), (80,)),  # 6to4
    (IPv6Network("2001::/32"), (64,)),  # Teredo: the server; ``_forms`` adds the client
)
_LOCAL_NAT64 = IPv6Network("64:ff9b:1::/48")
_TEREDO = IPv6Network("2001::/32")
_ISATAP = (0x00005EFE, 0x02005EFE)
_LOW_32 = 0xFFFFFFFF
_LOOPBACK = IPv4Address("127.0.0.1")
_API_SERVER = "the API server's address"
_CLOSED_NAMES = (
    (_API_SERVER, re.compile(r"kubernetes\.default(\.svc(\..+)?)?")),
    ("a loopback address", re.compile(r"(.+\.)?localhost")),
    ("a cloud metadata address", re.compile(r"metadata\.google\.internal")),
)


class AddressRefusedError(PermissionError):
    """HTTP jobs may not connect to this address."""

    def __init__(
        self,
        address: str,
        what: str,
        words: str = "which HTTP jobs may not reach here: "
        "use another address, or ask the administrator to allow this one",
    ) -> None:
        super().__init__(errno.EACCES, f"{address} is {what}, {words}")
        self.address = address
        self.what = what


class AddressFilter:
    """Refuses loopback, link-local, metadata, unspecified and multicast addresses and those of the API server.

    ``allow`` lists networks (``10.0.0.0/8``), addresses and host names that are allowed nevertheless. ``api_server``
    lists the addresses or networks of the API server. Raises ``ValueError`` for an entry that is neither.

    ``proxies`` lists in the same way which proxies jobs may use; none by default.

    ``close_api_server`` names the API server more exactly, whenever its addresses change. A network in ``allow`` does
    not open its ports, because an administrator who allows 10.0.0.0/8 hardly means the API server in it; nor does a
    host name, which may lead there later. Only its exact address opens it, unless that is a loopback address, which
    other servers share.
    """

    def __init__(self, allow: Iterable[str] = (), api_server: Iterable[str] = (), proxies: Iterable[str] = ()) -> None:
        self._allowed: list[Network] = []
        self._hosts: set[str] = set()
        for entry in allow:
            if (network := _network(entry)) is not None:
                self._allowed.append(network)
            elif _is_host_name(entry):
                self._hosts.add(_canonical_host(entry))
            else:
                raise ValueError(
                    f'allowed address "{entry}": write a network such as 10.0.0.0/8, an address or a host name'
                )
        self._api_server: list[Network] = []
        for entry in api_server:
            if (network := _network(entry)) is None:
                raise ValueError(f'API server address "{entry}": write an IP address such as 10.96.0.1, or a network')
            self._api_server.append(network)
        self._api_hosts: frozenset[Address] = frozenset()
        self._api_places: frozenset[tuple[Address, int]] = frozenset()
        self._nodes: frozenset[Address] = frozenset()
        self._node_ports: frozenset[int] = frozenset()
        self._proxies = AddressFilter(proxies) if (proxies := tuple(proxies)) else None

    def check_proxy(self, host: str, address: str) -> None:
        """Raise ``AddressRefusedError`` unless jobs may use the proxy with this name and this numeric address.

        Behind a proxy, nothing can be checked, so none may be used that ``proxies`` does not list.
        """
        if self._proxies is not None:
            parsed = ip_address(address.partition("%")[0])
            if self._proxies.trusts(host) or self._proxies._is_allowed(_plain(parsed)):
                return
        raise AddressRefusedError(
            f"{host} ({address})" if host != address else host,
            "a proxy",
            "which HTTP jobs may not use here: leave proxy out, or ask the administrator to allow it in "
            "inlineHttpProxies",
        )

    def check_literal(self, host: str, port: int) -> None:
        """Check a host that a proxy will look up: one that is a numeric address, or a well-known name of a closed one.

        Another name passes. A number that only some programs take for an address (127.1, 0x7f000001) is refused.
        """
        name = _canonical_host(host.partition("%")[0])
        for what, known in _CLOSED_NAMES:
            if known.fullmatch(name):
                raise AddressRefusedError(host, what)
        try:
            ip_address(name)
        except ValueError:
            try:
                socket.inet_aton(name)
            except (OSError, UnicodeError):
                return
        self.check(name, port)

    def close_api_server(
        self, places: Iterable[tuple[str, int | None]], nodes: Iterable[str] = (), node_ports: Iterable[int] = ()
    ) -> None:
        """Refuse these addresses and ports of the API server, in place of those of the last call.

        The port None stands for all ports; these a network in ``allow`` opens. Each of ``node_ports`` leads to the API
        server on each of ``nodes``.
        """
        parsed = [(ip_address(address.partition("%")[0]), port) for address, port in places]
        forms = {(_plain(address), port) for address, port in parsed}
        self._api_hosts = frozenset(address for address, _ in forms)
        self._api_places = frozenset((address, port) for address, port in forms if port is not None)
        self._node_ports = frozenset(node_ports)
        self._nodes = frozenset(_plain(ip_address(node)) for node in nodes) if self._node_ports else frozenset()

    def trusts(self, host: str) -> bool:
        """Whether the administrator has allowed this host by name. ``check_trusted`` applies to its address."""
        return _canonical_host(host) in self._hosts

    def check(self, address: str, port: int | None = None) -> None:
        """Raise ``AddressRefusedError`` unless a socket may connect to this numeric address and port.

        An address that can't be parsed is refused, too, because the kernel might understand it.
        """
        try:
            parsed = ip_address(address.partition("%")[0])
        except ValueError:
            raise AddressRefusedError(address, "not an IP address that can be checked") from None
        self._check_api_server(address, parsed, port)
        for form in _forms(parsed):
            what = self._what(form)
            if what and not self._is_allowed(form) and not self._is_allowed(parsed):
                raise AddressRefusedError(_shown(address, form, parsed), what)

    def check_trusted(self, address: str, port: int) -> None:
        """Raise ``AddressRefusedError`` if the address of a host that is allowed by name leads to the API server.

        Whoever may write the host's DNS entry or Service could let it lead there.
        """
        self._check_api_server(address, ip_address(address.partition("%")[0]), port)

    def _check_api_server(self, address: str, parsed: Address, port: int | None) -> None:
        for form in _forms(parsed):
            leads_there = (form, port) in self._api_places or (port in self._node_ports and form in self._nodes)
            if leads_there and not self._is_opened(form):
                raise AddressRefusedError(_shown(address, form, parsed), _API_SERVER)

    def _what(self, address: Address) -> str | None:
        if address in self._api_hosts or _contains(self._api_server, address):
            return _API_SERVER
        return next((what for what, networks in _BLOCKED if _contains(networks, address)), None)

    def _is_opened(self, address: Address) -> bool:
        """Whether the administrator has allowed exactly this address, and it is of one server."""
        return not address.is_loopback and any(
            network.num_addresses == 1 and network.version == address.version and address in network
            for network in self._allowed
        )

    def _is_allowed(self, address: Address) -> bool:
        return _contains(self._allowed, address)


def _shown(address: str, form: Address, parsed: Address) -> str:
    return address if form == parsed else f"{address} (that is {form})"


def _plain(address: Address) -> Address:
    """Return the IPv4 address of an IPv4-mapped one."""
    return getattr(address, "ipv4_mapped", None) or address


def _contains(networks: Iterable[Network], address: Address) -> bool:
    return any(network.version == address.version and address in network for network in networks)


def _forms(address: Address) -> Iterator[Address]:
    """Yield the address, and every address to which the kernel, a translator or a tunnel could turn it."""
    for form in _with_embedded(address):
        yield form
        if form.is_unspecified:
            yield _LOOPBACK


def _with_embedded(address: Address) -> Iterator[Address]:
    yield address
    if isinstance(address, IPv4Address):
        return
    bits = int(address)
    for network, shifts in _EMBEDDING:
        # :: and ::1 do not stand for 0.0.0.0 and 0.0.0.1.
        if address in network and bits > 1:
            for shift in shifts:
                yield IPv4Address(bits >> shift & _LOW_32)
    if address in _TEREDO:
        yield IPv4Address(bits & _LOW_32 ^ _LOW_32)
    if address in _LOCAL_NAT64:
        # RFC 6052: the IPv4 address follows a prefix of 48, 56, 64 or 96 bits, and skips bits 64 to 71.
        yield IPv4Address(bits & _LOW_32)
        yield IPv4Address((bits >> 64 & 0xFFFF) << 16 | bits >> 40 & 0xFFFF)
        yield IPv4Address((bits >> 64 & 0xFF) << 24 | bits >> 32 & 0xFFFFFF)
        yield IPv4Address(bits >> 24 & _LOW_32)
    if bits >> 32 & _LOW_32 in _ISATAP:
        yield IPv4Address(bits & _LOW_32)


def _network(entry: str) -> Network | None:
    try:
        return ip_network(entry, strict=False)
    except ValueError:
        return None


def _is_host_name(entry: str) -> bool:
    labels = entry.removesuffix(".").split(".")
    # If the last label has only digits, it is a mistyped address or network and not a name.
    return all(label.replace("-", "").isalnum() for label in labels) and not labels[-1].isdigit()


def _canonical_host(host: str) -> str:
    return host.rstrip(".").lower()
