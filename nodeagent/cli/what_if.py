# SPDX-License-Identifier: Apache-2.0
"""`explain --policy-dir`: the agent's own mesh, with the policies of a directory in the place of its own.

The answer is that of the function by which the agent answers; only the state that it is asked with is another one.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from nodeagent.admin.client import AdminClient
from nodeagent.admin.dump import state_of
from nodeagent.admin.explain import destinations, explain
from nodeagent.admin.routes import parse_question
from nodeagent.controlplane.proposal import Proposal
from nodeagent.errors import ConfigError


def what_if(agent: AdminClient, directory: Path, query: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """The answer, as /explain gives it, and what of the directory would be refused.

    More than there: `now`, the verdict by what is in force, and for each route `files`, in which file and line each
    policy, or the rule of it that decides, stands. Raises ConfigError as /explain does, or for a directory that cannot
    be read.
    """
    question = parse_question(query)
    proposal = Proposal.read(directory)
    state = state_of(agent.fetch("/dump"))
    proposed = dataclasses.replace(state, mesh=proposal.laid_over(state.mesh))
    answer: dict[str, Any] = msgspec.to_builtins(explain(proposed, question))
    doubts = [doubt for found in destinations(proposed, question) for doubt in proposal.doubts(found)]
    answer["warnings"] += dict.fromkeys(doubts)
    for route in answer["routes"]:
        places = {
            policy["policy"]: proposal.place(policy["policy"], _rule(policy, route)) for policy in route["policies"]
        }
        route["files"] = {policy: place for policy, place in places.items() if place}
    try:
        in_force = agent.fetch("/explain", **query)
    except ConfigError:  # one of the two is in the directory only
        in_force = {}
    answer |= {"now": in_force.get("verdict", "unknown there"), "last_seen": in_force.get("last_seen")}
    return answer, [str(finding) for finding in proposal.refused]


def _rule(policy: Mapping[str, Any], route: Mapping[str, Any]) -> int:
    """The one to look at: which matches, or would have allowed by the fewest changes. 0: none in particular."""
    miss = route["nearest_miss"]
    if miss is not None and miss["policy"] == policy["policy"]:
        number: int = miss["rule"]
        return number
    return next((rule["number"] for rule in policy["rules"] if rule["is_matched"]), 0)
