# SPDX-License-Identifier: Apache-2.0
"""SPIFFE ids: exactly five parts, or refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.model.identity import Identity

parts = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="/"), min_size=1)


@given(parts, parts, parts)
def test_parsing_is_the_inverse_of_showing(domain: str, namespace: str, account: str) -> None:
    identity = Identity(domain, namespace, account)
    assert Identity.parse(str(identity)) == identity
    assert str(identity) == "spiffe://" + identity.principal


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "spiffe://td/ns/a/sa",
        "spiffe://td/ns/a/sa/",
        "spiffe://td/ns//sa/b",
        "spiffe:///ns/a/sa/b",
        "spiffe://td/ns/a/sa/b/c",
        "spiffe://td/ns/a/sa/b/",
        "spiffe://td/sa/a/ns/b",
        "SPIFFE://td/ns/a/sa/b",
        "https://td/ns/a/sa/b",
        "spiffe:/td/ns/a/sa/b",
        "spiffe://td/ns/a/sa/b ",
        "spiffe://td/ns/a b/sa/c",
        "spiffe://td/ns/a/sa/b\n",
        "spiffe://td/ns/\x00/sa/b",
        "spiffe://td/ns/ä/sa/b",
        " spiffe://td/ns/a/sa/b",
        "td/ns/a/sa/b",
    ],
)
def test_what_is_no_identity_is_refused_and_quoted(uri: str) -> None:
    with pytest.raises(ValueError, match="is not spiffe://") as caught:
        Identity.parse(uri)
    assert repr(uri) in str(caught.value)


def test_a_principal_is_what_policies_name() -> None:
    assert Identity.parse("spiffe://td/ns/a/sa/b").principal == "td/ns/a/sa/b"
