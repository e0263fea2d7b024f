# SPDX-License-Identifier: Apache-2.0
"""What one pod may reach outside of the mesh is no other's affair, with whole agents and the kernel's programs."""

import ipaddress
from collections.abc import Iterator

import pytest

from nodeagent.lab.demo.claims import eventually
from nodeagent.lab.demo.client import Fate, fate, is_served
from nodeagent.lab.demo.mesh import Object
from nodeagent.lab.demo.stage import NODES, PORT, Stage, running
from nodeagent.lab.namespaces import Pod
from nodeagent.model.address import Ip

pytestmark = pytest.mark.e2e

NOBODY_LISTENS = 4
WITHIN_SECONDS = 30.0
SIDECAR: Object = {
    "apiVersion": "networking.istio.io/v1",
    "kind": "Sidecar",
    "metadata": {"name": "web", "namespace": "shop"},
    "spec": {"workloadSelector": {"labels": {"app": "web"}}, "outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"}},
}


def entry(addresses: list[str]) -> Object:
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "ServiceEntry",
        "metadata": {"name": "outside", "namespace": "shop"},
        "spec": {
            "hosts": ["outside.example"],
            "addresses": addresses,
            "ports": [{"number": NOBODY_LISTENS, "name": "tcp", "protocol": "TCP"}],
            "resolution": "NONE",
        },
    }


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with running() as stage:
        stage.prepare()
        stage.start_control_plane()
        for node in NODES:
            stage.start_agent(node)
        yield stage


def is_reached(client: Pod, ip: Ip) -> bool:
    """Whether the host at `ip` says anything, and be it that nobody listens."""
    return fate(client, ip, NOBODY_LISTENS, seconds=0.5) is not Fate.SILENT


def names_the_entry(line: dict[str, object], ip: Ip) -> bool:
    return line.get("dst.service") == "outside.example" and str(ip) in str(line)


def test_a_sidecars_pods_reach_what_is_registered_and_others_everything(stage: Stage) -> None:
    web, batch, outside = stage.pod("web"), stage.pod("batch"), stage.lab.control.ips
    assert all(is_reached(web, ip) for ip in outside)
    stage.write("60-sidecar.yaml", [SIDECAR])
    for ip in outside:
        eventually(lambda ip=ip: not is_reached(web, ip), WITHIN_SECONDS, f"{ip}: out of reach")  # type: ignore[misc]
        assert is_reached(batch, ip), "no Sidecar selects it"
    assert is_served(web, stage.pod("db").ipv4, PORT)

    blocks = [str(ipaddress.ip_network(f"{ip}/{120 if ':' in ip else 28}", strict=False)) for ip in outside]
    stage.write("61-entry.yaml", [entry(blocks)])
    for ip in outside:
        eventually(lambda ip=ip: is_reached(web, ip), WITHIN_SECONDS, f"{ip}: within a block that is registered")  # type: ignore[misc]
        eventually(
            lambda ip=ip: any(names_the_entry(line, ip) for line in stage.access_lines("node-a")),  # type: ignore[misc]
            WITHIN_SECONDS,
            f"{ip}: a record that names the entry",
        )
    stage.write("61-entry.yaml", [])
    stage.write("60-sidecar.yaml", [])
    for ip in outside:
        eventually(lambda ip=ip: is_reached(web, ip), WITHIN_SECONDS, f"{ip}: within reach again")  # type: ignore[misc]
