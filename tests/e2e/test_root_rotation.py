# SPDX-License-Identifier: Apache-2.0
"""The recipe of docs/control-plane.md with real agents: the root is exchanged, and no connection notices."""

import subprocess
from collections.abc import Iterator

import pytest
from cryptography import x509

from nodeagent.lab.demo.claims import eventually
from nodeagent.lab.demo.client import Traffic
from nodeagent.lab.demo.stage import NODES, PORT, Stage, command, running
from nodeagent.lab.namespaces import RUN_DIR

pytestmark = pytest.mark.e2e

WITHIN_SECONDS = 120


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with running() as stage:
        stage.prepare()
        stage.start_control_plane()
        for node in NODES:
            stage.start_agent(node)
        yield stage


def trusted(stage: Stage) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates((stage.state_directory / "root-cert.pem").read_bytes())


def take_step(stage: Stage, *words: str) -> None:
    """On the control plane; then until it has taken it up, and the root file has been brought to the nodes."""
    log = stage.directory / "control-plane.log"
    taken_up = log.read_text().count("signing by another authority")
    subprocess.run(command("ca", *words, "--state-dir", stage.state_directory), check=True)
    eventually(
        lambda: log.read_text().count("signing by another authority") > taken_up,
        WITHIN_SECONDS,
        f"the control plane has taken up {words[0]}",
    )
    roots = (stage.state_directory / "root-cert.pem").read_bytes()
    for node in NODES:
        stage.lab.nodes[node].call(lambda: (RUN_DIR / "root-cert.pem").write_bytes(roots))


def renew(stage: Stage) -> None:
    """Every certificate of every node, as `nodeagent certs --renew` does."""
    before = {node: set(stage.certificate_serials(node)) for node in NODES}
    stage.renew_certificates()
    for node in NODES:
        eventually(
            lambda node=node: not before[node] & set(stage.certificate_serials(node)),  # type: ignore[misc]
            WITHIN_SECONDS,
            f"every certificate of {node} is another one",
        )


def test_the_root_is_exchanged_and_no_connection_notices(stage: Stage) -> None:
    (former,) = trusted(stage)
    with Traffic(stage.pod("web"), stage.pod("db").ipv4, PORT).running() as traffic:
        traffic.wait_for_more(5)
        for words, count in ((("add-root",), 2), (("use-root", "--force"), 2), (("drop-root", "--force"), 1)):
            take_step(stage, *words)
            assert len(trusted(stage)) == count
            # Before, while and after everybody renews: at each moment some have the former step's certificates.
            traffic.wait_for_more(10)
            renew(stage)
            traffic.wait_for_more(10)

    assert traffic.failures == []
    assert former not in trusted(stage)
    # A client that trusts the file alone, as it is at the end, is shown what the agent says that it uses.
    serial = int(stage.stranger.proof_of(stage.pod("db").ipv4).serial, 16)
    assert f"{serial:x}" in stage.certificate_serials("node-b")
