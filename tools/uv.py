"""Run uv with the index, certificates and proxy that pip is configured with on this machine.

`make` installs with uv because it is fast. Networks with a package index or an authority of their own configure pip,
in pip.conf or in PIP_* variables, which uv does not read. This module translates them into uv's variables. A variable
that is set already wins. It needs nothing but Python and pip, because `make` runs it before anything is installed.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# pip's section `install` and its environment variables win over the section `global`.
_SECTIONS = ("global", "install", ":env:")
# pip's option, uv's variable, and what uv puts between several values of it.
_VARIABLES = (
    ("index-url", "UV_DEFAULT_INDEX", ""),
    ("extra-index-url", "UV_INDEX", " "),
    ("find-links", "UV_FIND_LINKS", ","),
    ("trusted-host", "UV_INSECURE_HOST", " "),
    ("cert", "SSL_CERT_FILE", ""),
    ("client-cert", "SSL_CLIENT_CERT", ""),
    ("proxy", "ALL_PROXY", ""),
    ("default-timeout", "UV_HTTP_TIMEOUT", ""),
    ("timeout", "UV_HTTP_TIMEOUT", ""),
)


def pip_options(lines: Iterable[str]) -> dict[str, str]:
    """The options in the output of `pip config list`, such as ``index-url``."""
    sections: dict[str, dict[str, str]] = {name: {} for name in _SECTIONS}
    for line in lines:
        name, _, value = line.partition("=")
        section, _, option = name.partition(".")
        if section in sections:
            sections[section][option] = str(ast.literal_eval(value))
    return {option: value for section in _SECTIONS for option, value in sections[section].items()}


def uv_environment(options: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    """`environment` with what uv must know of pip's options."""
    # uv's defaults differ from pip's: it trusts only its own authorities, it takes a package from the first index that
    # has any version of it, and it downloads a Python where it likes none of the machine's.
    found = {"UV_SYSTEM_CERTS": "1", "UV_INDEX_STRATEGY": "unsafe-best-match", "UV_PYTHON_DOWNLOADS": "never"}
    for option, variable, separator in _VARIABLES:
        values = options.get(option, "").split()
        if option == "find-links":
            values = [value for value in values if "://" in value or Path(value).exists()]
        if values:
            found[variable] = separator.join(values)
    return found | dict(environment)


def main(arguments: list[str]) -> None:
    """Replace this process by uv, which works on the virtual environment of this Python."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    options = pip_options(listed.splitlines())
    if options.get("no-index", "").lower() in {"1", "true", "yes", "on"}:
        arguments = [*arguments, "--no-index"]
    environment = uv_environment(options, os.environ) | {"VIRTUAL_ENV": sys.prefix}
    uv = Path(sys.executable).with_name("uv")
    os.execve(uv, [str(uv), *arguments], environment)


if __name__ == "__main__":
    main(sys.argv[1:])
