# SPDX-License-Identifier: Apache-2.0
"""Lists of revoked certificates with real agents: who is on the authority's is cut off, who is on another's is not."""

import datetime as dt
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

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
    former_lines = len(stage.access_lines("node-a"))
    serials = stage.certificate_serials("node-b")
    for serial in serials:
        subprocess.run(command("ca", "revoke", serial, "--state-dir", stage.state_directory), check=True)

    assert echo.seconds_until_cut(WITHIN_SECONDS) is not None
    echo.close()
    assert not is_served(web, db, PORT)

    def reasons() -> set[str | None]:
        return {line.get("reason") for line in stage.access_lines("node-a")[former_lines:]}

    # The agent hears of it from its worker, beside what the client sees.
    eventually(lambda: "certificate_revoked" in reasons(), WITHIN_SECONDS, "the access log says why")
    told = f"{len(serials)} certificate{'s' * (len(serials) > 1)} revoked"
    for node in NODES:
        eventually(lambda node=node: detail(stage, node, "revocations") == told, WITHIN_SECONDS, told)  # type: ignore[misc]

    stage.renew_certificates()
    eventually(lambda: is_served(web, db, PORT), WITHIN_SECONDS, "it is believed by another certificate")
    assert not set(serials) & set(stage.certificate_serials("node-b"))


def test_a_list_that_somebody_else_has_signed_is_not_believed(stage: Stage, tmp_path: Path) -> None:
    signer, now = stage.state_directory / "intermediate-cert.pem", dt.datetime.now(dt.UTC)
    issuer = x509.load_pem_x509_certificate(signer.read_bytes()).subject
    builder = x509.CertificateRevocationListBuilder(issuer, now, now + dt.timedelta(days=1))
    for serial in stage.certificate_serials("node-b"):
        entry = x509.RevokedCertificateBuilder().serial_number(int(serial, 16)).revocation_date(now).build()
        builder = builder.add_revoked_certificate(entry)
    forged = builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    (tmp_path / "crl.pem").write_bytes(forged.public_bytes(Encoding.PEM))

    stage.start_agent("node-a", takeover=True, crl=str(tmp_path / "crl.pem"))
    try:
        eventually(
            lambda: "its signature is wrong" in detail(stage, "node-a", "revocations"), WITHIN_SECONDS, "refused"
        )
        assert is_served(stage.pod("web"), stage.pod("db").ipv4, PORT)
    finally:
        stage.start_agent("node-a", takeover=True)
