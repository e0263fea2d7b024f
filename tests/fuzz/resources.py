# SPDX-License-Identifier: Apache-2.0
"""What a control plane answers as subject: some of it bent, and the rest is in force all the same.

An input is a conversation of an agent with istiod, as it was recorded, in which names and bytes of resources were
changed. Whatever they are: no exception; each response is answered once; what cannot be used is refused by name and
what was held under that name stays, while every other resource of the response is in force.
"""

import base64
import json
import random
from collections import Counter
from functools import cache
from pathlib import Path

from google.protobuf.message import DecodeError

from nodeagent.model.mesh import Mesh
from nodeagent.model.policy import Policy
from nodeagent.model.workload import Service, Workload
from nodeagent.proto import xds_pb2
from nodeagent.xds.decode import read_response, write_request
from nodeagent.xds.delta import Abandon, Acknowledge, Answer, Apply, Delta, Refuse, Subscribe
from tests.fuzz.mutate import bend
from tests.fuzz.subject import Input

RECORDED = Path(__file__).parents[1] / "data/istiod"
_FOLDERS = ("basic", "authz", "peerauth", "waypoint", "multinetwork")
_NODE = xds_pb2.Node(id="fuzz")
_RESOURCES = 12
"""Of a response at most: half of a hundred would be bent, and all of them decoded."""


class Resources:
    name = "resources"

    def make(self, rng: random.Random) -> Input:
        session = rng.choice(_sessions())
        first = rng.randrange(max(1, len(session) - 4))
        pieces = []
        for recorded in session[first : first + rng.randint(1, 6)]:
            response = xds_pb2.DeltaDiscoveryResponse.FromString(recorded)
            kept = rng.sample(list(response.resources), min(_RESOURCES, len(response.resources)))
            del response.resources[:]
            response.resources.extend(kept)
            for _ in range(rng.randint(0, 3)):
                _change(rng, response)
            pieces.append(response.SerializeToString())
        return Input(self.name, tuple(pieces))

    def run(self, given: Input) -> None:
        delta, mesh = Delta(), Mesh()
        delta.stream_opened()
        for piece in given.pieces:
            try:
                response = xds_pb2.DeltaDiscoveryResponse.FromString(piece)
            except DecodeError:  # gRPC ends the stream then
                return
            answer = read_response(response)
            if answer is not None and not _is_answered(delta, mesh, answer):
                return


def _is_answered(delta: Delta, mesh: Mesh, answer: Answer) -> bool:
    """False when the stream is abandoned."""
    before = _held(mesh)
    commands = delta.answered(answer)
    for command in commands:
        if isinstance(command, Apply):
            mesh.apply(command.changes)
        elif isinstance(command, Subscribe | Acknowledge | Refuse):
            write_request(command, _NODE)
    if any(isinstance(command, Abandon) for command in commands):
        return False
    answers = [command for command in commands if isinstance(command, Acknowledge | Refuse)]
    assert len(answers) == 1 or not commands, commands
    after = _held(mesh)
    if commands:
        _check_applied(answer, before, after, is_refused=isinstance(answers[0], Refuse))
    # All indexes can be asked.
    mesh.everything()
    for workload in list(mesh.workloads.values()):
        mesh.policies_for(workload)
        for ip in workload.addresses:
            mesh.workload_at(workload.network, ip)
    delta.last_good()
    return True


_Held = dict[str, Workload | Service | Policy]


def _check_applied(answer: Answer, before: _Held, after: _Held, *, is_refused: bool) -> None:
    sent = Counter(resource.name for resource in answer.resources)
    contradicted = {name for name, times in sent.items() if times > 1 or name in answer.removed}
    refused = contradicted | {rejected.name for rejected in answer.rejected}
    assert is_refused is bool(refused)
    for name in (refused & before.keys()) - sent.keys() - set(answer.removed):
        assert after.get(name) == before[name], f"{name} was refused, and what was held is not as it was"
    for resource in answer.resources:
        if resource.name not in contradicted:
            assert after.get(resource.name) == resource.value, f"{resource.name} is good and not in force"


def _held(mesh: Mesh) -> _Held:
    return {**mesh.workloads, **mesh.services, **mesh.policies}


# ---- conversations -----------------------------------------------------------------------------------------------


@cache
def _sessions() -> tuple[tuple[bytes, ...], ...]:
    """Responses of both types, in the order of the wire."""
    found = []
    for folder in _FOLDERS:
        lines = [
            json.loads(line)
            for kind in ("address", "authorization")
            for line in (RECORDED / folder / f"{kind}.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        responses = sorted((line for line in lines if line["dir"] == "res"), key=lambda line: line["seq"])
        found.append(tuple(base64.b64decode(line["raw_b64"]) for line in responses))
    return tuple(found)


def _change(rng: random.Random, response: xds_pb2.DeltaDiscoveryResponse) -> None:
    if not response.resources:
        response.removed_resources.append(rng.choice(("", "shop/x", "\x00", "a" * 5000)))
        return
    resource = rng.choice(list(response.resources))
    match rng.randrange(8):
        case 0:
            resource.name = rng.choice(("", "x", "\x00", "a" * 5000, rng.choice(list(response.resources)).name))
        case 1:
            resource.resource.type_url = rng.choice(("", response.type_url + "x", "type.googleapis.com/a.B"))
        case 2:
            response.removed_resources.append(resource.name)
        case 3:
            response.resources.append(resource)
        case 4:
            response.type_url = rng.choice(("", "type.googleapis.com/some.Thing"))
        case _:
            resource.resource.value = bend(rng, resource.resource.value)
