# SPDX-License-Identifier: Apache-2.0
"""`nodeagent ca revoke` with real agents: who is listed is cut off within seconds, until it has another certificate."""

import subprocess
from collections.abc import Iterator

import pytest

from nodeagent.lab.demo.claims import eventually
from nodeagent.lab.demo.client import Echo, is_served
from nodeagent.lab.demo.stage import NODES, PORT, Stage, command, running

pytestmark = pytest.mark.e2e

WITHIN_SECONDS = 30


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with running() as stage:
        stage.prepare()
        stage.start_control_plane()
        for node in NODES:
            stage.start_agent(node)
        yield stage


def detail(stage: Stage, node: str, component: str) -> str:
    rows = stage.ask(node, "status")["components"]
    return next((row["detail"] for row in rows if row["component"] == component), "")


def test_who_is_revoked_is_cut_off_until_it_has_another_certificate(stage: Stage) -> None:
    web, db = stage.pod("web"), stage.pod("db").ipv4
    echo = Echo(web, db, PORT)
    echo.exchange()
    serials = stage.certificate_serials("node-b")
    for serial in serials:
        subprocess.run(command("ca", "revoke", serial, "--state-dir", stage.state_directory), check=True)

    assert echo.seconds_until_cut(WITHIN_SECONDS) is not None
    echo.close()
    assert not is_served(web, db, PORT)
    reasons = {line.get("reason") for line in stage.access_lines("node-a")}
    assert "certificate_revoked" in reasons
    told = f"{len(serials)} certificate{'s' * (len(serials) > 1)} revoked"
    for node in NODES:
        eventually(lambda node=node: detail(stage, node, "revocations") == told, WITHIN_SECONDS, told)  # type: ignore[misc]

    stage.renew_certificates()
    eventually(lambda: is_served(web, db, PORT), WITHIN_SECONDS, "it is believed by another certificate")
    assert not set(serials) & set(stage.certificate_serials("node-b"))
