"""Keys, certificates and kubeconfigs of one control plane, made anew for each and gone with its directory.

Every identity is a client certificate of the cluster's own authority (common name = user, organisations = groups), so
that a test can be anybody, and RBAC decides what that user may do. Because each cluster has an authority of its own,
no client can mistake another cluster's API server for it.
"""

from __future__ import annotations

import base64
import datetime
import ipaddress
import re
import secrets
from typing import TYPE_CHECKING, Any

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

# Certificates hold for replicas too whose clock is made to be wrong.
_TOLERANCE = datetime.timedelta(days=7)


class Authority:
    """A certificate authority, and the key that signs tokens of ServiceAccounts; its files lie in one directory."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700)
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test-cluster")])
        certificate = (
            self._builder(self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.certificate = directory / "ca.crt"
        self.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        self.key = directory / "ca.key"
        self.key.write_bytes(_pem(self._key))
        tokens = ec.generate_private_key(ec.SECP256R1())
        self.token_key = directory / "tokens.key"
        self.token_key.write_bytes(_pem(tokens))

    def issue_server(self, name: str, addresses: Iterable[str]) -> tuple[Path, Path]:
        """The files of a certificate for a server at these IP addresses and DNS names, and of its key."""
        return self._issue(name, name, (), ExtendedKeyUsageOID.SERVER_AUTH, addresses)

    def issue_client(self, user: str, groups: Iterable[str] = ()) -> tuple[Path, Path]:
        """The files of a certificate that makes its holder `user` in `groups`, and of its key."""
        # The same user may be issued one with other groups later.
        file = f"{re.sub('[^a-z0-9.]', '-', user.lower())}-{secrets.token_hex(3)}"
        return self._issue(file, user, groups, ExtendedKeyUsageOID.CLIENT_AUTH, ())

    def _issue(
        self, file: str, name: str, groups: Iterable[str], usage: x509.ObjectIdentifier, addresses: Iterable[str]
    ) -> tuple[Path, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
        subject.append(x509.NameAttribute(NameOID.COMMON_NAME, name))
        builder = self._builder(x509.Name(subject), key.public_key())
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if names := [_general_name(each) for each in addresses]:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        files = self._directory / f"{file}.crt", self._directory / f"{file}.key"
        files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        files[1].write_bytes(_pem(key))
        return files

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _TOLERANCE)
            .not_valid_after(now + datetime.timedelta(days=365))
        )


def write_kubeconfig(path: Path, cluster: Mapping[str, str], user: Mapping[str, str]) -> Path:
    """Write a kubeconfig with one context, of what its `cluster:` and its `user:` are to hold."""
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": dict(cluster)}],
        "users": [{"name": "test", "user": dict(user)}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
    }
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def certificate_user(certificate: Path, key: Path) -> dict[str, str]:
    """The `user:` of a kubeconfig that shows a client certificate."""
    return {
        "client-certificate-data": in_base64(certificate.read_bytes()),
        "client-key-data": in_base64(key.read_bytes()),
    }


def read_kubeconfig(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The `cluster:` and the `user:` of a kubeconfig's current context."""
    content: dict[str, Any] = yaml.safe_load(path.read_text())

    def named(kind: str, name: str) -> dict[str, Any]:
        found: dict[str, Any] = next(each for each in content[f"{kind}s"] if each["name"] == name)[kind]
        return found

    context = named("context", content["current-context"])
    return named("cluster", context["cluster"]), named("user", context["user"])


def _general_name(address: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(address))
    except ValueError:
        return x509.DNSName(address)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )


def in_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
