# SPDX-License-Identifier: Apache-2.0
"""A state that was an answer in between says the same as before."""

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from nodeagent.admin.explain import Question, explain
from nodeagent.admin.portable import pack, unpack
from nodeagent.admin.state import AgentState
from nodeagent.errors import AgentUnreachable
from nodeagent.model.address import Cidr, Ip
from nodeagent.model.mesh import Changes, Mesh
from nodeagent.model.security import Revocations
from nodeagent.model.workload import Service, Vip
from nodeagent.routing.route import Target

StateOf = Callable[..., AgentState]


def _answer(state: AgentState) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(msgspec.json.encode({"schema": "nodeagent/v1", **pack(state)}))
    return found


def test_it_comes_back_whole(state_of: StateOf, mesh: Mesh) -> None:
    block = Service(name="b", namespace="shop", hostname="b", vips=(Vip("", block=Cidr.parse("2001:db8::/32")),))
    mesh.apply(Changes(services=(block,), extensions=(Revocations(source="s", certificates=frozenset({b"x" * 32})),)))
    state = state_of(drawn=frozenset({Target(Ip("10.96.0.5"), 5432)}), rejected=("no",))
    found = unpack(_answer(state))
    assert found.mesh.everything() == state.mesh.everything()
    for name in ("node", "now", "pods", "certificates", "drawn", "rejected", "workers", "kernel"):
        assert getattr(found, name) == getattr(state, name)
    question = Question(source="web", destination="db", port=5432)
    assert explain(found, question) == explain(state, question)


@pytest.mark.parametrize("damage", [{"pods": [{"pod": "x"}]}, {"mesh": 3}, {"now": None}])
def test_what_cannot_be_read_is_an_agent_of_another_release(state_of: StateOf, damage: dict[str, Any]) -> None:
    with pytest.raises(AgentUnreachable, match="cannot be read"):
        unpack(_answer(state_of()) | damage)


def test_a_member_that_is_not_there(state_of: StateOf) -> None:
    answer = _answer(state_of())
    del answer["drawn"]
    with pytest.raises(AgentUnreachable, match="drawn"):
        unpack(answer)
