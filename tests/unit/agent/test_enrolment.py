# SPDX-License-Identifier: Apache-2.0
"""Who is enrolled, why the others are not, and what a pods file may look like."""

from pathlib import Path

import pytest

from nodeagent.agent.enrolment import Claim, LocalPods, NotEnrolled, decide_enrolment, read_pods
from nodeagent.errors import ConfigError
from nodeagent.model.address import Ip
from nodeagent.model.identity import Identity
from nodeagent.model.mesh import Changes, Mesh
from nodeagent.model.pod import CaptureReason, LocalPod
from nodeagent.model.workload import TunnelProtocol, Workload

WEB = LocalPod("shop", "web", "/run/netns/web")
HERE = frozenset({Ip("10.0.0.1"), Ip("fd00::1")})
ENROLLED = Workload(
    uid="web",
    name="web",
    namespace="shop",
    node="node-a",
    service_account="web",
    addresses=(Ip("10.0.0.1"), Ip("fd00::1")),
    protocol=TunnelProtocol.HBONE,
)


def mesh(*workloads: Workload) -> Mesh:
    made = Mesh()
    made.apply(Changes(workloads=workloads))
    return made


def varied(**changes: object) -> Workload:
    fields = {field: getattr(ENROLLED, field) for field in ENROLLED.__struct_fields__}
    return Workload(**{**fields, **changes})


@pytest.mark.parametrize(
    ("workload", "pods", "reason"),
    [
        pytest.param(ENROLLED, [WEB], "", id="enrolled"),
        pytest.param(ENROLLED, [WEB, WEB], "", id="listed twice alike"),
        pytest.param(None, [WEB], "UNKNOWN_WORKLOAD", id="the mesh does not know it"),
        pytest.param(varied(node="node-b"), [WEB], "UNKNOWN_WORKLOAD", id="it belongs to another node"),
        pytest.param(varied(namespace="else"), [WEB], "UNKNOWN_WORKLOAD", id="a namesake elsewhere"),
        pytest.param(varied(protocol=TunnelProtocol.TCP), [WEB], "NOT_IN_MESH", id="no HBONE"),
        pytest.param(varied(is_host_network=True), [WEB], "HOST_NETWORK", id="in the node's namespace"),
        pytest.param(varied(addresses=()), [WEB], "NO_ADDRESS", id="without address"),
        pytest.param(ENROLLED, [], "NO_NETNS", id="nobody names its namespace"),
        pytest.param(varied(protocol=TunnelProtocol.TCP), [], None, id="neither listed nor in the mesh"),
        pytest.param(varied(is_host_network=True), [], None, id="in the node's namespace, not listed"),
    ],
)
def test_each_pod_is_enrolled_or_has_a_reason(workload: Workload | None, pods: list[LocalPod], reason: str) -> None:
    decided = decide_enrolment(mesh(*([workload] if workload else [])), "node-a", LocalPods(tuple(pods)))

    assert [pod.pod for pod in decided.enrolled] == ([WEB] if reason == "" else [])
    names = (workload.namespace, workload.name) if workload and not pods else ("shop", "web")
    assert NotEnrolled(*names, reason) in decided.others or not reason
    assert bool(reason) == bool(decided.others)


def test_addresses_and_identities_are_those_of_the_enrolled() -> None:
    api = varied(uid="api", name="api", addresses=(Ip("10.0.0.2"),), service_account="api")
    decided = decide_enrolment(mesh(ENROLLED, api), "node-a", LocalPods((WEB,)))

    assert decided.addresses == {"10.0.0.1", "fd00::1"}
    assert decided.identities == {Identity("cluster.local", "shop", "web")}
    assert decided.others == (NotEnrolled("shop", "api", "NO_NETNS"),)


def claimed(*ips: str, is_wanted: bool = True) -> dict[LocalPod, Claim]:
    return {WEB: Claim(frozenset(map(Ip, ips)), is_wanted)}


BOTH = ("10.0.0.1", "fd00::1")
PLAIN = varied(protocol=TunnelProtocol.TCP)


