"""`make image`: build the operator's image with docker or buildah, and write it to an archive for a cluster's node.

Docker is used if its daemon answers. Otherwise buildah is used, which needs neither daemon nor registry; the base image
is then made from Debian's packages (as root, with mmdebstrap). BASE_IMAGE names another base. If pip needs a CA
certificate or a configuration on this machine (PIP_CERT, PIP_CONFIG_FILE or /etc/pip.conf), the build gets them as
secrets, which are not stored in any layer.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
CHART = ROOT / "charts" / "scheduledjob-operator" / "Chart.yaml"
DEBIAN_BASE = "localhost/debian-python"
PIP_BASE = "localhost/debian-pip:1"
DEBIAN_SUITE = "trixie"
DEBIAN_PACKAGES = "python3,python3-venv,ca-certificates,usr-is-merged"
MERGED = Path("/usr/share/mmdebstrap/hooks/merged-usr")
HOW_TO_GET = "start docker, or run as root and apt-get install buildah mmdebstrap"


class ImageError(Exception):
    """The image can't be built. The message says what failed and what to do."""


def version() -> str:
    """Return the project's version: ``1.2.3`` at a git tag, ``1.2.4.dev5+g0123456`` after it. Raises ImageError."""
    return run(sys.executable, "-m", "hatchling", "version", folder=ROOT)


def default_image() -> str:
    """Return the image's name in the chart's values, with the version of the next tag."""
    chart: dict[str, str] = yaml.safe_load(CHART.read_text())
    return f"scheduledjob:{chart['appVersion']}"


def cache() -> Path:
    """Return the directory of buildah's storage and of the archive, outside the checkout."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "scheduledjob" / "image"


def archive() -> Path:
    """Return the path of the image as a file for `ctr images import` and `docker load`."""
    return cache() / "scheduledjob.tar"


def build(image: str, base: str = "") -> None:
    """Build `image`, such as ``scheduledjob:0.1.0``, and write its archive. Raises ImageError."""
    cache().mkdir(parents=True, exist_ok=True)
    given = ["--build-arg", f"VERSION={version()}", "--build-arg", f"REVISION={_revision()}"]
    for name, path in _secrets().items():
        given += ["--secret", f"id={name},src={path}"]
    if docker_answers():
        given += ["--build-arg", f"BASE_IMAGE={base}"] if base else []
        run("docker", "build", *given, "--tag", image, str(ROOT))
        run("docker", "save", "--output", str(archive()), image)
        return
    if shutil.which("buildah") is None:
        raise ImageError(f"docker does not answer, and buildah is not installed: {HOW_TO_GET}")
    given += ["--build-arg", f"BASE_IMAGE={base or debian_base()}"]
    run(*buildah("bud", "--isolation", "chroot", "--network", "host", *given, "--tag", image, str(ROOT)))
    run(*buildah("rmi", "--prune"))  # removes the previous image of that name
    archive().unlink(missing_ok=True)
    run(*buildah("push", "--quiet", image, f"docker-archive:{archive()}:{image}"))


def derive(folder: Path, image: str, target: Path) -> None:
    """Build the Dockerfile in a directory, like a user of the operator's image, into an archive. Raises ImageError.

    OPERATOR_IMAGE is the image of `make image`, and PYTHON_IMAGE one with pip. The Dockerfile does not use secrets, so
    the machine's CA certificate and pip.conf are mounted where pip looks for them.
    """
    if docker_answers():
        run("docker", "build", "--tag", image, "--build-arg", f"OPERATOR_IMAGE={default_image()}", str(folder))
        run("docker", "save", "--output", str(target), image)
        return
    python = run(*buildah("from", debian_base()))
    run(*buildah("run", "--isolation", "chroot", python, "python3", "-m", "venv", "/venv"))
    run(*buildah("config", "--env", "PATH=/venv/bin:/usr/bin:/bin", python))
    run(*buildah("commit", "--quiet", "--rm", python, PIP_BASE))
    given = ["--build-arg", f"OPERATOR_IMAGE={default_image()}", "--build-arg", f"PYTHON_IMAGE={PIP_BASE}"]
    given += pip_volumes()
    run(*buildah("bud", "--isolation", "chroot", "--network", "host", *given, "--tag", image, str(folder)))
    run(*buildah("push", "--quiet", image, f"docker-archive:{target}:{image}"))
    run(*buildah("rmi", "--force", image, PIP_BASE))


def buildah(*arguments: str) -> list[str]:
    """Return a buildah command that uses the storage of this project, which needs no overlay file system."""
    storage = ["--root", str(cache() / "storage"), "--runroot", str(cache() / "run"), "--storage-driver", "vfs"]
    return ["buildah", *storage, *arguments]


def debian_base(suite: str = DEBIAN_SUITE) -> str:
    """Return the name of an image of Debian's `suite` with Python; build it the first time. Raises ImageError."""
    cache().mkdir(parents=True, exist_ok=True)
    name = f"{DEBIAN_BASE}:{suite}"
    if subprocess.run(buildah("inspect", "--type", "image", name), capture_output=True, check=False).returncode == 0:
        return name
    if shutil.which("mmdebstrap") is None or os.geteuid() != 0:
        raise ImageError(f"without BASE_IMAGE, mmdebstrap has to make a base image as root: {HOW_TO_GET}")
    with tempfile.TemporaryDirectory(dir=cache()) as folder:
        rootfs = f"{folder}/rootfs.tar"
        merged = [f"--hook-dir={MERGED}"]
        chosen = ["--variant=minbase", "--skip=output/dev", f"--include={DEBIAN_PACKAGES}"]
        run("mmdebstrap", "--quiet", *chosen, *merged, suite, rootfs)
        container = run(*buildah("from", "scratch"))
        run(*buildah("add", "--quiet", container, rootfs, "/"))
        run(*buildah("commit", "--quiet", "--rm", container, name))
    return name


def pip_volumes() -> list[str]:
    """Return options that mount the machine's CA certificate and pip.conf where pip in a container looks for them."""
    targets = {"authority": "/etc/ssl/certs/ca-certificates.crt", "pip": "/etc/pip.conf"}
    return [option for name, path in _secrets().items() for option in ("--volume", f"{path}:{targets[name]}:ro")]


def _secrets() -> dict[str, Path]:
    wanted = {
        "authority": Path(os.environ.get("PIP_CERT", "")),
        "pip": Path(os.environ.get("PIP_CONFIG_FILE") or "/etc/pip.conf"),
    }
    return {name: path for name, path in wanted.items() if path.is_file()}


def docker_answers() -> bool:
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "version"], capture_output=True, check=False).returncode == 0


def _revision() -> str:
    found = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def run(*command: str, folder: Path | None = None) -> str:
    """Run a command and return its stripped output. Raises ImageError if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    except FileNotFoundError as error:
        raise ImageError(f"{command[0]} is not installed: {HOW_TO_GET}") from error
    if done.returncode != 0:
        raise ImageError(f"`{' '.join(command)}` failed:\n{(done.stderr or done.stdout)[-4000:]}")
    return done.stdout.strip()


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="make image", description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--image", default="", help=f"the name of the image; default: {default_image()}")
    parser.add_argument("--base", default="", help="the base image")
    given = parser.parse_args(arguments)
    image = given.image or default_image()
    try:
        build(image, given.base)
    except ImageError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"built {image}; archive: {archive()} ({archive().stat().st_size / 1e6:.0f} MB)")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
