"""Inline HTTP jobs can't reach the API server, whatever else the administrator allows."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
import yaml

from scheduledjob.kube.api_server_addresses import _own_addresses
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


async def service_to(api: ApiClient, namespace: str, address: str, port: int) -> str:
    """Make a Service that leads to an endpoint, and return its address."""
    made = await api.post(
        f"/api/v1/namespaces/{namespace}/services",
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "alias"}, "spec": {"ports": [{"port": 8443}]}},
    )
    await api.post(
        f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices",
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": "alias", "labels": {"kubernetes.io/service-name": "alias"}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [address]}],
            "ports": [{"port": port}],
        },
    )
    return str(made["spec"]["clusterIP"])


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
    # An endpoint may not be on the loopback interface, but the server of this machine is closed under all addresses.
    own = [address for address in _own_addresses() if "." in address and not address.startswith("127.")]
    if own:
        alias = await service_to(api, namespace, own[0], configured.port or 0)
        servers["alias"] = f"https://{alias}:8443"
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
