# SPDX-License-Identifier: Apache-2.0
"""A section for each check that there can be, and each says what it means and what to do."""

import ast
import re
from pathlib import Path

import pytest

from nodeagent.admin import status
from nodeagent.agent import picture
from nodeagent.cli.check_pages import AGENT, MACHINE, PAGES, page, place
from nodeagent.kernel.passage import PASSAGES
from nodeagent.model.check import Check

DOCUMENT = (Path(__file__).resolve().parents[3] / "docs/checks.md").read_text(encoding="utf-8")


def _components() -> set[str]:
    """Names of all components that the agent tells of: what ComponentState is made with."""
    names = {passage.name for passage in PASSAGES}
    for module in (picture, status):
        for node in ast.walk(ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "ComponentState":
                name = node.args[0]
                if isinstance(name, ast.Constant):
                    names.add(str(name.value))
                else:
                    assert ast.unparse(name) == "passage.name"
    return names


def test_each_check_of_the_machine_has_its_section() -> None:
    assert list(MACHINE) == list(Check), "in the order of the list"


def test_each_component_of_the_agent_has_its_section() -> None:
    assert set(AGENT) == _components()


@pytest.mark.parametrize("number", PAGES)
def test_a_section_says_what_it_means_and_what_to_do(number: str) -> None:
    text = page(number)
    assert text.startswith(f"## {number}\n")
    assert "**What to do** " in text
    assert text in DOCUMENT, "make proto prints it"
    assert f"](#{number})" in DOCUMENT
    assert place(number) == f"docs/checks.md#{number}"
    for other in re.findall(r"the checks? `([^`]+)`", text):
        assert other in set(Check), f"{other}: no such check"


def test_what_has_no_section_has_no_place() -> None:
    assert place("agent-of-tomorrow") == ""
