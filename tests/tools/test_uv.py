"""uv gets the configuration of pip, from files and from environment variables."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from tools.uv import pip_options, uv_environment

if TYPE_CHECKING:
    from pathlib import Path


def options_of(pip_conf: str, folder: Path, **variables: str) -> dict[str, str]:
    """Return the options that pip reads from this file and these variables."""
    (folder / "pip.conf").write_text(pip_conf)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"],
        env=kept | {"PIP_CONFIG_FILE": str(folder / "pip.conf")} | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    return pip_options(listed.stdout.splitlines())


def test_an_index_of_the_machine_is_used(tmp_path: Path) -> None:
    conf = """
[global]
index-url = https://packages.example/simple
extra-index-url =
    https://a.example/simple
    https://b.example/simple
trusted-host = packages.example
proxy = http://proxy.example:3128
timeout = 60
"""
    found = uv_environment(options_of(conf, tmp_path), {"HOME": "/home/me"})
    assert found["UV_DEFAULT_INDEX"] == "https://packages.example/simple"
    assert found["UV_INDEX"] == "https://a.example/simple https://b.example/simple"
    assert found["UV_INSECURE_HOST"] == "packages.example"
    assert found["ALL_PROXY"] == "http://proxy.example:3128"
    assert found["UV_HTTP_TIMEOUT"] == "60"
    assert found["HOME"] == "/home/me"


def test_the_more_specific_setting_wins_as_with_pip(tmp_path: Path) -> None:
    conf = "[global]\nindex-url = https://global.example\ncert = /global.pem\n[install]\nindex-url = https://install.example\n"
    options = options_of(conf, tmp_path, PIP_CERT="/variable.pem")
    found = uv_environment(options, {})
    assert found["UV_DEFAULT_INDEX"] == "https://install.example"
    assert found["SSL_CERT_FILE"] == "/variable.pem"
    assert (
        uv_environment(options, {"UV_DEFAULT_INDEX": "https://mine.example"})["UV_DEFAULT_INDEX"]
        == "https://mine.example"
    )


def test_folders_of_wheels_that_do_not_exist_are_left_out_because_uv_refuses_them(tmp_path: Path) -> None:
    conf = f"[global]\nfind-links = {tmp_path} {tmp_path}/none https://wheels.example/\n"
    found = uv_environment(options_of(conf, tmp_path), {})
    assert found["UV_FIND_LINKS"] == f"{tmp_path},https://wheels.example/"


def test_without_any_configuration_uv_uses_the_authorities_and_the_python_of_the_machine() -> None:
    assert uv_environment({}, {}) == {
        "UV_SYSTEM_CERTS": "1",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_PYTHON_DOWNLOADS": "never",
    }
