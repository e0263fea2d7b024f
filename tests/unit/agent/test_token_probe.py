# SPDX-License-Identifier: Apache-2.0
"""Tokens of a kubelet and of our own control plane, good and bad, and files that have none."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from nodeagent.agent.token_probe import SKEW_SECONDS, Claims, judge, read_claims, token
from nodeagent.controlplane.token import make_key, make_token

NOW = 1_800_000_000


def encoded(claims: Any) -> str:
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return f"eyJhbGciOiJSUzI1NiJ9.{body}.c2lnbmF0dXJl"


GOOD = {
    "aud": ["istio-ca"],
    "exp": NOW + 43200,
    "iat": NOW,
    "nbf": NOW,
    "iss": "https://kubernetes.default.svc",
    "sub": "system:serviceaccount:istio-system:nodeagent",
}


@pytest.mark.parametrize(
    ("claims", "found", "evidence"),
    [
        pytest.param({}, (True, False), "for istio-ca, ends at 2027-01-15T20:00:00Z", id="good"),
        pytest.param({"aud": "istio-ca"}, (True, False), "for istio-ca, ends at", id="one audience"),
        pytest.param({"aud": ["api", "istio-ca"]}, (True, False), "for api, istio-ca, ends at", id="several"),
        pytest.param({"exp": None}, (True, False), "for istio-ca, does not end", id="without an end"),
        pytest.param({"exp": 1e300}, (True, False), "for istio-ca, ends at 1", id="an end that no calendar has"),
        pytest.param({"exp": NOW}, (False, True), "ended at 2027-01-15T08:00:00Z, 0 s ago", id="ended just now"),
        pytest.param({"exp": NOW - 90}, (False, True), "ended at 2027-01-15T07:58:30Z, 90 s ago", id="ended"),
        pytest.param({"exp": -1e300}, (False, True), "ended at -1", id="before any calendar"),
        pytest.param({"aud": ["https://api"]}, (False, False), "for https://api, ends at", id="for somebody else"),
        pytest.param({"aud": None}, (False, False), "for nobody in particular, ends at", id="for nobody"),
        pytest.param({"iat": NOW + SKEW_SECONDS}, (True, False), "for istio-ca", id="the clock is a little behind"),
        pytest.param({"iat": NOW + 300}, (False, False), "made 300 s from now, at 2027-01-15T08:05:00Z", id="iat"),
        pytest.param({"nbf": NOW + 300}, (False, False), "made 300 s from now", id="nbf"),
    ],
)
def test_what_a_token_says(tmp_path: Path, claims: dict[str, Any], found: tuple[bool, bool], evidence: str) -> None:
    path = tmp_path / "token"
    path.write_text(f"{encoded({**GOOD, **claims})}\n")
    probe = token(str(path), is_expected=True, now=NOW)
    assert (probe.ok, probe.is_needed) == found
    assert probe.evidence.startswith(evidence)
    assert probe.advice


def test_a_token_of_our_control_plane(tmp_path: Path) -> None:
    path = tmp_path / "token"
    made = make_token(make_key(), "node-a", now=NOW, ttl_seconds=60)
    path.write_text(made)
    probe = token(str(path), is_expected=True, now=NOW)
    assert (probe.ok, probe.evidence) == (True, "for istio-ca, ends at 2027-01-15T08:01:00Z")
    assert made not in str(probe)
    assert not token(str(path), is_expected=True, now=NOW + 60).ok


@pytest.mark.parametrize("text", ["opaque", "a.b", "a.!.c", "a.AA.c", encoded(["istio-ca"]), encoded({"exp": "soon"})])
def test_no_jwt_may_be_a_good_token(tmp_path: Path, text: str) -> None:
    assert read_claims(text) is None
    path = tmp_path / "token"
    path.write_text(text)
    probe = token(str(path), is_expected=True, now=NOW)
    assert (probe.ok, probe.evidence) == (True, f"{path} has no JWT: what it says is not known")


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe"])
def test_what_is_no_token_at_all(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    assert not token(str(path), is_expected=False, now=NOW).ok


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    probe = token(str(tmp_path), is_expected=False, now=NOW)
    assert (probe.ok, probe.is_needed, probe.evidence) == (False, False, f"{tmp_path}: Is a directory")


@pytest.mark.parametrize("is_expected", [True, False])
def test_a_file_that_is_not_there(tmp_path: Path, *, is_expected: bool) -> None:
    path = tmp_path / "token"
    probe = token(str(path), is_expected=is_expected, now=NOW)
    assert (probe.ok, probe.is_needed, probe.evidence) == (not is_expected, False, f"no file {path}")


@pytest.mark.parametrize(
    "secret", ["s3cr3t-opaque", "c2Vj/cmV0+b3BhcXVl", "/c2VjcmV0", "s" * 5000, f"/tmp/{'s' * 5000}"]
)
def test_a_token_in_the_place_of_its_file_is_not_told(secret: str) -> None:
    probe = token(secret, is_expected=True, now=NOW)
    assert (probe.ok, secret in probe.evidence) == (False, False)
    assert "AUTH_TOKEN" in probe.evidence


def test_claims_that_are_too_deep_are_none() -> None:
    deep = base64.urlsafe_b64encode(b'{"x":' + b"[" * 100_000).decode()
    assert read_claims(f"a.{deep}.c") is None


def test_any_number_is_an_end() -> None:
    assert judge(Claims(exp=-1e308), NOW).evidence.startswith("ended at -1e+308 s, 1e+308 s ago")
