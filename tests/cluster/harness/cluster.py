"""A cluster as tests use it, whoever runs it: its kubeconfig, clients, kubectl, namespaces and identities.

`GivenCluster` is the user's own, by TEST_KUBECONFIG; the one that is started here is in `control_plane`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import subprocess
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING

from tests.cluster.harness.binaries import programs
from tests.cluster.harness.client import ApiClient
from tests.cluster.harness.credentials import read_kubeconfig, write_kubeconfig
from tests.support.processes import ServerUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterable

NAMESPACE_SECONDS = 30.0


class NotOursError(ServerUnavailableError):
    """The test needs a cluster that the harness started, and TEST_KUBECONFIG named the user's own."""


class Cluster(ABC):
    """A running API server and a directory for kubeconfigs; `kubeconfig` is that of an administrator."""

    kubeconfig: Path

    def __init__(self) -> None:
        # Root's TMPDIR may lie below a directory that other users cannot enter, and Unix sockets want short paths.
        parent = "/tmp" if os.geteuid() == 0 else None
        self.directory = Path(tempfile.mkdtemp(prefix="scheduledjob-cluster-", dir=parent))
        self._kubectl: Path | None = None
        # When the tests are killed their servers get some seconds to end (see ServerProcess) before their files go.
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", 'read -r _; sleep 12; rm -rf -- "$1"', "guard", self.directory],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )

    @abstractmethod
    def kubeconfig_for(self, user: str, groups: Iterable[str] = ()) -> Path:
        """A kubeconfig of somebody who may do what RBAC allows the user or one of the groups, and nothing else.

        Raises NotOursError where the cluster is the user's own.
        """

    async def kubeconfig_for_account(self, namespace: str, name: str) -> Path:
        """A kubeconfig of a ServiceAccount that exists, with a token that is valid for an hour."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
        async with self.client() as api:
            answer = await api.post(path, body)
        return self._write_kubeconfig(f"{namespace}-{name}", {"token": answer["status"]["token"]})

    def client(self, kubeconfig: Path | None = None) -> ApiClient:
        """A client for ``async with``, of the administrator or of the user of `kubeconfig`."""
        return ApiClient(kubeconfig or self.kubeconfig)

    async def kubectl(
        self, *arguments: str, input: str | None = None, kubeconfig: Path | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl to its end; where it fails `check` raises AssertionError with what it printed."""
        if self._kubectl is None:
            self._kubectl = self.program("kubectl")
        command = [str(self._kubectl), "--kubeconfig", str(kubeconfig or self.kubeconfig), *arguments]
        process = await asyncio.create_subprocess_exec(
            *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            output, errors = await process.communicate((input or "").encode())
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        assert process.returncode is not None
        done = subprocess.CompletedProcess(command, process.returncode, output.decode(), errors.decode())
        if check and done.returncode != 0:
            shown = f"kubectl {' '.join(arguments)} ended with {done.returncode}"
            raise AssertionError(f"{shown}:\n{done.stderr}{done.stdout}")
        return done

    async def apply(self, manifest: str | Path, *arguments: str) -> None:
        """``kubectl apply --server-side`` of YAML (a string) or of a file or folder (a Path)."""
        source = str(manifest) if isinstance(manifest, Path) else "-"
        text = None if isinstance(manifest, Path) else manifest
        await self.kubectl("apply", "--server-side", "-f", source, *arguments, input=text)

    async def new_namespace(self) -> str:
        """Create a namespace of a name of its own, in which Pods can be created."""
        name = f"test-{secrets.token_hex(5)}"
        async with self.client() as api:
            await api.post("/api/v1/namespaces", {"metadata": {"name": name}})
            async with asyncio.timeout(NAMESPACE_SECONDS):
                path = f"/api/v1/namespaces/{name}/serviceaccounts"
                async for _ in api.watch(path, fieldSelector="metadata.name=default"):
                    break
        return name

    async def delete_namespace(self, name: str) -> None:
        """Ask for its deletion, which takes seconds more; nothing waits for it."""
        async with self.client() as api:
            await api.delete(f"/api/v1/namespaces/{name}")

    def program(self, name: str) -> Path:
        return programs([name])[name]

    async def close(self) -> None:
        self._guard.kill()
        await asyncio.to_thread(self._guard.communicate)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _write_kubeconfig(self, name: str, user: dict[str, str]) -> Path:
        cluster, _ = read_kubeconfig(self.kubeconfig)
        return write_kubeconfig(self.directory / f"{name}-{secrets.token_hex(4)}.kubeconfig", cluster, user)


class GivenCluster(Cluster):
    """The cluster that the user named; nothing of it can be killed, and nobody's certificate can be signed."""

    def __init__(self, kubeconfig: str) -> None:
        # Flat: what the user's kubeconfig names by file is written out, and the other contexts go.
        view = ["config", "view", "--raw", "--flatten", "--minify", "-o", "json", "--kubeconfig"]
        shown = subprocess.run(
            [self.program("kubectl"), *view, kubeconfig], capture_output=True, text=True, check=False
        )
        users = (json.loads(shown.stdout).get("users") or []) if shown.returncode == 0 else []
        if not any({"token", "client-certificate-data"} & each["user"].keys() for each in users):
            raise ServerUnavailableError(
                f"TEST_KUBECONFIG={kubeconfig} must name a kubeconfig whose current context has a user with a token or "
                f"a client certificate {shown.stderr}"
            )
        super().__init__()
        self.kubeconfig = self.directory / "admin.kubeconfig"
        self.kubeconfig.touch(mode=0o600)
        self.kubeconfig.write_text(shown.stdout)

    def program(self, name: str) -> Path:
        on_path = shutil.which(name)
        return Path(on_path) if on_path else super().program(name)

    def kubeconfig_for(self, user: str, groups: Iterable[str] = ()) -> Path:
        raise NotOursError(f"a kubeconfig for {user} needs the authority of the cluster that TEST_KUBECONFIG names")
