# SPDX-License-Identifier: Apache-2.0
"""Ours in a list of plugins: once, behind the others, and gone without a trace."""

import json

import pytest

from nodeagent.kubernetes.conflist import VERSIONS, BadConflist, in_force, make_entry, with_plugin, without_plugin

ENTRY = make_entry("/run/nodeagent/admin.sock", {"kube-system", "istio-system"})
OTHERS = [{"type": "bridge", "ipam": {"mtu": 9000}}, {"type": "portmap", "capabilities": {"portMappings": True}}]


def conflist(*plugins: object) -> bytes:
    return json.dumps({"cniVersion": "1.0.0", "name": "Übungsnetz", "plugins": plugins, "unknown": None}).encode()


def test_it_is_added_behind_the_others_and_nothing_else_changes() -> None:
    added = with_plugin(conflist(*OTHERS), ENTRY)
    assert json.loads(added) == json.loads(conflist(*OTHERS, ENTRY))
    assert ENTRY == {
        "type": "nodeagent-cni",
        "socket": "/run/nodeagent/admin.sock",
        "excludeNamespaces": ["istio-system", "kube-system"],
    }


def test_what_is_so_already_stays_byte_by_byte() -> None:
    added = with_plugin(conflist(*OTHERS), ENTRY)
    assert with_plugin(added, ENTRY) is added
    plain = conflist(*OTHERS)
    assert without_plugin(plain) is plain


def test_who_comes_behind_it_stays_there() -> None:
    text = conflist(*OTHERS, ENTRY, {"type": "another"})
    assert with_plugin(text, ENTRY) is text


@pytest.mark.parametrize("former", [{"type": "nodeagent-cni"}, {**ENTRY, "socket": "/elsewhere"}])
def test_a_former_one_is_replaced(former: object) -> None:
    found = json.loads(with_plugin(conflist(former, *OTHERS, former), ENTRY))
    assert found["plugins"] == [*OTHERS, ENTRY]


def test_it_goes_without_a_trace() -> None:
    text = conflist(*OTHERS)
    assert json.loads(without_plugin(with_plugin(text, ENTRY))) == json.loads(text)


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"\xff", b"[]", b"7", b'{"type": "bridge"}', b'{"plugins": {}}', b"[" * 100_000],
)
def test_what_is_no_list_is_refused(text: bytes) -> None:
    with pytest.raises(BadConflist):
        with_plugin(text, ENTRY)
    with pytest.raises(BadConflist):
        without_plugin(text)


@pytest.mark.parametrize(
    "versions",
    [
        {},
        {"cniVersion": "0.2.0"},
        {"cniVersion": "1.2.0"},
        {"cniVersion": None},
        {"cniVersion": 1},
        {"cniVersion": "1.0.0", "cniVersions": ["1.0.0", "1.2.0"]},
        {"cniVersion": "1.0.0", "cniVersions": "1.2.0"},
        {"cniVersion": "1.0.0", "cniVersions": [{}]},
    ],
)
def test_a_version_that_the_plugin_does_not_speak_is_refused(versions: dict[str, object]) -> None:
    with pytest.raises(BadConflist, match="CNI version"):
        with_plugin(json.dumps({**versions, "plugins": OTHERS}).encode(), ENTRY)
    left = json.dumps({**versions, "plugins": [*OTHERS, ENTRY]}).encode()
    with pytest.raises(BadConflist, match="CNI version"):
        with_plugin(left, ENTRY)
    assert json.loads(without_plugin(left)) == {**versions, "plugins": OTHERS}, "it can be taken out"


@pytest.mark.parametrize("version", VERSIONS)
def test_each_of_its_versions_is_taken(version: str) -> None:
    text = json.dumps({"cniVersion": version, "cniVersions": list(VERSIONS), "plugins": OTHERS}).encode()
    assert json.loads(with_plugin(text, ENTRY))["plugins"] == [*OTHERS, ENTRY]


def test_half_a_surrogate_pair_stays_as_it_is() -> None:
    text = b'{"cniVersion": "1.0.0", "plugins": [{"type": "a", "s": "\\ud800"}]}'
    assert without_plugin(text) is text
    assert b'"\\ud800"' in with_plugin(text, ENTRY)


def test_a_depth_that_json_cannot_write_is_refused() -> None:
    text = b'{"cniVersion": "1.0.0", "plugins": [{"type": "a"}], "x": %s%s}' % (b"[" * 1_000_000, b"]" * 1_000_000)
    with pytest.raises(BadConflist):
        with_plugin(text, ENTRY)


@pytest.mark.parametrize("number", [b"1e999", b"-1e999", b"NaN", b"Infinity"])
def test_a_number_that_json_cannot_write_is_refused(number: bytes) -> None:
    text = b'{"cniVersion": "1.0.0", "plugins": [{"type": "a", "n": %s}%s]}'
    with pytest.raises(BadConflist, match="cannot be written"):
        with_plugin(text % (number, b""), ENTRY)
    with pytest.raises(BadConflist, match="cannot be written"):
        without_plugin(text % (number, b', {"type": "nodeagent-cni"}'))


@pytest.mark.parametrize("plugins", [(), (ENTRY,)])
def test_it_is_never_alone(plugins: tuple[object, ...]) -> None:
    text = json.dumps({"cniVersion": "1.0.0", "plugins": plugins}).encode()
    if plugins:
        assert with_plugin(text, ENTRY) is text  # as somebody else has left it: the runtime tells
    else:
        with pytest.raises(BadConflist, match="without plugins"):
            with_plugin(text, ENTRY)


@pytest.mark.parametrize(
    ("names", "first"),
    [
        ([], None),
        (["README", ".nodeagent-cni-x"], None),
        (["10-a.conflist", ".10-a.conflist"], ".10-a.conflist"),
        (["20-b.conflist", "10-a.conf", "05-x.bak"], "10-a.conf"),
        (["b.json", "c.conflist"], "b.json"),
    ],
)
def test_the_first_by_name_is_in_force(names: list[str], first: str | None) -> None:
    assert in_force(names) == first
