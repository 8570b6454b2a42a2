"""`make test-python`: run the tests on another version of Python than this machine's, in a container.

The container is docker's if its daemon answers, otherwise buildah's (as root). It runs a copy of the working tree, with
changes that are not committed. The image contains Python, or is a Debian image (``debian:sid``), in which Debian's
Python is then installed. Without docker, a Debian image is made from packages.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from image.build import ROOT, ImageError, buildah, debian_base, docker_answers, pip_volumes, run

DOCKER_IMAGE = "python:3.13-slim"
_DEBIAN = "debian:"
# The tests call git, make, ps and a compiler.
_IN_THE_CONTAINER = """
set -eu
packages="git make procps gcc libc6-dev"
python3 -c 'import ensurepip' 2>/dev/null || packages="$packages python3 python3-venv"
export DEBIAN_FRONTEND=noninteractive HOME=/root LANG=C.UTF-8
apt-get update -qq
apt-get install -qq --yes --no-install-recommends $packages >/dev/null
cp -a /source /project
chown -R 0:0 /project
cd /project
exec make test ARGS="$1"
"""


def copy_checkout(folder: Path) -> None:
    """Copy the working tree and its history to `folder`. Raises ImageError."""
    run("git", "clone", "--quiet", "--no-checkout", str(ROOT), str(folder))
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", folder=ROOT)
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    run("git", "reset", "--quiet", folder=folder)


def test(image: str, arguments: list[str]) -> int:
    """Run pytest in a container of `image` with these arguments, and return its exit code. Raises ImageError."""
    command = ["sh", "-c", _IN_THE_CONTAINER, "sh", shlex.join(arguments)]
    with TemporaryDirectory() as folder:
        copy_checkout(Path(folder) / "source")
        # The tests start 700 jobs at once, and give some processes another priority.
        limits = ["--ulimit", "nofile=20000:20000"]
        rights = ["--cap-add", "CAP_SYS_NICE", "--network", "host"]
        options = ["--volume", f"{folder}/source:/source:ro", *pip_volumes(), *rights]
        if docker_answers():
            started = ["docker", "run", "--rm", *limits, *options, image or DOCKER_IMAGE, *command]
            return subprocess.run(started, check=False).returncode
        container = run(*buildah("from", *limits, _image_without_docker(image)))
        try:
            started = buildah("run", "--isolation", "chroot", *options, container, "--", *command)
            return subprocess.run(started, check=False).returncode
        finally:
            run(*buildah("rm", container))


def _image_without_docker(image: str) -> str:
    if not image:
        return debian_base()
    return debian_base(image.removeprefix(_DEBIAN)) if image.startswith(_DEBIAN) else image


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="make test-python", description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--image", default="", help="the image, such as python:3.14-slim or debian:sid")
    parser.add_argument("arguments", nargs="*", help="arguments for pytest")
    given = parser.parse_args(arguments)
    try:
        return test(given.image, given.arguments)
    except ImageError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
