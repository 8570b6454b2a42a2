"""Errors in a kubeconfig, whose messages say what to change."""

from __future__ import annotations

import base64
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from scheduledjob.kube.client.access import REFRESH_SECONDS, Access, ConfigError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "config"


def write(path: Path, *, user: dict[str, Any] | None = None, namespace: str = "", **cluster: Any) -> Path:
    context = {"cluster": "it", "user": "me", **({"namespace": namespace} if namespace else {})}
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "one",
        "clusters": [{"name": "it", "cluster": {"server": "https://it.example:6443", **cluster}}],
        "users": [{"name": "me", "user": {"token": "secret"} if user is None else user}],
        "contexts": [{"name": "one", "context": context}, {"name": "two", "context": {**context, "namespace": "two"}}],
    }
    path.write_text(yaml.safe_dump(content))
    return path


def loaded(path: Path, context: str | None = None) -> Access:
    access = Access(str(path), context)
    access.load()
    return access


def test_a_token_is_read(kubeconfig: Path) -> None:
    access = loaded(write(kubeconfig, server="https://it.example:6443/"))
    assert (access.server, access.authorization) == ("https://it.example:6443", "Bearer secret")
    assert (access.namespace, access.proxy, access.server_name) == ("default", None, None)


def test_a_context_determines_the_namespace(kubeconfig: Path) -> None:
    name: dict[str, Any] = {"tls-server-name": "kubernetes"}
    write(kubeconfig, namespace="mine", **name)
    assert loaded(kubeconfig).namespace == "mine"
    assert loaded(kubeconfig, "two").namespace == "two"
    assert loaded(kubeconfig).server_name == "kubernetes"


def test_the_environment_names_the_kubeconfig(kubeconfig: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(write(kubeconfig)))
    access = Access()
    access.load()
    assert access.server == "https://it.example:6443"


def test_the_proxy_of_the_environment_and_its_exceptions(kubeconfig: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(kubeconfig)
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    assert loaded(kubeconfig).proxy == "http://proxy:3128"
    monkeypatch.setenv("NO_PROXY", ".example")
    assert loaded(kubeconfig).proxy is None


def test_a_kubectl_proxy_on_loopback_needs_no_credentials(kubeconfig: Path) -> None:
    access = loaded(write(kubeconfig, user={}, server="http://127.0.0.1:8001"))
    assert (access.tls, access.authorization) == (None, None)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"insecure-skip-tls-verify": True}, "insecure-skip-tls-verify.* give certificate-authority"),
        ({"server": "http://it.example"}, "give an https:// address"),
        ({"user": {}}, "holds neither token nor client certificate"),
        ({"user": {"exec": {"command": "/no/such/plugin", "apiVersion": "x"}}}, "the plugin returned none"),
        ({"certificate-authority-data": base64.b64encode(b"no").decode()}, "certificates or a key that can't be read"),
        ({"user": {"client-certificate": "/no/such", "client-key": "/no/such"}}, "/no/such"),
    ],
)
def test_an_invalid_kubeconfig_is_reported(kubeconfig: Path, wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        loaded(write(kubeconfig, **wrong))
    assert str(kubeconfig) in str(error.value)


@pytest.mark.parametrize("content", ["", "a: [", "[]", "clusters: 3", "{}", "\x00"])
def test_a_file_that_is_not_a_kubeconfig_is_reported(kubeconfig: Path, content: str) -> None:
    kubeconfig.write_text(content)
    with pytest.raises(ConfigError, match=r"can't be used: .*give another with --kubeconfig"):
        loaded(kubeconfig)


def test_a_missing_file_or_context_is_reported(kubeconfig: Path) -> None:
    with pytest.raises(ConfigError, match="give another with --kubeconfig"):
        loaded(kubeconfig)
    with pytest.raises(ConfigError, match="three"):
        loaded(write(kubeconfig), "three")


def test_messages_contain_no_secret(kubeconfig: Path) -> None:
    with pytest.raises(ConfigError) as error:
        loaded(write(kubeconfig, user={"token": "hush-hush"}, server="http://it.example"))
    assert "hush-hush" not in str(error.value)


def test_one_caller_a_minute_refreshes_the_token(kubeconfig: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("scheduledjob.kube.client.access.time", SimpleNamespace(monotonic=lambda: now))
    access = loaded(write(kubeconfig))
    assert not access.due()
    now += REFRESH_SECONDS
    assert [access.due(), access.due()] == [True, False]


def test_only_the_first_caller_reads_refused_credentials_again(kubeconfig: Path) -> None:
    access = loaded(write(kubeconfig))
    write(kubeconfig, user={"token": "newer"})
    access.renew("Bearer secret")
    assert access.authorization == "Bearer newer"
    write(kubeconfig, user={"token": "newest"})
    access.renew("Bearer secret")  # another caller was refused at the same time
    assert access.authorization == "Bearer newer"
