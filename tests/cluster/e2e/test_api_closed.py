"""Inline HTTP jobs can't reach the API server, whatever else the administrator allows."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
import yaml

from tests.cluster.e2e.operators import OperatorProcess, manifest, recent, until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster.e2e.operators import Sink
    from tests.cluster.harness import ApiClient, Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def version_of(server: str) -> str:
    return f'{{curl: {{url: "{server}/version", tls: {{insecureSkipVerify: true}}}}}}'


def server_of(kubeconfig: Path) -> str:
    return str(yaml.safe_load(kubeconfig.read_text())["clusters"][0]["cluster"]["server"])


async def test_the_api_server_is_closed_under_each_of_its_addresses(
    sjobs: Cluster, api: ApiClient, kubeconfig: Path, namespace: str, sink: Sink
) -> None:
    configured = urlsplit(server_of(kubeconfig))
    service = await api.get("/api/v1/namespaces/default/services/kubernetes")
    servers = {
        "configured": f"https://127.0.0.1:{configured.port}",
        "mapped": f"https://[::ffff:127.0.0.1]:{configured.port}",
        "service": f"https://{service['spec']['clusterIP']}",
    }
    flags = [f"--namespaces={namespace}", "--inline-http-allow=127.0.0.0/8", "--sweep-interval=1h"]
    once = "  retry: {maxRetries: 0}"
    async with OperatorProcess(kubeconfig, namespace, *flags):
        for name, server in servers.items():
            await sjobs.apply(manifest(name, "after: 0s", version_of(server), once), "-n", namespace)
        await sjobs.apply(manifest("allowed", "after: 0s", f"{{curl: {{url: {sink.url}}}}}", once), "-n", namespace)
        for name in servers:
            body = await until(api, namespace, name, recent)
            assert "is the API server's address, which HTTP jobs may not reach here" in recent(body)[0]["reason"]
        body = await until(api, namespace, "allowed", recent)
        assert recent(body)[0]["outcome"] == "Succeeded"
