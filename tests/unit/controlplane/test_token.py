# SPDX-License-Identifier: Apache-2.0
"""Tokens: what is accepted is exactly what was made, in its time."""

import base64
import hashlib
import hmac
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.controlplane.gate import Gate, Metadata, cluster_of
from nodeagent.controlplane.token import AUDIENCE, TokenRefused, make_key, make_token, verify_token

KEY, NOW = make_key(), 1_800_000_000.0
TOKEN = make_token(KEY, "node-a", now=NOW, ttl_seconds=60)


def test_a_token_names_its_node_until_it_expires() -> None:
    assert verify_token(KEY, TOKEN, now=NOW) == "node-a"
    assert verify_token(KEY, TOKEN, now=NOW + 59.9) == "node-a"
    with pytest.raises(TokenRefused, match="node-a expired 5 s ago"):
        verify_token(KEY, TOKEN, now=NOW + 65)


def test_another_key_makes_other_tokens() -> None:
    with pytest.raises(TokenRefused, match="signature is wrong"):
        verify_token(make_key(), TOKEN, now=NOW)


def forged(header: dict[str, str], claims: dict[str, object], key: bytes = KEY) -> str:
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in (header, claims)]
    signed = ".".join(parts)
    signature = base64.urlsafe_b64encode(hmac.new(key, signed.encode(), hashlib.sha256).digest()).rstrip(b"=")
    return f"{signed}.{signature.decode()}"


CLAIMS: dict[str, object] = {
    "iss": "nodeagent-control-plane",
    "sub": "node:node-a",
    "aud": [AUDIENCE],
    "iat": int(NOW),
    "exp": int(NOW) + 60,
}


@pytest.mark.parametrize(
    "token",
    [
        "",
        "a.b.c",
        "..",
        TOKEN + "x",
        TOKEN[:-2],
        TOKEN.rpartition(".")[0] + ".",
        TOKEN.replace(".", "é.", 1),
        "x" * 10_000,
        forged({"alg": "none", "typ": "JWT"}, CLAIMS),
        forged({"alg": "HS512", "typ": "JWT"}, CLAIMS),
    ],
)
def test_anything_else_is_refused(token: str) -> None:
    with pytest.raises(TokenRefused):
        verify_token(KEY, token, now=NOW)


@pytest.mark.parametrize(
    "change", [{"aud": ["other"]}, {"iss": "other"}, {"sub": "pod:a"}, {"sub": "node:"}, {"exp": "x"}, {"exp": 0}]
)
def test_a_signed_token_for_another_purpose_is_refused(change: dict[str, object]) -> None:
    header, _, _ = TOKEN.split(".")
    payload = base64.urlsafe_b64encode(json.dumps(CLAIMS | change).encode()).rstrip(b"=").decode()
    signature = hmac.new(KEY, f"{header}.{payload}".encode(), hashlib.sha256).digest()
    token = f"{header}.{payload}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"
    with pytest.raises(TokenRefused):
        verify_token(KEY, token, now=NOW)


@given(st.text(max_size=200) | st.integers(0, len(TOKEN) - 1).map(lambda at: TOKEN[:at] + "A" + TOKEN[at + 1 :]))
def test_no_text_but_the_token_names_a_node(text: str) -> None:
    # The last character of base64 has bits that no byte uses: such a spelling is the same token.
    if text[:-1] == TOKEN[:-1] and len(text) == len(TOKEN):
        return
    with pytest.raises(TokenRefused):
        verify_token(KEY, text, now=NOW)


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        (None, "no token"),
        ([("other", "x")], "no token"),
        ([("authorization", "Basic abc")], "no bearer token"),
        ([("authorization", "Bearer ")], "not a token"),
        ([("authorization", b"Bearer \xff")], "not a token"),
    ],
)
def test_calls_without_a_token_are_refused(metadata: Metadata, reason: str) -> None:
    with pytest.raises(TokenRefused, match=reason):
        Gate(KEY, lambda: NOW).node_of(metadata)


def test_a_call_is_of_its_tokens_node() -> None:
    metadata = [("clusterid", "c1"), ("authorization", f"bearer {TOKEN}\n")]
    assert Gate(KEY, lambda: NOW).node_of(metadata) == "node-a"
    assert (cluster_of(metadata), cluster_of(None)) == ("c1", "")
