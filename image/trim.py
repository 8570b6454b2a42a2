"""Takes from a Debian what the operator and shell jobs have no use for: its package manager, Perl, logins, disks.

Packages are named that go; then those of libraries that nothing is linked to any more. The files go by the lists that
dpkg keeps, because dpkg itself is among them, and /var/lib/dpkg/status keeps telling scanners what is left. It runs
while the image is built, as root.
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
"""Libraries that are loaded without being linked to."""
ROOTS = ("/opt", "/usr/bin", "/usr/sbin", "/usr/local", "/usr/lib/python3")
_VERSIONED = re.compile(r"\.so\.\d")  # a module of Python is none that others are linked to
_STANZA = re.compile(r"^Package: (\S+)$", re.MULTILINE)


def files_of(package: str) -> list[Path]:
    """What dpkg says that a package has installed, the deepest first."""
    lists = [*DPKG.glob(f"info/{package}.list"), *DPKG.glob(f"info/{package}:*.list")]
    lines = [line for each in lists for line in each.read_text().splitlines()]
    return sorted((Path(line) for line in lines), key=lambda path: len(path.parts), reverse=True)


def remove(package: str) -> None:
    for path in files_of(package):
        if not path.is_dir():
            path.unlink(missing_ok=True)
        elif not path.is_symlink() and not any(path.iterdir()):  # /bin is a folder of every package, and a link
            path.rmdir()


def linked() -> set[Path]:
    """The libraries that programs and modules of Python are linked to, and those that these are."""
    programs = [
        str(path)
        for root in ROOTS
        for folder in Path(root).parent.glob(Path(root).name + "*")
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink() and path.open("rb").read(4) == b"\x7fELF"
    ]
    told = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=False)  # 1: one is static
    return {Path(path).resolve() for path in re.findall(r"(/\S+) \(0x", told.stdout)}


def main() -> None:
    status = (DPKG / "status").read_text()
    installed = _STANZA.findall(status)
    gone = [package for package in installed if UNWANTED.fullmatch(package)]
    for package in gone:
        remove(package)
    needed = linked()
    for package in installed:
        if package.startswith("lib") and package not in KEPT and package not in gone:
            objects = [path for path in files_of(package) if _VERSIONED.search(path.name)]
            if objects and not any(path.resolve() in needed for path in objects):
                remove(package)
                gone.append(package)
    left = [stanza for stanza in status.split("\n\n") if (found := _STANZA.search(stanza)) and found[1] not in gone]
    (DPKG / "status").write_text("\n\n".join(left) + "\n")
    sys.stdout.write(f"took away {len(gone)} of {len(installed)} packages\n")


if __name__ == "__main__":
    main()
