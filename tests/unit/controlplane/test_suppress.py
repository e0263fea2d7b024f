# SPDX-License-Identifier: Apache-2.0
"""Who may silence what."""

import pytest

from nodeagent.controlplane.finding import Finding, Severity
from nodeagent.controlplane.objects import Key, Meta, Namespace, Origin
from nodeagent.controlplane.suppress import ANNOTATION, Suppression, silenced_by, suppress


def finding(code: str, subject: str = "Namespace shop", *, is_rejected: bool = False) -> Finding:
    return Finding("a.yaml", 1, Severity.WARNING, code, subject, "words", "Look.", is_rejected)


def namespace(codes: str) -> Namespace:
    meta = Meta(key=Key("Namespace", "", "shop"), origin=Origin("a.yaml", 1), annotations={ANNOTATION: codes})
    return Namespace(meta=meta)


@pytest.mark.parametrize(
    ("text", "code", "subject", "covers"),
    [
        ("MN0204", "MN0204", "Namespace shop", True),
        ("MN0204", "MN0205", "Namespace shop", False),
        ("*", "IST0101", "", True),
        ("MN0204=Pod shop/*", "MN0204", "Pod shop/web-0", True),
        ("MN0204=Pod shop/*", "MN0204", "Pod ops/web-0", False),
        ("*=Pod shop/web-?", "MN0001", "Pod shop/web-0", True),
    ],
)
def test_what_a_suppression_covers(text: str, code: str, subject: str, *, covers: bool) -> None:
    assert Suppression.parse(text).covers(finding(code, subject)) is covers


@pytest.mark.parametrize("text", ["", "MN1", "mn0204", "MN0204=", "MN0204 Pod shop/web"])
def test_what_is_no_suppression(text: str) -> None:
    with pytest.raises(ValueError, match="is not CODE"):
        Suppression.parse(text)


@pytest.mark.parametrize(
    ("codes", "told"),
    [
        ("MN0204", ["MN0205"]),
        ("MN0204, MN0205", []),
        ("*", []),
        ("", ["MN0204", "MN0205"]),
    ],
)
def test_an_annotation_silences_its_own_object(codes: str, told: list[str]) -> None:
    findings = [finding("MN0204"), finding("MN0205")]
    assert [one.code for one in suppress(findings, silenced_by([namespace(codes)]))] == told
    elsewhere = [finding("MN0204", "Namespace ops")]
    assert suppress(elsewhere, silenced_by([namespace(codes)])) == tuple(elsewhere)


def test_what_is_refused_is_always_told() -> None:
    refused = finding("IST0106", is_rejected=True)
    assert suppress([refused], silenced_by([namespace("*")]), [Suppression("*")]) == (refused,)
