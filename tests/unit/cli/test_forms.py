# SPDX-License-Identifier: Apache-2.0
"""Every command that only looks, in every form of -o, from the recording of a real agent, held against the schema."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
import yaml

from nodeagent.cli.main import COMMANDS, cli
from nodeagent.cli.output import FORMS

Call = Callable[..., tuple[int, str, str]]

ROOT = Path(__file__).resolve().parents[3]
DUMP = str(ROOT / "tests/data/dump.json")
SCHEMA = json.loads((ROOT / "docs/nodeagent-v1.schema.json").read_text(encoding="utf-8"))

LISTS = {
    "status": ("Status", {"components": "Component", "workers": "Worker", "kernel": "KernelReason"}),
    "pods": ("Pods", {"pods": "Pod"}),
    "workloads": ("Workloads", {"workloads": "Workload"}),
    "services": ("Services", {"services": "Service"}),
    "policies": ("Policies", {"policies": "Policy", "missing": "MissingPolicy"}),
    "certs": ("Certificates", {"certificates": "Certificate"}),
    "connections": ("Connections", {"connections": "Connection"}),
    "flows": ("Flows", {"flows": "Flow"}),
    "edges": ("Edges", {"edges": "Edge"}),
    "log": ("Logs", {"logs": "Log"}),
}
"""Answer, and row by list, of commands that show lists."""
OTHERS = {
    "policies show shop/db-clients": "PolicyShown",
    "explain shop/web shop/db:80": "Explanation",
    "version": "Version",
}
NAMELESS = {"flows"}


def closed(schema: Any) -> Any:
    """As `schema`, but a field that it does not name is refused: users may get new ones, tests may not."""
    if isinstance(schema, dict):
        changed = {key: closed(value) for key, value in schema.items()}
        return changed | ({"additionalProperties": False} if "properties" in schema else {})
    return [closed(value) for value in schema] if isinstance(schema, list) else schema


def validate(value: object, name: str) -> None:
    schema = closed({"$ref": f"#/$defs/{name}", "$defs": SCHEMA["$defs"]})
    jsonschema.Draft202012Validator(schema).validate(value)


def of_dump(words: str) -> list[str]:
    return [*words.split(), "--file", DUMP]


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("words", [*LISTS, *OTHERS])
@pytest.mark.parametrize(("form", "read"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_documents(call: Call, words: str, form: str, read: Callable[[str], Any]) -> None:
    status, out, err = call(*of_dump(words), "-o", form)
    assert (status, err) == (0, "")
    document = read(out)
    validate(document, LISTS[words][0] if words in LISTS else OTHERS[words])
    jsonschema.validate(document, SCHEMA)


@pytest.mark.parametrize("words", LISTS)
def test_lines(call: Call, words: str) -> None:
    status, out, _ = call(*of_dump(words), "-o", "jsonl")
    assert status == 0
    rows, kinds = [json.loads(line) for line in out.splitlines()], LISTS[words][1]
    assert rows
    for row in rows:
        assert row.pop("schema") == "nodeagent/v1"
        validate(row, kinds[row.pop("kind")])


@pytest.mark.parametrize("words", LISTS)
def test_names(call: Call, words: str) -> None:
    status, out, err = call(*of_dump(words), "-o", "name")
    if words in NAMELESS:
        assert (status, out) == (2, "")
        assert "no names" in err
    else:
        first = next(iter(LISTS[words][1]))
        document = json.loads(call(*of_dump(words), "-o", "json")[1])
        assert status == 0
        assert len(out.splitlines()) == len(document[first])


@pytest.mark.parametrize("words", LISTS)
def test_wide_has_what_the_table_has_and_more(call: Call, words: str) -> None:
    table, wide = (call(*of_dump(words), "-o", form)[1].splitlines() for form in ("table", "wide"))
    assert table
    assert len(wide) == len(table)
    assert wide[0].split()[: len(table[0].split())] == table[0].split()
    bare = call(*of_dump(words), "--no-headers")[1].splitlines()
    assert table[0] not in bare


@pytest.mark.parametrize("words", OTHERS)
def test_what_is_no_list_has_no_names(call: Call, words: str) -> None:
    assert call(*of_dump(words), "-o", "name")[0] == 2


def _commands(group: click.Group, above: str = "") -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from _commands(command, f"{above}{name} ")
        else:
            yield f"{above}{name}", command


def test_every_command_that_shows_something_shows_it_in_every_form() -> None:
    for name, command in _commands(cli):
        for parameter in command.params:
            if "--output" in parameter.opts and isinstance(parameter.type, click.Choice) and name != "translate":
                assert tuple(parameter.type.choices) == FORMS, name


def test_every_command_that_asks_an_agent_is_tested_here() -> None:
    asking = {name for name, command in _commands(cli) if any("--file" in one.opts for one in command.params)}
    assert asking == {words.split()[0] for words in (*LISTS, *OTHERS)}
    assert asking <= set(COMMANDS)


def test_a_dump_is_not_followed(call: Call) -> None:
    status, out, err = call(*of_dump("flows --follow"))
    assert (status, out) == (2, "")
    assert "a file has an end" in err