@pytest.mark.parametrize(
    ("workload", "claims", "reason"),
    [
        pytest.param(PLAIN, claimed(*BOTH), "", id="istiod says HBONE only when it is annotated as captured"),
        pytest.param(PLAIN, claimed(*BOTH, is_wanted=False), "NOT_IN_MESH", id="opted out, and the mesh has heard"),
        pytest.param(ENROLLED, claimed(*BOTH, is_wanted=False), "", id="opted out, and the mesh has not heard yet"),
        pytest.param(ENROLLED, claimed(*BOTH, "10.0.0.9"), "", id="more addresses than the mesh knows"),
        pytest.param(ENROLLED, claimed("10.0.0.1"), "ADDRESS_DIFFERS", id="the mesh has one that it has not"),
        pytest.param(ENROLLED, claimed("10.0.0.2"), "ADDRESS_DIFFERS", id="the mesh speaks of its former namesake"),
        pytest.param(None, claimed(*BOTH), "UNKNOWN_WORKLOAD", id="the mesh does not know it yet"),
    ],
)
def test_what_kubernetes_says_decides(workload: Workload | None, claims: dict[LocalPod, Claim], reason: str) -> None:
    decided = decide_enrolment(mesh(*([workload] if workload else [])), "node-a", LocalPods((WEB,), claims))
    assert [other.reason for other in decided.others] == ([reason] if reason else [])
    assert len(decided.enrolled) == (not reason)


def test_who_is_left_out_has_the_reason_that_was_given() -> None:
    local = LocalPods(left_out={("shop", "web"): "OPTED_OUT", ("else", "x"): "NOT_LABELLED"})
    assert decide_enrolment(mesh(ENROLLED), "node-a", local).others == (
        NotEnrolled("else", "x", "NOT_LABELLED"),
        NotEnrolled("shop", "web", "OPTED_OUT"),
    )


GOOD = "- {namespace: shop, name: web, netns: /run/netns/web}\n"


@pytest.mark.parametrize(("text", "pods"), [(GOOD, (WEB,)), (GOOD * 2, (WEB, WEB)), ("[]\n", ())])
def test_a_pods_file_is_read(tmp_path: Path, text: str, pods: tuple[LocalPod, ...]) -> None:
    path = tmp_path / "pods.yaml"
    path.write_text(text)
    assert read_pods(str(path)) == pods


def test_without_a_file_there_are_no_pods() -> None:
    assert read_pods("") == ()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(b"", "null", id="empty, as one that is being written"),
        pytest.param(b"{}", "object", id="a mapping"),
        pytest.param(b"- web", "str", id="no entry"),
        pytest.param(b"- {namespace: shop, name: web}", "netns", id="a field is missing"),
        pytest.param(b"- {namespace: shop, name: 7, netns: x}", "int", id="a number for a name"),
        pytest.param(b"- {namespace: shop", "expected", id="cut in the middle"),
        pytest.param(b"- 2024-99-99", "month", id="what YAML takes for a date"),
        pytest.param(b"\xff\xfe\xff", "codec", id="no UTF-8"),
        pytest.param(b"[" * 5000, "", id="deeper than can be read"),
        pytest.param((GOOD + GOOD.replace("netns/web", "netns/other")).encode(), "shop/web", id="two namespaces"),
    ],
)
def test_a_broken_pods_file_is_an_operators_mistake(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "pods.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="--pods-file") as caught:
        read_pods(str(path))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.check


@pytest.mark.parametrize("path", ["/nowhere/pods.yaml", "/"])
def test_a_file_that_cannot_be_read_is_named(path: str) -> None:
    with pytest.raises(ConfigError, match=path):
        read_pods(path)


@pytest.mark.parametrize("reason", CaptureReason)
def test_every_reason_says_what_to_look_at(reason: CaptureReason) -> None:
    assert reason.value == reason.name
    assert reason.check.endswith((".", "?"))


@pytest.mark.parametrize(
    ("workload", "claim", "fate"),
    [
        pytest.param(None, Claim(HERE, is_wanted=True, is_held=True), "held", id="the mesh has not heard of it"),
        pytest.param(None, Claim(HERE, is_wanted=True), "open", id="one that was not asked about"),
        pytest.param(
            varied(addresses=(Ip("10.0.0.9"),)),
            Claim(HERE, is_wanted=True, is_held=True),
            "held",
            id="the mesh tells of its former sandbox",
        ),
        pytest.param(varied(addresses=()), Claim(HERE, is_wanted=True, is_held=True), "held", id="no address yet"),
        pytest.param(
            varied(protocol=TunnelProtocol.TCP), Claim(HERE, is_wanted=False, is_held=True), "open", id="it has left"
        ),
        pytest.param(ENROLLED, Claim(HERE, is_wanted=True, is_held=True), "enrolled", id="enrolled as any other"),
    ],
)
def test_one_that_was_captured_before_it_started_is_held_until_the_mesh_knows_it(
    workload: Workload | None, claim: Claim, fate: str
) -> None:
    known = mesh(*([workload] if workload else []))
    decided = decide_enrolment(known, "node-a", LocalPods((WEB,), {WEB: claim}))

    assert decided.held == ({WEB: (Ip("10.0.0.1"), Ip("fd00::1"))} if fate == "held" else {})
    assert (WEB in decided.captured) is (fate != "open")
    assert bool(decided.enrolled) is (fate == "enrolled")
