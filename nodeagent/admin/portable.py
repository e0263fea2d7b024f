# SPDX-License-Identifier: Apache-2.0
"""The agent's state as one answer, and back: a command can then ask of it what the agent was never asked. Pure.

It is answered there by the same functions as here, and costs the agent one encoding.
"""

import dataclasses
from collections.abc import Mapping
from typing import get_type_hints

import msgspec

from nodeagent.admin.state import AgentState
from nodeagent.errors import AgentUnreachable
from nodeagent.model.mesh import Changes, Mesh

_HINTS = get_type_hints(AgentState)
_NAMES = tuple(field.name for field in dataclasses.fields(AgentState))
# A mesh is made of indexes; it travels as the change that makes it.
_Portable = msgspec.defstruct("_Portable", [(name, Changes if name == "mesh" else _HINTS[name]) for name in _NAMES])


def pack(state: AgentState) -> dict[str, object]:
    """Nothing in it is secret: there are no keys and no tokens in the agent's state."""
    return {name: getattr(state, name) for name in _NAMES} | {"mesh": state.mesh.everything()}


def unpack(answer: Mapping[str, object]) -> AgentState:
    """From JSON. Raises AgentUnreachable for the answer of an agent of another release."""
    try:
        found = msgspec.convert({name: answer[name] for name in _NAMES}, _Portable)
    except (KeyError, msgspec.ValidationError) as error:
        raise AgentUnreachable(
            f"the agent's state cannot be read here: {error}", check="Is the agent of the same release as this command?"
        ) from error
    values = {name: getattr(found, name) for name in _NAMES}
    mesh = Mesh(values["node"], values["network"])
    mesh.apply(values["mesh"])
    return AgentState(**values | {"mesh": mesh})
