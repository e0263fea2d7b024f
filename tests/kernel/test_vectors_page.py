# SPDX-License-Identifier: Apache-2.0
"""The vectors as a whole: enough of them, each with its reason, and docs/vectors.md is what the tables say."""

from pathlib import Path

from nodeagent.kernel.reasons import reasons
from tests.kernel.no_way_around.page import count_vectors, page
from tests.kernel.no_way_around.tables import TABLES

_PAGE = Path(__file__).resolve().parents[2] / "docs/vectors.md"


def test_there_are_enough_vectors_and_none_has_two_names() -> None:
    named = [
        (table.title, vector.name, family) for table in TABLES for vector in table.vectors for family in vector.families
    ]
    assert len(named) == len(set(named))
    assert count_vectors() >= 48


def test_every_counter_that_a_vector_names_exists() -> None:
    known = {reason.name for reason in reasons()}
    for table in TABLES:
        for vector in table.vectors:
            assert vector.counts.keys() <= known, vector.name


def test_what_arrives_in_plain_text_says_why_it_may() -> None:
    for table in TABLES:
        for vector in table.vectors:
            assert bool(vector.documented) == bool(vector.arrives - {"proxy"}), vector.name


def test_the_page_is_what_the_tables_say() -> None:
    assert _PAGE.read_text(encoding="utf-8") == page(), "python -m tests.kernel.no_way_around > docs/vectors.md"
