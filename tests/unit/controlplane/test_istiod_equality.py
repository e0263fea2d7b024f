# SPDX-License-Identifier: Apache-2.0
"""Our translation against a real istiod's: the same resources for the same objects, and the same changes of each step.

What may differ stands in this file, and with its reason in docs/istiod.md.
"""

import base64
import dataclasses
import ipaddress
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message

from nodeagent.controlplane.delta import DeltaStream
from nodeagent.controlplane.objects import Enrolment
from nodeagent.controlplane.rehearsal import Change, rehearse
from nodeagent.controlplane.snapshot import ADDRESS, AUTHORIZATION, MESSAGES
from nodeagent.proto import workload_pb2, xds_pb2

RECORDINGS = Path(__file__).parents[2] / "data" / "istiod"
ISTIODS_OWN = {
    (ADDRESS, "default/kubernetes.default.svc.cluster.local"),
    (ADDRESS, "istio-system/istiod.istio-system.svc.cluster.local"),
}
GENERATED = tuple(
    f"{namespace}/{name}.{namespace}.svc.cluster.local"
    for namespace, name in (("backend", "waypoint"), ("bookinfo", "waypoint"), ("shop", "wl-waypoint"))
)
"""Services that istiod writes for its waypoints, over those of the scenario."""
EXCEPTED = ISTIODS_OWN | {(ADDRESS, name) for name in GENERATED}
REFUSED = {(AUTHORIZATION, "shop/deny-none")}
"""As Istio's webhook would; the recorder's cluster had none."""

CONTRADICTED = {
    (AUTHORIZATION, f"shop/converted_peer_authentication_w{workload}")
    for workload in (
        *("permissives", "permissivesp", "permissivess", "disables", "disablesp", "disabless"),
        *("unsetp", "unsetd", "unsetsp", "xp", "xd", "xsp"),
    )
}
"""Of rules/peers: what istiod lists at a workload and does not send, in some of the steps."""
ALLOCATED = tuple(ipaddress.ip_network(block) for block in ("240.240.0.0/16", "2001:2::/48"))
"""Given by a controller that was not there when rules/ were recorded."""
NEW_ENDPOINTS = {"apply step-new-pod.yaml": {"Kubernetes//Pod/shop/cart-2"}}
"""Of a Service that the client holds: we tell them at once, istiod when the client asks again."""
RECORDER = """
apiVersion: v1
kind: Pod
metadata: {name: ztunnel-a, namespace: istio-system, labels: {app: ztunnel}}
spec: {nodeName: node-a, serviceAccountName: ztunnel}
status: {podIP: 10.20.1.2, conditions: [{type: Ready, status: 'True'}]}
"""
"""The pod as which istiod's answers were recorded."""

Named = tuple[str, str]
"""Type url and name of a resource."""


@dataclasses.dataclass(frozen=True)
class Step:
    changed: dict[Named, Message]
    repeated: dict[Named, Message]
    """Sent again although nothing differs."""
    removed: set[str]


def decoded(type_url: str, value: bytes) -> Message:
    message: Message = MESSAGES[type_url].FromString(value)
    if isinstance(message, workload_pb2.Address) and message.HasField("workload"):
        for name in GENERATED:
            message.workload.services.pop(name, None)
    elif isinstance(message, workload_pb2.Address):
        written = [one for one in message.service.addresses if not is_allocated(one.address)]
        del message.service.addresses[:]
        message.service.addresses.extend(written)
    return message


def is_allocated(packed: bytes) -> bool:
    address = ipaddress.ip_address(packed)
    return any(address in block for block in ALLOCATED)


