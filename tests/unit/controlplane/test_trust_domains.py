# SPDX-License-Identifier: Apache-2.0
"""Aliases in principals: the rows are those of istiod's own tests of its rules, and what its words promise."""

import msgspec
import pytest

from nodeagent.controlplane.objects import DEFAULT_MESH
from nodeagent.controlplane.parse_rule import parse_match
from nodeagent.controlplane.trust_domains import (
    aliases_of,
    as_principals,
    expand_principals,
    expand_trust_domains,
    written,
)


@pytest.mark.parametrize(
    ("domains", "principals", "expanded"),
    [
        pytest.param([], ["td1/ns/foo/sa/bar"], ["td1/ns/foo/sa/bar"], id="no alias"),
        pytest.param(["td2", "td1"], ["*"], ["*"], id="anybody"),
        pytest.param(["td2", "td1"], ["*/ns/foo/sa/bar"], ["*/ns/foo/sa/bar"], id="any trust domain"),
        pytest.param(["td2", "td1"], ["*sa/bar"], ["*sa/bar"], id="no trust domain at all"),
        pytest.param(
            ["td2", "td1"], ["td1/ns/foo/sa/bar"], ["td2/ns/foo/sa/bar", "td1/ns/foo/sa/bar"], id="an alias is both"
        ),
        pytest.param(
            ["td2", "td1"], ["td2/ns/foo/sa/bar"], ["td2/ns/foo/sa/bar", "td1/ns/foo/sa/bar"], id="and so is the other"
        ),
        pytest.param(
            ["td2", "td1"],
            ["cluster.local/ns/foo/sa/bar"],
            ["td2/ns/foo/sa/bar", "td1/ns/foo/sa/bar"],
            id="cluster.local is the mesh's own",
        ),
        pytest.param(["td2", "td1"], ["td3/ns/foo/sa/bar"], ["td3/ns/foo/sa/bar"], id="a stranger"),
        pytest.param(
            ["td2", "td1"], ["td1/ns/foo/sa/*"], ["td2/ns/foo/sa/*", "td1/ns/foo/sa/*"], id="any account of an alias"
        ),
        pytest.param(["td2", "td1"], ["td1/ns/foo/*"], ["td1/ns/foo/*"], id="not of five parts"),
        pytest.param(["new-td", "old-td"], ["*-td/ns/foo/sa/bar"], ["*-td/ns/foo/sa/bar"], id="a pattern for both"),
        pytest.param(
            ["td2", "old-td"],
            ["*-td/ns/foo/sa/bar"],
            ["td2/ns/foo/sa/bar", "*-td/ns/foo/sa/bar"],
            id="a pattern for one of them",
        ),
        pytest.param(
            ["td2", "td1"],
            ["td1/ns/foo/sa/bar", "td2/ns/foo/sa/bar"],
            ["td2/ns/foo/sa/bar", "td1/ns/foo/sa/bar"],
            id="no twins",
        ),
    ],
)
def test_principals(domains: list[str], principals: list[str], expanded: list[str]) -> None:
    assert [*map(written, expand_principals([*map(parse_match, principals)], domains))] == expanded


@pytest.mark.parametrize(
    ("domains", "values", "expanded"),
    [
        ([], ["td1"], ["td1"]),
        (["td2", "td1"], ["td1", "other"], ["td2", "td1", "other"]),
        (["td2", "td1"], ["td*", "*"], ["td*", "*"]),
    ],
)
def test_trust_domains(domains: list[str], values: list[str], expanded: list[str]) -> None:
    assert [*map(written, expand_trust_domains([*map(parse_match, values)], domains))] == expanded


def test_a_trust_domain_is_a_whole_part_of_a_principal() -> None:
    assert [*map(written, as_principals([*map(parse_match, ("td1", "td*", "*"))]))] == ["td1/*", "td*", "*"]


def test_one_domain_alone_has_no_aliases() -> None:
    assert aliases_of(DEFAULT_MESH) == ()
    mesh = msgspec.structs.replace(DEFAULT_MESH, trust_domain_aliases=("old",))
    assert aliases_of(mesh) == ("cluster.local", "old")
