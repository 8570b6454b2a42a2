"""A real Firestore for tests: the emulator that FIRESTORE_EMULATOR_HOST names, or one that this module starts.

The emulator is a Java program inside the Google Cloud SDK. If its jar and `java` are found, it is started directly,
because `gcloud emulators firestore start` takes seconds longer for the same. Otherwise `gcloud` starts it, and a
container is tried last. This module does not import pytest.
"""

from __future__ import annotations

import os
import secrets
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.containers import running_container
from tests.support.processes import (
    Account,
    ServerProcess,
    accepts_connections,
    free_port,
    private_directory,
    remove,
    run_to_end,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

HOW_TO_GET = (
    "install the Google Cloud SDK, its emulator (`gcloud components install cloud-firestore-emulator`, or Debian's "
    "`google-cloud-cli-firestore-emulator`) and Java, or start Docker, or set FIRESTORE_EMULATOR_HOST=host:port"
)
CONTAINER_IMAGE = "gcr.io/google.com/cloudsdktool/google-cloud-cli:emulators"
JAR = Path("platform/cloud-firestore-emulator/cloud-firestore-emulator.jar")
MAIN_CLASS = "com.google.cloud.datastore.emulator.firestore.CloudFirestore"
PROJECT = "scheduledjob-tests"


@dataclass(frozen=True)
class FirestoreTarget:
    """A collection of the emulator that nobody else uses."""

    host: str
    project: str
    collection: str

    @property
    def url(self) -> str:
        """The store's URL; the client finds the emulator by FIRESTORE_EMULATOR_HOST."""
        return f"firestore://{self.project}/{self.collection}"


def new_target(host: str) -> FirestoreTarget:
    return FirestoreTarget(host, PROJECT, f"test-{secrets.token_hex(6)}")


@contextmanager
def any_firestore() -> Iterator[str]:
    """Return the `host:port` of an emulator, which runs inside `with`. Raises ServerUnavailableError without one."""
    if given := os.environ.get("FIRESTORE_EMULATOR_HOST"):
        yield given
        return
    if command := local_command():
        with _local(command) as host:
            yield host
        return
    with running_container(
        CONTAINER_IMAGE,
        8080,
        command="gcloud emulators firestore start --quiet --host-port=0.0.0.0:8080",
        environment={},
        ready="is now running",
        otherwise=f"no Firestore emulator found: {HOW_TO_GET}",
    ) as host:
        yield host


def local_command() -> list[str | Path] | None:
    """Return the command that starts this machine's emulator, without its address; None if there is none."""
    gcloud = shutil.which("gcloud")
    if gcloud is None:
        return None
    java = shutil.which("java")
    jar = Path(gcloud).resolve().parents[1] / JAR
    if java and not jar.exists():  # a launcher in another folder, as with snap
        root = run_to_end(
            [gcloud, "info", "--format=value(installation.sdk_root)"], Account(), Path("/")
        ).stdout.strip()
        jar = Path(root) / JAR
    if java and jar.exists():
        return [java, "-Duser.language=en", "-Dfile.encoding=UTF-8", "-Xmx1g", "-cp", jar, MAIN_CLASS, "start"]
    if run_to_end([gcloud, "emulators", "firestore", "--help"], Account(), Path("/")).returncode == 0:
        return [gcloud, "emulators", "firestore", "start", "--quiet"]
    return None


@contextmanager
def _local(command: list[str | Path]) -> Iterator[str]:
    port = free_port()
    address = [f"--host-port=127.0.0.1:{port}"] if "emulators" in command else ["--host=127.0.0.1", f"--port={port}"]
    directory = private_directory("scheduledjob-firestore-")
    try:
        process = ServerProcess([*command, *address], Account(), directory)
        try:
            process.wait_until(lambda: accepts_connections(port))
            yield f"127.0.0.1:{port}"
        finally:
            process.end()
    finally:
        remove(directory)
