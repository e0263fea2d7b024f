# SPDX-License-Identifier: Apache-2.0
"""What looks like a secret goes, whole or cut; what everybody may see stays."""

import base64

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from nodeagent.cli.redact import redact
from nodeagent.controlplane.token import make_token

KEY = ec.generate_private_key(ec.SECP256R1())
TOKEN = make_token(b"0" * 64, "node-a", now=1.0, ttl_seconds=60)


def pem(form: serialization.PrivateFormat, *, is_locked: bool = False) -> str:
    locked = serialization.BestAvailableEncryption(b"x") if is_locked else serialization.NoEncryption()
    return KEY.private_bytes(serialization.Encoding.PEM, form, locked).decode()


PKCS8, SEC1 = pem(serialization.PrivateFormat.PKCS8), pem(serialization.PrivateFormat.TraditionalOpenSSL)
DER = KEY.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
CERTIFICATE = "-----BEGIN CERTIFICATE-----\n" + "A" * 200 + "\n-----END CERTIFICATE-----\n"


@pytest.mark.parametrize(
    ("text", "expected", "count"),
    [
        pytest.param(f"a\n{PKCS8}b", "a\n[private key]\nb", 1, id="PKCS 8"),
        pytest.param(f"a {SEC1} b {PKCS8}", "a [private key]\n b [private key]\n", 2, id="two"),
        pytest.param(
            pem(serialization.PrivateFormat.PKCS8, is_locked=True), "[private key]\n", 1, id="behind a passphrase"
        ),
        pytest.param(f'{{"key": "{PKCS8}"}}'.replace("\n", "\\n"), '{"key": "[private key]\\n"}', 1, id="in JSON"),
        pytest.param(f"a\n{PKCS8[:100]}", "a\n[private key]", 1, id="without its end"),
        pytest.param(f"{PKCS8[60:]}b", "[private key]\nb", 1, id="without its beginning"),
        pytest.param(f"x={TOKEN} y", "x=[token] y", 1, id="a token"),
        pytest.param(f"authorization: Bearer {TOKEN}", "authorization: Bearer [token]", 1, id="in a header"),
        pytest.param("Authorization: bearer opaque-words", "Authorization: bearer [token]", 1, id="of another kind"),
        pytest.param(base64.b64encode(DER).decode(), "[base64]", 1, id="without its frame"),
        pytest.param(base64.urlsafe_b64encode(DER).decode(), "[base64]", 1, id="for URLs"),
        pytest.param(f"/a-b/{'x' * 120}/c", "/a-b/[base64]/c", 1, id="a part of a path"),
        pytest.param(f"{CERTIFICATE}{PKCS8}{CERTIFICATE}", f"{CERTIFICATE}[private key]\n{CERTIFICATE}", 1, id="chain"),
        pytest.param("", "", 0, id="nothing"),
    ],
)
def test_secrets(text: str, expected: str, count: int) -> None:
    assert redact(text) == (expected, count)


def test_a_long_key() -> None:
    key = rsa.generate_private_key(65537, 2048)
    text = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    ).decode()
    assert redact(f"<{text}>") == ("<[private key]\n>", 1)


@pytest.mark.parametrize(
    "text",
    [
        CERTIFICATE,
        "spiffe://cluster.local/ns/shop/sa/web 10.0.0.1:8080 7173acfcf3e9a447ac0d45c04cf6d5fa57861c92",
        "/kubepods.slice/kubepods-burstable.slice/cri-containerd-" + "0af1" * 16 + ".scope",
        "/kubepods/burstable/pod0b2f7a1c-1c55-4c5e-9d6a-0a5b6d1f2e3c/" + "0af1" * 16,
        "eyJ is how they begin; the bearer [token] of this node",
    ],
)
def test_what_is_no_secret(text: str) -> None:
    assert redact(text) == (text, 0)
