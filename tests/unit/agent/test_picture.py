# SPDX-License-Identifier: Apache-2.0
"""What is told outside is what the parts know at that moment; a part that is broken does not break the picture."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nodeagent.admin.state import MODES, Captured, Health, LogView
from nodeagent.agent.enrolment import EnrolledPod, Enrolment, NotEnrolled
from nodeagent.agent.picture import Picture, capture_mode, kernel_component, kubernetes_component, xds_component
from nodeagent.agent.state import NodeState
from nodeagent.config import Config
from nodeagent.errors import KernelError
from nodeagent.kernel.cgroup import PodsCgroup
from nodeagent.kernel.codings import NO_NUMBER
from nodeagent.kernel.flow_table import Losses
from nodeagent.kernel.passage import PASSAGES
from nodeagent.kernel.pod_states import PodState
from nodeagent.model.address import Ip
from nodeagent.model.mesh import Changes
from nodeagent.model.pod import LocalPod
from nodeagent.model.record import PolicyHits
from nodeagent.model.resolved_name import ResolvedName
from nodeagent.model.security import Revocations
from nodeagent.model.workload import TunnelProtocol, Workload
from nodeagent.routing.route import Target
from nodeagent.telemetry.open_connections import KERNEL, NoSpans
from nodeagent.telemetry.totals import Totals
from nodeagent.xds.client import XdsStatus

STARTED = 100.0
ADDRESS = "https://cp:15012"
WEB = Workload(
    uid="web", name="web", namespace="shop", addresses=(Ip("10.0.0.1"),), protocol=TunnelProtocol.HBONE
)  # fmt: skip


class FakeKernel:
    is_broken = False

    def __init__(self) -> None:
        self.states = [PodState("shop", "web", "veth1", 7)]
        self.full: dict[str, int] = {}
        self.pods_cgroup = PodsCgroup(Path("/sys/fs/cgroup/kubepods"))

    def pods(self) -> list[PodState]:
        self._break()
        return self.states

    def counters(self) -> dict[str, int]:
        self._break()
        return {"STEERED": 3, "NOT_TCP": 0}

    def overflow(self) -> dict[str, int]:
        return self.full

    def _break(self) -> None:
        if self.is_broken:
            raise KernelError("the pins are gone")


class FakeHistory:
    policy_hits: Mapping[str, PolicyHits] = {}

    def __len__(self) -> int:
        return 1


@pytest.fixture
def kernel() -> FakeKernel:
    return FakeKernel()


@pytest.fixture
def parts(kernel: FakeKernel) -> SimpleNamespace:
    worker = SimpleNamespace(
        pid=70, is_ready=True, started=5.0, generation=9, has_kernel_tls=False, is_compiled=True, log_levels="debug"
    )
    return SimpleNamespace(
        config=Config(node="node-a"),
        state=NodeState(),
        steering=kernel,
        fleet=SimpleNamespace(
            is_ready=True, slots=2, workers={0: worker}, restarts=Counter({0: 4, 1: 1}), reports_lost=6, silent={}
        ),
        capture=SimpleNamespace(
            enrolment=Enrolment((EnrolledPod(LocalPod("shop", "web", "/run/netns/web"), WEB),)),
            is_settled=True,
            kernel_error="",
            pods_error="",
            unsteered=0,
        ),
        verdicts=SimpleNamespace(generation=3, judged=2, rows=8, since=50.0),
        passages=SimpleNamespace(lost=()),
        flows=SimpleNamespace(error="", losses=lambda: Losses(3, 0), disowned=1),
        services=SimpleNamespace(is_on=False, drawn=frozenset(), fault="", refused=0, cookies={}),
        xds=SimpleNamespace(is_ready=True, status=XdsStatus("https://istiod", connected_since=5.0)),
        keeper=SimpleNamespace(status=lambda: (), failures=0),
        revocations=SimpleNamespace(fault=lambda _now: ""),
        names=SimpleNamespace(book=SimpleNamespace(names=0, failing=[]), lookups=9, failures=1, file_error=""),
        open_connections=SimpleNamespace(
            count=lambda pid: {70: 12, KERNEL: 5}[pid],
            history=FakeHistory(),
            spans=NoSpans(),
            direct=lambda namespace, pod: {("shop", "web"): 9}.get((namespace, pod), 0),
        ),
        totals=Totals(),
        log_levels=SimpleNamespace(current="debug", until=90.0),
        lines=None,
        bugs=lambda: 0,
    )


def picture(parts: SimpleNamespace) -> Picture:
    return Picture(**vars(parts), started=1.0)


@pytest.mark.parametrize(("level", "until"), [("debug", 90.0), ("", 0.0)])
def test_log_levels(parts: SimpleNamespace, level: str, until: float) -> None:
    """Of an adopted worker that was told nothing neither is known."""
    parts.fleet.workers[0].log_levels = level
    assert picture(parts).agent_state().logs == (LogView("agent", "debug", 90.0), LogView("worker 0", level, until))


def test_a_pod_is_captured_when_the_kernel_has_it(parts: SimpleNamespace, kernel: FakeKernel) -> None:
    (pod,) = picture(parts).agent_state().pods
    assert (pod.captured, pod.device, pod.direct) == (Captured.YES, "veth1 (7)", 9)

    kernel.states = [PodState("shop", "web", reason="NO_NETNS", words="gone")]
    (pod,) = picture(parts).agent_state().pods
    assert pod.mode == ""
    assert (pod.captured, pod.reason) == (Captured.PENDING, "NO_NETNS")

    kernel.states = []
    (pod,) = picture(parts).agent_state().pods
    assert (pod.captured, pod.reason) == (Captured.PENDING, "PENDING")


@pytest.mark.parametrize(
    ("same_node", "number", "mode"), [("kernel", 3, "kernel"), ("kernel", NO_NUMBER, "proxy"), ("tunnel", 3, "tunnel")]
)
def test_who_carries_what_a_pod_has_with_others(same_node: str, number: int, mode: str) -> None:
    assert mode in MODES
    assert capture_mode(same_node, number) == mode


@pytest.mark.parametrize(
    ("reason", "captured"),
    [
        ("NOT_IN_MESH", Captured.NO),
        ("HOST_NETWORK", Captured.NO),
        ("UNKNOWN_WORKLOAD", Captured.PENDING),
        ("NO_NETNS", Captured.PENDING),
    ],
)
def test_a_pod_that_is_not_enrolled_is_left_alone_or_expected(
    parts: SimpleNamespace, reason: str, captured: Captured
) -> None:
    parts.capture.enrolment = Enrolment((), (NotEnrolled("shop", "web", reason),))
    (pod,) = picture(parts).agent_state().pods
    assert (pod.captured, pod.reason) == (captured, reason)


def test_a_worker_that_owes_an_answer_keeps_the_agent_from_being_ready(parts: SimpleNamespace) -> None:
    before = picture(parts).obstacles()
    parts.fleet.silent = {0: 7.4}
    assert [found for found in picture(parts).obstacles() if found not in before] == [
        "worker 0 has not answered for 7 s: it is stopped or overloaded"
    ]
    assert [worker.state for worker in picture(parts).agent_state().workers] == ["silent", "gone"]


def test_a_kernel_that_cannot_be_read_leaves_the_rest(parts: SimpleNamespace, kernel: FakeKernel) -> None:
    kernel.is_broken = True
    parts.capture.kernel_error = "the pins are gone"
    state = picture(parts).agent_state()
    assert state.kernel == ()
    assert [pod.captured for pod in state.pods] == [Captured.PENDING]
    assert next(part.state for part in state.components if part.name == "kernel") is Health.FAILED
    assert picture(parts).readings().kernel_packets == {}


def test_every_slot_is_told_with_or_without_a_worker(parts: SimpleNamespace) -> None:
    first, second = picture(parts).agent_state().workers
    assert (first.pid, first.state, first.restarts, first.connections, first.generation) == (70, "ready", 4, 12, 9)
    assert (second.slot, second.state) == (1, "gone")


@pytest.mark.parametrize(
    ("part", "change", "words"),
    [
        ("fleet", {"is_ready": False}, "worker"),
        ("xds", {"is_ready": False}, "no saved state"),
        ("capture", {"is_settled": False, "kernel_error": "E2BIG"}, "E2BIG"),
    ],
)
def test_what_is_missing_is_told_to_the_readiness_probe(
    parts: SimpleNamespace, part: str, change: dict[str, Any], words: str
) -> None:
    parts.state.certificates = {WEB.identity: object()}
    assert picture(parts).obstacles() == []
    vars(getattr(parts, part)).update(change)
    (told,) = picture(parts).obstacles()
    assert words in told


def test_an_identity_without_certificate_is_an_obstacle(parts: SimpleNamespace) -> None:
    (told,) = picture(parts).obstacles()
    assert str(WEB.identity) in told


def test_only_counters_that_moved_are_shown_and_all_are_scraped(parts: SimpleNamespace) -> None:
    assert [row.reason for row in picture(parts).agent_state().kernel] == ["STEERED"]
    readings = picture(parts).readings()
    assert readings.kernel_packets == {"STEERED": 3, "NOT_TCP": 0}
    assert (readings.flow_events_late, readings.flows_lost, readings.flows_disowned) == (3, 0, 1)
    assert (readings.reports_lost, readings.pods_captured, readings.pods_pending) == (6, 1, 0)


@pytest.mark.parametrize(
    ("error", "cgroup", "lost", "state", "detail"),
    [
        ("", PodsCgroup(Path("/c")), 0, Health.OK, "seen in /c, 5 connections"),
        ("", PodsCgroup(None, "no kubelet"), 0, Health.DEGRADED, "no kubelet"),
        ("netlink says no", PodsCgroup(Path("/c")), 0, Health.DEGRADED, "netlink says no"),
        ("", PodsCgroup(Path("/c")), 2, Health.OK, "; 2 left no record, the kernel's table was full"),
    ],
)
def test_whether_connections_in_the_kernel_are_seen(
    parts: SimpleNamespace, error: str, cgroup: PodsCgroup, lost: int, state: Health, detail: str
) -> None:
    parts.steering.pods_cgroup = cgroup
    vars(parts.flows).update(error=error, losses=lambda: Losses(0, lost))
    (told,) = [part for part in picture(parts).agent_state().components if part.name == "flows"]
    assert told.state is state
    assert detail in told.detail


@pytest.mark.parametrize(
    ("error", "is_settled", "state", "detail"),
    [
        ("", True, Health.OK, "programs and maps as wanted"),
        ("", False, Health.DEGRADED, "programs and maps are not as wanted yet"),
        ("no bpffs", True, Health.FAILED, "no bpffs"),
        ("no bpffs", False, Health.FAILED, "no bpffs"),
    ],
)
def test_kernel(error: str, *, is_settled: bool, state: Health, detail: str) -> None:
    component = kernel_component(error, is_settled=is_settled, started=STARTED)
    assert (component.name, component.state, component.since, component.detail) == ("kernel", state, STARTED, detail)


def test_a_full_map_and_a_broken_passage_are_told_by_name(parts: SimpleNamespace, kernel: FakeKernel) -> None:
    assert all(component.state is Health.OK for component in picture(parts).agent_state().components)
    kernel.full = {"known": 2, "verdicts": 5}
    parts.passages.lost = PASSAGES[:1]
    told = {component.name: component for component in picture(parts).agent_state().components}
    assert told["kernel"].state is Health.DEGRADED
    assert told["kernel"].detail.startswith("known is full, 2 rows do not fit, verdicts is full, 5 rows do not fit;")
    assert told["INTO_PROXY_LOST"].state is Health.DEGRADED


@pytest.mark.parametrize(
    ("setting", "generation", "detail"),
    [
        ("kernel", 3, "verdicts of generation 3 for 2 pods, 8 rows"),
        ("kernel", 0, "the table of verdicts is not made yet"),
        ("tunnel", 3, "every connection is tunnelled"),
    ],
)
def test_same_node(parts: SimpleNamespace, setting: str, generation: int, detail: str) -> None:
    parts.config = Config(node="node-a", same_node=setting)
    parts.verdicts.generation = generation
    told = {component.name: component.detail for component in picture(parts).agent_state().components}
    assert told["same-node"] == detail


@pytest.mark.parametrize(
    ("services", "state", "detail"),
    [
        ({"cookies": None}, Health.OK, "the kernel has not been told yet; what a predecessor has set there holds"),
        ({"is_on": False}, Health.OK, "off: the proxy draws the endpoints of Services"),
        ({}, Health.OK, "1 Service addresses are drawn in connect(2)"),
        (
            {"refused": 2},
            Health.DEGRADED,
            "1 Service addresses are drawn in connect(2); 2 rows did not fit, there the proxy draws",
        ),
        ({"fault": "no cgroup"}, Health.DEGRADED, "the proxy draws the endpoints of Services: no cgroup"),
    ],
)
def test_services(parts: SimpleNamespace, services: dict[str, object], state: Health, detail: str) -> None:
    target = Target(Ip("10.96.0.1"), 80)
    parts.services = SimpleNamespace(
        **{"is_on": True, "drawn": {target}, "fault": "", "refused": 0, "cookies": {}, **services}
    )
    told = picture(parts).agent_state()
    (found,) = [component for component in told.components if component.name == "services"]
    assert (found.state, found.detail) == (state, detail)
    assert told.drawn == {target}


@pytest.mark.parametrize(
    ("setting", "workers", "totals", "state", "detail"),
    [
        ("off", [(False, "")], {}, Health.OK, "off: the workers make the records of tunnels"),
        (
            "off",
            [(True, "AES"), (False, "")],
            {},
            Health.OK,
            "off: the workers make the records of tunnels, but for 1 workers of an agent that had said otherwise",
        ),
        ("auto", [], {}, Health.OK, "not known yet"),
        ("auto", [(False, "")], {}, Health.OK, "not known yet"),
        (
            "auto",
            [(True, "AES with new keys")] * 2,
            {"kernel_tls_tunnels": 3, "kernel_tls_declined": 1, "kernel_tls_failed": 0},
            Health.OK,
            "AES with new keys, 3 tunnels so far, 1 stayed in the workers, since their keys may change",
        ),
        (
            "auto",
            [(True, "AES with new keys"), (False, "does not work: no such file")],
            {},
            Health.DEGRADED,
            "the workers make the records of tunnels, the kernel's TLS does not work: no such file",
        ),
    ],
)
def test_kernel_tls(
    parts: SimpleNamespace,
    setting: str,
    workers: list[tuple[bool, str]],
    totals: dict[str, int],
    state: Health,
    detail: str,
) -> None:
    parts.config = Config(node="node-a", kernel_tls=setting)
    template = parts.fleet.workers[0]
    parts.fleet.workers = {
        slot: SimpleNamespace(**{**vars(template), "has_kernel_tls": has, "kernel_tls_found": found})
        for slot, (has, found) in enumerate(workers)
    }
    parts.totals.reported(70, totals)
    (told,) = [one for one in picture(parts).agent_state().components if one.name == "kernel-tls"]
    assert (told.state, told.detail) == (state, detail)


@pytest.mark.parametrize(
    ("setting", "workers", "state", "detail"),
    [
        ("auto", [True, True], Health.OK, "compiled code carries payload"),
        (
            "auto",
            [True, False],
            Health.DEGRADED,
            "1 of 2 workers carry payload in Python: built without a C compiler, or told to",
        ),
        ("off", [False], Health.OK, "off: Python carries payload"),
        (
            "off",
            [False, True],
            Health.OK,
            "off: Python carries payload, but for 1 workers of an agent that had said otherwise",
        ),
    ],
)
def test_compiled(parts: SimpleNamespace, setting: str, workers: list[bool], state: Health, detail: str) -> None:
    parts.config = Config(node="node-a", compiled=setting)
    template = parts.fleet.workers[0]
    parts.fleet.workers = {
        slot: SimpleNamespace(**{**vars(template), "is_compiled": has}) for slot, has in enumerate(workers)
    }
    (told,) = [one for one in picture(parts).agent_state().components if one.name == "compiled"]
    assert (told.state, told.detail) == (state, detail)


def test_services_are_off_while_everything_is_tunnelled(parts: SimpleNamespace) -> None:
    parts.config = Config(node="node-a", same_node="tunnel", service_connect="on")
    told = {component.name: component.detail for component in picture(parts).agent_state().components}
    assert told["services"].endswith(": same_node is tunnel")


@pytest.mark.parametrize(
    ("status", "state", "since", "detail"),
    [
        (
            XdsStatus(ADDRESS, connected_since=200.0, is_ready=True, last_change=300.0),
            Health.OK,
            200.0,
            f"following {ADDRESS}",
        ),
        (
            XdsStatus(ADDRESS, is_ready=True, last_change=300.0, last_error="UNAVAILABLE"),
            Health.DEGRADED,
            300.0,
            "UNAVAILABLE; the last good state stays in force",
        ),
        (
            XdsStatus(ADDRESS, last_error="UNAUTHENTICATED"),
            Health.DEGRADED,
            STARTED,
            "UNAUTHENTICATED; the mesh is not known yet",
        ),
        (
            XdsStatus(ADDRESS),
            Health.DEGRADED,
            STARTED,
            f"connecting to {ADDRESS}; the mesh is not known yet",
        ),
    ],
    ids=["following", "lost", "never heard", "first attempt"],
)
def test_xds(status: XdsStatus, state: Health, since: float, detail: str) -> None:
    component = xds_component(status, STARTED)
    assert (component.name, component.state, component.since, component.detail) == ("xds", state, since, detail)


def test_revocations_are_told_where_somebody_has_a_list(parts: SimpleNamespace) -> None:
    assert "revocations" not in {one.name for one in picture(parts).agent_state().components}
    parts.state.apply(Changes(extensions=(Revocations(source="ca", certificates=frozenset({b"x" * 32})),)))
    (told,) = [one for one in picture(parts).agent_state().components if one.name == "revocations"]
    assert (told.state, told.detail) == (Health.OK, "1 certificate revoked")
    parts.revocations.fault = lambda _now: "ca-crl.pem is gone"
    (told,) = [one for one in picture(parts).agent_state().components if one.name == "revocations"]
    assert (told.state, told.detail) == (Health.DEGRADED, "1 certificate revoked: ca-crl.pem is gone")


def test_names_are_told_where_there_are_some(parts: SimpleNamespace) -> None:
    def component() -> list[tuple[Health, str]]:
        return [(one.state, one.detail) for one in picture(parts).agent_state().components if one.name == "dns"]

    assert component() == []
    parts.names.book.names = 5
    assert component() == [(Health.OK, "5 names of endpoints resolved")]
    parts.names.file_error = "names.json: no space left"
    assert component() == [(Health.DEGRADED, "5 names of endpoints resolved; not on disk: names.json: no space left")]
    parts.names.file_error = ""
    parts.names.book.failing = [ResolvedName(hostname=f"{number}.example", error="gone") for number in range(5)]
    ((state, words),) = component()
    assert state is Health.DEGRADED
    assert words == (
        "5 names of endpoints; 0.example: it cannot be resolved: gone; 1.example: it cannot be resolved: gone; "
        "2.example: it cannot be resolved: gone; and 2 more"
    )
    parts.capture.unsteered = 4
    assert "; 4 of their addresses and ports are too many to be steered; and 2 more" in component()[0][1]
    readings = picture(parts).readings()
    assert (readings.names, readings.names_failing, readings.dns_lookups, readings.dns_failures) == (5, 5, 9, 1)


@pytest.mark.parametrize(
    ("error", "health", "words"),
    [
        ("", Health.OK, "following it"),
        ("no answer in time", Health.DEGRADED, "no answer in time; what is known stays in force"),
    ],
)
def test_the_kubernetes_api(error: str, health: Health, words: str) -> None:
    pods: Any = SimpleNamespace(error=error, since=STARTED, described=lambda: "following it")
    component = kubernetes_component(pods)
    assert (component.name, component.state, component.detail) == ("kubernetes", health, words)
