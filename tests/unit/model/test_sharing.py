# SPDX-License-Identifier: Apache-2.0
"""What workloads have in common is one object, and every workload is equal to what it was."""

import sys

import msgspec
import pytest

from nodeagent.model import sharing
from nodeagent.model.address import Ip, Port
from nodeagent.model.sharing import forget, share, share_text
from nodeagent.model.workload import ServicePort, Workload


def workload(name: str, **fields: object) -> Workload:
    """Decoded, so that no text is another's."""
    made = Workload(
        uid=name,
        name=name,
        namespace="team",
        addresses=(Ip("10.0.0.1"),),
        node="node-a",
        service_account="account",
        canonical_name="app",
        services={"team/app": (ServicePort(Port(80), 8080),)},
        policies=("team/policy",),
        zone="zone",
    )
    changed = msgspec.structs.replace(made, **fields)
    return msgspec.msgpack.decode(msgspec.msgpack.encode(changed), type=Workload)


def test_what_two_have_in_common_is_one_object() -> None:
    one, other = share(workload("one")), share(workload("other"))
    for field in ("namespace", "node", "service_account", "canonical_name", "zone", "services", "policies"):
        assert getattr(one, field) is getattr(other, field), field


def test_it_is_equal_to_what_it_was() -> None:
    changes: list[dict[str, object]] = [{}, {"workload_name": "one"}, {"services": {}, "policies": ()}]
    for changed in changes:
        assert share(workload("one", **changed)) == workload("one", **changed)


def test_a_pod_that_nobody_else_has_made_has_its_name_once() -> None:
    alone = share(workload("one", workload_name="one", canonical_name="one"))
    assert alone.workload_name is alone.name
    assert alone.canonical_name is alone.name


def anew(text: str) -> str:
    """As a decoder makes it."""
    return text.encode().decode()


def test_texts_are_remembered_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    forget()
    monkeypatch.setattr(sharing, "_MOST_TEXTS", 2)
    first = share_text(anew("first"))
    assert share_text(anew("first")) is first
    assert [share_text(anew(text)) for text in ("second", "third")] == ["second", "third"]
    assert share_text(anew("first")) is not first


def test_nothing_is_interned() -> None:
    """The interpreter's table of texts grows with all that was ever in it."""
    shared = share(workload("one", canonical_name="name of nobody else")).canonical_name
    assert sys.intern(anew("name of nobody else")) is not shared


def test_another_order_of_services_is_another_mapping() -> None:
    """Equal to dict, and told to workers and saved in the order in which it came."""
    ports = (ServicePort(Port(80), 8080),)
    forth, back = (share(workload("one", services=dict.fromkeys(keys, ports))) for keys in ("ab", "ba"))
    assert (list(forth.services), list(back.services)) == (["a", "b"], ["b", "a"])


def test_what_was_shared_stays_so_when_what_is_remembered_goes() -> None:
    one, other = share(workload("one")), share(workload("other"))
    forget()
    assert one.services is other.services
    later, last = share(workload("later")), share(workload("last"))
    assert later.services is last.services
    assert later == workload("later")
