# SPDX-License-Identifier: Apache-2.0
"""What is read of the API's JSON, and what of it is nothing."""

import json
from typing import Any

import pytest

from nodeagent.kubernetes.objects import BadAnswer, KubeObject, Status, read_event, read_object, read_page, read_status
from tests.kube_api import namespace, pod


def read(one: dict[str, Any]) -> KubeObject:
    return read_object(json.dumps(one).encode())


def test_a_pod() -> None:
    found = read(pod("web", uid="u", ips=("10.0.0.1", "fd00::1"), labels={"app": "web"}, is_host_network=True))
    assert found.key == ("shop", "web")
    assert (found.metadata.uid, found.node, found.addresses) == ("u", "node-a", ("10.0.0.1", "fd00::1"))
    assert (found.labels, found.annotations) == ({"app": "web"}, {})
    assert found.is_host_network
    assert not found.is_terminal
    assert not found.is_terminating


@pytest.mark.parametrize(
    ("status", "addresses"),
    [
        ({}, ()),
        (None, ()),
        ({"podIP": "10.0.0.1"}, ("10.0.0.1",)),
        ({"podIP": "10.0.0.1", "podIPs": None}, ("10.0.0.1",)),
        ({"podIPs": [{"ip": "fd00:0::1"}, {"ip": "10.0.0.1"}]}, ("fd00::1", "10.0.0.1")),
        ({"podIPs": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.1"}, {}]}, ("10.0.0.1",)),
        ({"podIPs": [{"ip": "nonsense"}]}, ()),
    ],
)
def test_addresses(status: object, addresses: tuple[str, ...]) -> None:
    assert read({**pod("web"), "status": status}).addresses == addresses


def test_how_it_ends() -> None:
    assert read(pod("web", phase="Succeeded")).is_terminal
    assert read(pod("web", phase="Failed")).is_terminal
    assert read(pod("web", is_terminating=True)).is_terminating


def test_a_namespace_has_labels_and_no_node() -> None:
    found = read(namespace(mode="ambient"))
    assert (found.key, found.labels["istio.io/dataplane-mode"], found.node) == (("", "shop"), "ambient", "")


def test_nulls_are_absent() -> None:
    found = read({"metadata": {"name": "web", "labels": None, "annotations": None}, "spec": None, "status": None})
    assert (found.labels, found.annotations, found.node, found.addresses) == ({}, {}, "", ())


def test_a_page_without_items() -> None:
    page = read_page(b'{"kind":"PodList","metadata":{"resourceVersion":"7","continue":"next"},"items":null}')
    assert (page.metadata.resource_version, page.metadata.continue_, page.items) == ("7", "next", None)


def test_events() -> None:
    kind, about = read_event(json.dumps({"type": "ADDED", "object": pod("web")}).encode())
    assert kind == "ADDED"
    assert isinstance(about, KubeObject)
    kind, about = read_event(b'{"type":"ERROR","object":{"code":410,"reason":"Expired","message":"too old"}}')
    assert (kind, about) == ("ERROR", Status("too old", "Expired", 410))


@pytest.mark.parametrize("text", [b"", b"<html>", b"[]", b'{"type":"ADDED"', b'{"type":"ADDED","object":7}', b"\xff"])
def test_nonsense_is_the_servers(text: bytes) -> None:
    for reader in (read_event, read_object, read_page):
        with pytest.raises(BadAnswer, match="Kubernetes API sent") as caught:
            reader(text)
        assert caught.value.check
    assert read_status(text) == Status()
