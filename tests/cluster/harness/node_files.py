"""The files that a node's servers are configured by, with the reason beside what is not obvious."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster.harness.control_plane import Network


def nat_rules(network: Network, api_port: int) -> list[str]:
    """Rules for the nat table: the API server's Service, every loopback port of this machine, host-network Pods."""
    ours = f"-p tcp -m comment --comment {network.name}"
    api = f"-d {network.api_service} {ours} --dport 443 -j DNAT --to-destination 127.0.0.1:{api_port}"
    return [
        f"PREROUTING -i {network.name} {api}",
        f"PREROUTING -i {network.name} -d {network.gateway} {ours} -j DNAT --to-destination 127.0.0.1",
        f"OUTPUT {api}",
    ]


def cni_config(network: Network, directory: Path) -> str:
    plugin = {
        "type": "bridge",
        "bridge": network.name,
        "isGateway": True,
        "ipMasq": False,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "dataDir": str(directory / "addresses"),
            "ranges": [[{"subnet": network.pods}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    return json.dumps({"cniVersion": "1.0.0", "name": network.name, "plugins": [plugin]})


def containerd_config(directory: Path, pause_image: str) -> str:
    return f"""\
version = 2
root = "{directory}/containerd-root"
state = "{directory}/containerd-state"
[grpc]
  address = "{directory}/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{directory}/containerd-opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause_image}"
  # Root without CAP_SYS_RESOURCE may not lower a container's OOM score: runc would die of it.
  restrict_oom_score_adj = true
  # So that node_end.sh finds them.
  netns_mounts_under_state_dir = true
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
  Root = "{directory}/runc"
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/usr/lib/cni"
  conf_dir = "{directory}/cni"
"""


def kubelet_config(network: Network, directory: Path, authority: Path, ports: tuple[int, int]) -> str:
    """`ports` are the kubelet's own and the one of its health."""
    return f"""\
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: 127.0.0.1
port: {ports[0]}
readOnlyPort: 0
healthzBindAddress: 127.0.0.1
healthzPort: {ports[1]}
failCgroupV1: false # since 1.35 the kubelet refuses cgroup v1 unless told so
cgroupDriver: cgroupfs
cgroupRoot: /{network.name}
containerRuntimeEndpoint: unix://{directory}/containerd.sock
authentication: {{anonymous: {{enabled: false}}, webhook: {{enabled: true}}, x509: {{clientCAFile: {authority}}}}}
authorization: {{mode: Webhook}}
resolvConf: {directory}/resolv.conf
clusterDNS: [{network.gateway}] # nobody answers there; without it every Pod gets a MissingClusterDNS Event
clusterDomain: cluster.local
makeIPTablesUtilChains: false
oomScoreAdj: 0
imageGCHighThresholdPercent: 100
evictionHard: {{memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%}}
maxPods: 200
podLogsDir: {directory}/pod-logs
"""
