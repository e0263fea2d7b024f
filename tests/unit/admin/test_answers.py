# SPDX-License-Identifier: Apache-2.0
"""The schema describes each answer under its name. That commands keep to it, tests/unit/cli/test_forms.py says."""

from nodeagent.admin.answers import ANSWERS, schema_of_answers
from nodeagent.admin.schema import SCHEMA


def test_each_answer_has_its_version() -> None:
    schema = schema_of_answers()
    assert [one["$ref"].rpartition("/")[2] for one in schema["anyOf"]] == [answer.__name__ for answer in ANSWERS]
    for answer in ANSWERS:
        shape = schema["$defs"][answer.__name__]
        assert shape["properties"]["schema"] == {"const": SCHEMA}
        assert "schema" in shape["required"]
        assert "nodeagent" in shape["description"], "which command answers so"


def test_values_of_a_closed_set_are_listed() -> None:
    shapes = schema_of_answers()["$defs"]
    assert shapes["Captured"]["enum"] == ["no", "pending", "yes"]
    assert shapes["Verdict"]["enum"] == ["allowed", "denied", "failed"]