def recorded(scenario: str) -> dict[str, Step]:
    """By step, what istiod sent of either type."""
    messages = [
        json.loads(line)
        for path in sorted((RECORDINGS / scenario).glob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    if scenario.startswith("rules/"):
        messages = [unpacked(message, number) for number, message in enumerate(messages)]
    held: dict[Named, Message] = {}
    by_step: dict[str, Step] = {}
    for message in sorted(messages, key=lambda message: int(message["seq"])):
        if message["dir"] != "res":
            continue
        step = by_step.setdefault(message["step"], Step({}, {}, set()))
        for resource in message.get("resources", []):
            named = message["type_url"], resource["name"]
            if named in EXCEPTED | REFUSED | CONTRADICTED:
                continue
            value = decoded(named[0], base64.b64decode(resource["value_b64"]))
            if held.get(named) == value:
                step.repeated[named] = value
            else:
                step.changed[named] = held[named] = value
        for name in message.get("removed_resources", []):
            if (message["type_url"], name) not in CONTRADICTED:
                step.removed.add(name)
            held.pop((message["type_url"], name), None)
    return by_step


def unpacked(message: dict[str, Any], number: int) -> dict[str, Any]:
    """A line of told.jsonl in the shape of the longer recordings."""
    resources = [{"name": name, "value_b64": value} for name, value in message["resources"].items()]
    return message | {"seq": number, "dir": "res", "resources": resources, "removed_resources": message["removed"]}


def ours(changes: Iterable[Change]) -> Iterator[Step]:
    for change in changes:
        changed = {
            (type_url, one.name): decoded(type_url, one.value)
            for type_url, one in change.changed
            if (type_url, one.name) not in EXCEPTED | CONTRADICTED
        }
        yield Step(changed, {}, set(change.removed) - {name for _, name in CONTRADICTED})


@pytest.fixture
def rehearsed(tmp_path: Path) -> Callable[..., list[Change]]:
    """Plays a scenario. A step is given as in steps.txt: its verb is put into the name of the file."""

    def play(scenario: str, *steps: str) -> list[Change]:
        folder, files = RECORDINGS / scenario, []
        begin = tmp_path / "begin"
        begin.mkdir()
        (begin / "input.yaml").write_text((folder / "input.yaml").read_text())
        if not scenario.startswith("rules/") and "name: ztunnel-a" not in (begin / "input.yaml").read_text():
            (begin / "recorder.yaml").write_text(RECORDER)
        for number, step in enumerate(steps):
            verb, name = step.split()
            files.append(tmp_path / f"{number:02}-{verb}-{name}")
            files[-1].write_text((folder / name).read_text())
        return list(rehearse(begin, tuple(files), Enrolment.ANNOTATION))

    return play


def is_explained(message: Message, step: Step) -> bool:
    """istiod repeats the endpoints of a Service that changed, and a policy whose selector did."""
    services = {name for type_url, name in step.changed if type_url == ADDRESS}
    return not isinstance(message, workload_pb2.Address) or not services.isdisjoint(message.workload.services)


def steps_of(scenario: str) -> list[str]:
    paths = sorted((RECORDINGS / scenario).glob("step-*.yaml"))
    return [f"{'delete' if 'delete' in path.name else 'apply'} {path.name}" for path in paths]


@pytest.mark.parametrize(
    "scenario",
    [
        "basic",
        "authz",
        "peerauth",
        "waypoint",
        "multinetwork",
        *sorted(f"rules/{path.name}" for path in (RECORDINGS / "rules").iterdir()),
    ],
)
def test_every_step_changes_what_istiod_changed(rehearsed: Callable[..., list[Change]], scenario: str) -> None:
    theirs, names = recorded(scenario), steps_of(scenario)
    first, *rest = ours(rehearsed(scenario, *names))
    assert first.changed == theirs.pop("connect").changed
    for name, step in zip(names, rest, strict=True):
        expected = theirs.pop(name, Step({}, {}, set()))
        assert step.changed == expected.changed, name
        assert step.removed == expected.removed, name
        assert all(is_explained(message, expected) for message in expected.repeated.values()), name
    assert not theirs


def test_what_changed_while_a_client_was_away_is_what_istiod_told_it(rehearsed: Callable[..., list[Change]]) -> None:
    theirs = recorded("reconnect")
    away = [
        "delete step-gone.yaml",
        "delete step-gone-policy.yaml",
        "apply step-new-pod.yaml",
        "apply step-changed.yaml",
    ]
    after = ["apply step-nacked.yaml", "apply step-after-nack.yaml"]
    first, *rest = ours(rehearsed("reconnect", *away, *after))
    assert first.changed == theirs["connect"].changed
    missed = rest[: len(away)]
    assert {named: one for step in missed for named, one in step.changed.items()} == theirs["reconnect"].changed
    assert set().union(*(step.removed for step in missed)) == theirs["reconnect"].removed
    for name, step in zip(after, rest[len(away) :], strict=True):
        assert step.changed == theirs[name].changed, name


def test_on_demand_a_client_is_told_what_istiod_told_it(rehearsed: Callable[..., list[Change]]) -> None:
    """Up to its unsubscribing, upon which istiod takes back all that the client has. An address has an answer, too."""
    theirs = recorded("ondemand")
    lines = [
        line.partition("#")[0].strip() for line in (RECORDINGS / "ondemand" / "steps.txt").read_text().splitlines()
    ]
    told = lines[: next(at for at, line in enumerate(lines) if line.startswith("unsub"))]
    changes = iter(rehearsed("ondemand", *(line for line in told if line.startswith(("apply", "delete")))))
    snapshot = next(changes).snapshot
    stream = DeltaStream("node-a")
    held: dict[Named, Message] = {}
    for line in told:
        verb, name = line.split() if " " in line else (line, "")
        subscribed = ""
        if verb == "connect-ondemand":
            stream.received(asked(ADDRESS, ["*"], ["*"]))
            stream.received(asked(AUTHORIZATION, [], []))
        elif verb == "sub":
            subscribed = name
            stream.received(asked(ADDRESS, [name], []))
        else:
            snapshot = next(changes).snapshot
        removed: set[str] = set()
        changed = {}
        for response in stream.due(snapshot, 0.0):
            removed |= set(response.removed_resources)
            if any(subscribed in resource.aliases for resource in response.resources):
                removed.discard(subscribed)  # docs/istiod.md
            for resource in response.resources:
                named, value = (response.type_url, resource.name), decoded(response.type_url, resource.resource.value)
                if held.get(named) != value:
                    changed[named] = held[named] = value
        expected = theirs.get(line, Step({}, {}, set()))
        new = {named for named in changed if named[1] in NEW_ENDPOINTS.get(line, ())}
        assert {named: one for named, one in changed.items() if named not in new} == expected.changed, line
        assert removed == expected.removed, line


def asked(type_url: str, subscribe: list[str], unsubscribe: list[str]) -> xds_pb2.DeltaDiscoveryRequest:
    return xds_pb2.DeltaDiscoveryRequest(
        type_url=type_url, resource_names_subscribe=subscribe, resource_names_unsubscribe=unsubscribe
    )
