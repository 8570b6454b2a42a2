"""Remove packages from Debian that the operator and shell jobs don't need, such as the package manager and Perl.

The packages in UNWANTED are removed, and then libraries that nothing is linked to any more. Files are removed by dpkg's
lists, because dpkg itself is one of the packages. /var/lib/dpkg/status is updated, so that scanners see what is left.
This runs as root while the image is built.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

DPKG = Path("/var/lib/dpkg")
UNWANTED = re.compile(
    r"adduser|apt(-utils)?|debconf|debian-archive-keyring|dpkg|e2fsprogs|gpgv|init-system-helpers|libc-l10n|libpam-.*"
    r"|locales|login(\.defs)?|logsave|mount|ncurses-bin|openssl|passwd|perl-base|sqv|sysvinit-utils|tzdata-legacy|ucf"
    r"|usr-is-merged|util-linux-extra"
)
KEPT = ("libc6", "libgcc-s1", "libstdc++6")
"""Libraries that are loaded without being linked."""
ROOTS = ("/opt", "/usr/bin", "/usr/sbin", "/usr/local", "/usr/lib/python3")
_VERSIONED = re.compile(r"\.so\.\d")  # nothing is linked to a Python module
_STANZA = re.compile(r"^Package: (\S+)$", re.MULTILINE)


def files_of(package: str) -> list[Path]:
    """Return the files and directories of a package, the deepest first."""
    lists = [*DPKG.glob(f"info/{package}.list"), *DPKG.glob(f"info/{package}:*.list")]
    lines = [line for file_list in lists for line in file_list.read_text().splitlines()]
    return sorted((Path(line) for line in lines), key=lambda path: len(path.parts), reverse=True)


def remove(package: str) -> None:
    for path in files_of(package):
        if not path.is_dir():
            path.unlink(missing_ok=True)
        elif not path.is_symlink() and not any(path.iterdir()):  # /bin is in many packages, and is a link
            path.rmdir()


def linked() -> set[Path]:
    """Return the libraries that programs and Python modules are linked to, directly or indirectly."""
    programs = [
        str(path)
        for root in ROOTS
        for folder in Path(root).parent.glob(Path(root).name + "*")
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink() and path.open("rb").read(4) == b"\x7fELF"
    ]
    listed = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=False)  # fails for static ones
    return {Path(path).resolve() for path in re.findall(r"(/\S+) \(0x", listed.stdout)}


def main() -> None:
    status = (DPKG / "status").read_text()
    installed = _STANZA.findall(status)
    removed = [package for package in installed if UNWANTED.fullmatch(package)]
    for package in removed:
        remove(package)
    needed = linked()
    for package in installed:
        if package.startswith("lib") and package not in KEPT and package not in removed:
            objects = [path for path in files_of(package) if _VERSIONED.search(path.name)]
            if objects and not any(path.resolve() in needed for path in objects):
                remove(package)
                removed.append(package)
    left = [stanza for stanza in status.split("\n\n") if (found := _STANZA.search(stanza)) and found[1] not in removed]
    (DPKG / "status").write_text("\n\n".join(left) + "\n")
    sys.stdout.write(f"removed {len(removed)} of {len(installed)} packages\n")


if __name__ == "__main__":
    main()
