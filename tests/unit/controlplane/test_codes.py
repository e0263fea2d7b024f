# SPDX-License-Identifier: Apache-2.0
"""A page for each code of our own, and an example that has what it is about."""

import pytest

from nodeagent.controlplane.catalog import Catalog, Content, admit
from nodeagent.controlplane.codes import PAGES, page
from nodeagent.controlplane.finding import CODES
from nodeagent.controlplane.review import review
from nodeagent.controlplane.translate import translate

OWN = [code for code in CODES if code.startswith("MN")]
HEADS = {
    "spec": "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: shop}\n",
    "metadata": "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nspec: {rules: [{}]}\n",
}


def test_each_own_code_has_a_page() -> None:
    assert list(PAGES) == OWN


@pytest.mark.parametrize("code", CODES)
def test_a_page_says_what_it_is_and_what_to_do(code: str) -> None:
    text = page(code)
    assert text.startswith(f"## {code}\n")
    assert ("**What to do** " if code in PAGES else "https://istio.io/") in text


ALONE = [
    code for code in OWN if PAGES[code].example.startswith(("spec", "metadata", "apiVersion")) and code != "MN0211"
]


@pytest.mark.parametrize("code", ALONE)
def test_an_example_has_what_the_page_is_about(code: str) -> None:
    example = PAGES[code].example
    text = HEADS.get(example.partition(":")[0], "") + example
    if example.startswith("metadata:\n"):
        text = text.replace("metadata:\n", "metadata:\n  name: p\n")
    catalog = admit(Catalog(), {"a.yaml": Content("a.yaml", text)})
    assert code in {finding.code for finding in review(catalog, catalog.values, translate(catalog.values))}
