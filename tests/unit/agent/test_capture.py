# SPDX-License-Identifier: Apache-2.0
"""The order in which kernel, workers and certificates learn of a change, and what is never undone."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, NoReturn, cast

import msgspec
import pytest

from nodeagent.agent import capture as module
from nodeagent.agent.capture import Capture, KernelTables
from nodeagent.agent.enrolment import Enrolment
from nodeagent.agent.fleet import WorkerFleet
from nodeagent.agent.service_connect import ServiceConnect
from nodeagent.agent.state import NodeState
from nodeagent.agent.verdicts import NodeVerdicts
from nodeagent.config import Config
from nodeagent.errors import KernelError
from nodeagent.kernel.steering import Steering
from nodeagent.kernel.wanted import Wanted
from nodeagent.model.address import Cidr, Ip, Port
from nodeagent.model.address_index import AddressIndex
from nodeagent.model.exclusion import Exclusion
from nodeagent.model.identity import Identity
from nodeagent.model.mesh import Changes
from nodeagent.model.resolved_name import ResolvedName
from nodeagent.model.traffic import ClientScope, ClientScopes, MeshTraffic
from nodeagent.model.workload import Service, ServicePort, TunnelProtocol, Vip, Workload
from nodeagent.proxy.messages import Apply, LocalPods, ToWorker

Eventually = Callable[[Callable[[], bool]], Awaitable[None]]

WEB, API = Identity("cluster.local", "shop", "web"), Identity("cluster.local", "shop", "api")


def workload(name: str, *ips: str) -> Workload:
    return Workload(
        uid=name,
        name=name,
        namespace="shop",
        node="node-a",
        service_account=name,
        addresses=tuple(map(Ip, ips)),
        protocol=TunnelProtocol.HBONE,
    )


class _Services:
    def __init__(self, node: "Node") -> None:
        self._node = node
        self.is_asking = True

    async def update(self, _enrolment: Enrolment, is_steered: Callable[[Ip], bool]) -> None:
        addresses = self._node.state.mesh.known_addresses("") if self.is_asking else ()
        self._node.steps.append(("services", sorted(filter(is_steered, addresses))))


class Node:
    """Everything around the capture writes what it is told into one list."""

    def __init__(self, directory: Path) -> None:
        self.pods_file = directory / "pods.yaml"
        self.pods(web="web-1")
        self.config = Config(node="node-a", pods_file=str(self.pods_file))
        self.state = NodeState(self.config.node, self.config.network)
        self.state.subscribe(self._told)
        self.is_mesh_known = True
        self.is_applied = True
        self.while_waiting: list[Changes] = []
        """Each comes while workers are waited for."""
        self.refuse = 0
        self.lacks_pods = False
        self.steps: list[Any] = []
        self.asked: list[AbstractSet[Ip] | None] = []
        self.known: list[AbstractSet[Ip]] = []
        """Of each reconcile that succeeded: addresses in question, and those of them that are the mesh's."""
        self.services = _Services(self)
        self.capture = Capture(
            self.config,
            cast("Steering", self),
            self.state,
            cast("WorkerFleet", self),
            KernelTables(cast("NodeVerdicts", self), cast("ServiceConnect", self.services)),
            lambda identities: self.steps.append(
                ("certificates", sorted(identity.service_account for identity in identities))
            ),
            lambda: self.is_mesh_known,
        )

    def pods(self, **netns: str) -> None:
        rows = [f"- {{namespace: shop, name: {name}, netns: /run/netns/{place}}}" for name, place in netns.items()]
        aside = self.pods_file.with_suffix(".partial")
        aside.write_text("\n".join(rows) or "[]")
        aside.replace(self.pods_file)

    def _told(self, message: ToWorker, _descriptors: tuple[int, ...]) -> None:
        if isinstance(message, LocalPods):
            self.steps.append(("workers", sorted(message.addresses)))

    # ---- the fleet

    async def started(self, _seconds: float) -> bool:
        return True

    def state_is_complete(self, wanted: frozenset[Identity]) -> None:
        self.steps.append(("complete", sorted(identity.service_account for identity in wanted)))

    async def applied(self, generation: int, _seconds: float) -> bool:
        assert generation == self.state.mesh.generation
        self.steps.append("applied")
        if self.while_waiting:
            self.change(self.while_waiting.pop())
        return self.is_applied

    # ---- verdicts

    async def succeed(self, enrolment: Enrolment) -> None:
        self.steps.append(("succeeded", [pod.pod.name for pod in enrolment.enrolled]))

    async def update(self, enrolment: Enrolment) -> None:
        self.steps.append(("verdicts", [pod.pod.name for pod in enrolment.enrolled]))

    # ---- steering

    def reconcile(self, wanted: Wanted) -> list[str]:
        if self.refuse:
            self.refuse -= 1
            raise KernelError("no filter today", check="Ask again.")
        self.asked.append(wanted.in_question)
        self.known.append(wanted.known)
        rows = {f"{pod.name}@{pod.netns.rpartition('/')[2]}": list(pod.addresses) for pod in wanted.pods}
        self.steps.append(("kernel", rows))
        return []

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.capture.watch_pods_file()), group.create_task(self.capture.run())]
            yield
            for task in tasks:
                task.cancel()

    async def settled(self, eventually: Eventually) -> list[Any]:
        """What happened up to the last step of a change."""
        await eventually(
            lambda: len(self.steps) > 2 and self.steps[-1][0] == "certificates" and self.steps[-2] != "applied"
        )
        taken, self.steps = self.steps, []
        return taken

    def change(self, changes: Changes) -> None:
        self.state.apply(changes)
        self.capture.look_again()


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    monkeypatch.setattr(module, "PODS_FILE_SECONDS", 0.01)
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.01)
    return Node(tmp_path)


def test_a_pod_that_comes_is_captured_when_the_workers_know_it(node: Node, eventually: Eventually) -> None:
    async def scenario() -> None:
        node.state.apply(Changes(workloads=(workload("web", "10.0.0.1"),)))
        async with node.running():
            assert await node.settled(eventually) == [
                ("certificates", ["web"]),
                ("succeeded", ["web"]),
                ("workers", ["10.0.0.1"]),
                ("complete", ["web"]),
                "applied",
                ("kernel", {"web@web-1": ["10.0.0.1"]}),
                ("verdicts", ["web"]),
                ("services", ["10.0.0.1"]),
                ("certificates", ["web"]),
            ]
            assert node.capture.is_settled

    asyncio.run(scenario())


def test_a_pod_that_goes_is_let_go_before_the_workers_forget_it_and_its_certificate(
    node: Node, eventually: Eventually
) -> None:
    async def scenario() -> None:
        node.pods(web="web-1", api="api-1")
        node.state.apply(Changes(workloads=(workload("web", "10.0.0.1"), workload("api", "10.0.0.2"))))
        async with node.running():
            await node.settled(eventually)
            node.change(Changes(removed_workloads=("api",)))
            assert await node.settled(eventually) == [
                ("certificates", ["api", "web"]),
                "applied",
                ("verdicts", ["web"]),
                ("services", ["10.0.0.1"]),
                ("kernel", {"web@web-1": ["10.0.0.1"]}),
                ("workers", ["10.0.0.1"]),
                ("complete", ["web"]),
                "applied",
                ("kernel", {"web@web-1": ["10.0.0.1"]}),
                ("verdicts", ["web"]),
                ("services", ["10.0.0.1"]),
                ("certificates", ["web"]),
            ]

    asyncio.run(scenario())


def test_what_a_change_forbids_ends_before_anything_else_happens(node: Node, eventually: Eventually) -> None:
    """But not before this agent knows the pods' numbers: its predecessor's table must not be emptied."""

    async def scenario() -> None:
        node.state.apply(Changes(workloads=(workload("web", "10.0.0.1"),)))
        async with node.running():
            first = [step[0] for step in await node.settled(eventually)]
            assert first.index("verdicts") > first.index("kernel")
            node.change(Changes(workloads=(workload("far", "10.1.0.1"),)))
            second = [step[0] for step in await node.settled(eventually)]
            assert second.index("verdicts") < second.index("services") < second.index("kernel")

    asyncio.run(scenario())


@pytest.mark.parametrize(("more", "waits"), [(0, 1), (2, 3), (9, 5)])
def test_the_workers_know_all_that_the_kernels_table_is_made_of(
    node: Node, eventually: Eventually, more: int, waits: int
) -> None:
    """What comes while they are waited for, as well; but a mesh that never rests keeps nothing from the kernel."""

    async def scenario() -> None:
        node.state.apply(Changes(workloads=(workload("web", "10.0.0.1"),)))
        async with node.running():
            await node.settled(eventually)
            node.while_waiting = [Changes(workloads=(workload(f"far{n}", f"10.1.0.{n + 1}"),)) for n in range(more)]
            node.change(Changes(workloads=(workload("far", "10.1.1.1"),)))
            steps = await node.settled(eventually)
            assert steps[: steps.index(("verdicts", ["web"]))].count("applied") == waits

    asyncio.run(scenario())


def test_an_endpoint_is_drawn_when_the_kernel_knows_its_address(node: Node, eventually: Eventually) -> None:
    """Before, a connection to it would not be the mesh's."""

    async def scenario() -> None:
        node.state.apply(Changes(workloads=(workload("web", "10.0.0.1"),)))
        async with node.running():
            await node.settled(eventually)
            node.change(Changes(workloads=(workload("far", "10.1.0.1"),)))
            steps = await node.settled(eventually)
            assert [step for step in steps if step[0] == "services"] == [
                ("services", ["10.0.0.1"]),
                ("services", ["10.0.0.1", "10.1.0.1"]),
            ]

    asyncio.run(scenario())


def test_one_pod_takes_the_address_of_another_in_one_change(node: Node, eventually: Eventually) -> None:
    async def scenario() -> None:
        node.pods(web="web-1", api="api-1")
        node.state.apply(Changes(workloads=(workload("web", "10.0.0.1"),)))
        async with node.running():
            await node.settled(eventually)
            node.change(Changes(workloads=(workload("api", "10.0.0.1"),), removed_workloads=("web",)))
            steps = await node.settled(eventually)
            kernel = [step[1] for step in steps if step[0] == "kernel"]
            assert kernel == [{}, {"api@api-1": ["10.0.0.1"]}]

    asyncio.run(scenario())


def test_a_pod_that_restarts_under_its_name_is_another_one(node: Node, eventually: Eventually) -> None:
    async def scenario() -> None:
        node.state.apply(Changes(workloads=(workload("web", "10.0.0.1"),)))
        async with node.running():
            await node.settled(eventually)
            node.state.apply(Changes(workloads=(workload("web", "10.0.0.9"),)))
            node.pods(web="web-2")
            steps = await node.settled(eventually)
            kernel = [step[1] for step in steps if step[0] == "kernel"]
            assert kernel == [{}, {"web@web-2": ["10.0.0.9"]}]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("before", "after", "between"),
    [
        pytest.param(["10.0.0.1"], ["10.0.0.1", "fd00::1"], None, id="it gets a second address"),
        pytest.param(["10.0.0.1", "fd00::1"], ["fd00::1", "10.0.0.1"], None, id="in another order"),
        pytest.param(["10.0.0.1", "fd00::1"], ["10.0.0.1"], ["10.0.0.1"], id="it loses one"),
        pytest.param(["10.0.0.1"], ["10.0.0.2"], [], id="another one: captured without any, so it is dropped"),
    ],
)
def test_a_pod_that_stays_is_captured_all_the_time(
    node: Node, eventually: Eventually, before: list[str], after: list[str], between: list[str] | None
) -> None:
    async def scenario() -> None:
        node.state.apply(Changes(workloads=(workload("web", *before),)))
        async with node.running():
            await node.settled(eventually)
            node.change(Changes(workloads=(workload("web", *after),)))
            steps = await node.settled(eventually)
            kernel = [step[1] for step in steps if step[0] == "kernel"]
            expected = [between, after] if between is not None else [after]
            assert kernel == [{"web@web-1": addresses} for addresses in expected]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("far", "asked"),
    [
        pytest.param([], [], id="without an address"),
        pytest.param(["10.1.0.1"], [{"10.1.0.1"}], id="with one"),
    ],
)
def test_the_kernel_is_asked_about_a_pod_elsewhere_only_if_its_addresses_are_news(
    node: Node, eventually: Eventually, far: list[str], asked: list[set[str]]
) -> None:
    """Whatever the size of the mesh; and once, although the pod changes twice."""

    async def scenario() -> None:
        node.state.apply(Changes(workloads=(workload("web", "10.0.0.1"), workload("old", "10.2.0.1"))))
        async with node.running():
            await node.settled(eventually)
            node.asked.clear()
            for revision in ("1", "2"):
                one = workload("far", *far)
                node.change(Changes(workloads=(msgspec.structs.replace(one, canonical_revision=revision),)))
                steps = await node.settled(eventually)
                assert not [step for step in steps if step[0] == "workers"]
                assert ("verdicts", ["web"]) in steps
            assert node.asked == asked

    asyncio.run(scenario())


class _NotGoneThrough(dict[str, Workload]):
    """Finds what it is asked for by name, and nothing else."""

    def __iter__(self) -> Iterator[str]:
        raise AssertionError("somebody goes through all workloads of the mesh")

    def values(self) -> NoReturn:
        raise AssertionError("somebody goes through all workloads of the mesh")

    items = keys = values


def test_a_change_elsewhere_goes_through_nothing_that_grows_with_the_mesh(
    node: Node, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted, not timed: the workloads, the addresses, what is told to workers and what is asked of the kernel."""

    async def scenario() -> None:
        others = tuple(workload(f"far{n}", f"10.1.{n // 250}.{n % 250}") for n in range(500))
        away = tuple(msgspec.structs.replace(one, node="node-b") for one in others)
        node.state.apply(Changes(workloads=(workload("web", "10.0.0.1"), *away)))
        async with node.running():
            await node.settled(eventually)
            assert len(node.known[-1]) == 501
            mesh = node.state.mesh
            mesh.workloads = _NotGoneThrough(mesh.workloads)
            monkeypatch.setattr(AddressIndex, "addresses", _NotGoneThrough.values)
            monkeypatch.setattr(node.services, "is_asking", False)
            told: list[ToWorker] = []
            node.state.subscribe(lambda message, _: told.append(message))
            node.asked.clear()
            node.change(Changes(workloads=(msgspec.structs.replace(away[7], canonical_revision="2"),)))
            node.change(Changes(workloads=(msgspec.structs.replace(away[8], addresses=(Ip("10.9.0.1"),)),)))
            await eventually(lambda: bool(node.asked))
            assert node.asked == [{"10.1.0.8", "10.9.0.1"}]
            assert node.known[-1] == {"10.9.0.1"}
            assert sum(message.changes.values for message in told if isinstance(message, Apply)) == 2

    asyncio.run(scenario())


def test_the_kernel_is_looked_at_when_devices_have_changed_and_from_time_to_time(
    node: Node, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        node.state.apply(Changes(workloads=(workload("web", "10.0.0.1"),)))
        async with node.running():
            await node.settled(eventually)
            node.asked.clear()
            node.capture.look_at_kernel()
            await node.settled(eventually)
            assert node.asked == [set()]
            node.lacks_pods = True  # its device may come without a sign here
            node.change(Changes())
            await node.settled(eventually)
            assert node.asked == [set(), set()]
            node.lacks_pods = False
            monkeypatch.setattr(module, "REPAIR_SECONDS", 0.01)
            node.capture.look_again()
            await eventually(lambda: len(node.asked) > 3)

    asyncio.run(scenario())


def test_addresses_that_a_failed_reconcile_was_asked_about_stay_in_question(node: Node, eventually: Eventually) -> None:
    """Half of it may have been done: what has gone again meanwhile must not stay in the kernel."""

    async def scenario() -> None:
        node.state.apply(Changes(workloads=(workload("web", "10.0.0.1"),)))
        async with node.running():
            await node.settled(eventually)
            node.asked.clear()
            node.refuse = 1
            node.change(Changes(workloads=(workload("far", "10.1.0.1"),)))
            await eventually(lambda: bool(node.capture.kernel_error))
            node.change(Changes(removed_workloads=("far",)))
            await eventually(lambda: not node.capture.kernel_error)
            assert node.asked[-1] == {"10.1.0.1"}
            assert node.known[-1] == set()

    asyncio.run(scenario())


@pytest.mark.parametrize("missing", ["mesh", "pods"])
def test_nothing_is_undone_for_want_of_news(
    node: Node, missing: str, eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    """A successor that has neither a control plane nor saved state, or whose pods file broke at that moment."""

    async def scenario() -> None:
        node.is_mesh_known = missing != "mesh"
        if missing == "pods":
            node.pods_file.write_text("- {")
        async with node.running():
            node.capture.look_again()
            await asyncio.sleep(0.1)  # ten looks, and nothing may come of them
            assert node.steps == []
            assert not node.capture.is_settled
            assert (missing == "pods") == ("pods.yaml" in node.capture.pods_error)
            node.is_mesh_known = True
            node.pods(web="web-1")
            # An empty mesh is one too, and comes without a change.
            assert (await node.settled(eventually))[-4] == ("kernel", {})

    asyncio.run(scenario())


def test_a_pods_file_that_breaks_later_leaves_the_last_good_list(
    node: Node, eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        node.state.apply(Changes(workloads=(workload("web", "10.0.0.1"),)))
        async with node.running():
            await node.settled(eventually)
            for breakage in (lambda: node.pods_file.write_text(""), node.pods_file.unlink):
                breakage()
                await eventually(lambda: bool(node.capture.pods_error))
                node.capture.look_at_kernel()
                assert (await node.settled(eventually))[-4] == ("kernel", {"web@web-1": ["10.0.0.1"]})
                node.pods(web="web-1")
                await eventually(lambda: not node.capture.pods_error)
                await node.settled(eventually)

    asyncio.run(scenario())
    assert "last good list stays in force" in caplog.text


def test_a_kernel_that_refuses_is_asked_again_and_told_once(
    node: Node, eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        node.state.apply(Changes(workloads=(workload("web", "10.0.0.1"),)))
        node.refuse = 3
        async with node.running():
            await eventually(lambda: bool(node.capture.kernel_error))
            assert not node.capture.is_settled
            await eventually(lambda: node.capture.is_settled)
            assert node.capture.kernel_error == ""
            assert [identity.service_account for identity in node.capture.enrolment.identities] == ["web"]

    asyncio.run(scenario())
    assert caplog.text.count("no filter today") == 1


def test_a_worker_that_does_not_answer_does_not_hold_up_the_kernel(
    node: Node, eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        node.is_applied = False
        async with node.running():
            await node.settled(eventually)

    asyncio.run(scenario())
    assert "not every worker has applied" in caplog.text


def test_the_kernel_knows_every_address_of_the_mesh(node: Node, eventually: Eventually) -> None:
    known: list[frozenset[Ip]] = []
    blocks: list[frozenset[Cidr]] = []
    reconcile = node.reconcile

    def note(wanted: Wanted) -> list[str]:
        known.append(wanted.known)
        blocks.append(wanted.known_blocks)
        assert not any(pod.registry_only for pod in wanted.pods)
        assert wanted.adoption_seconds == node.config.adoption_seconds
        return reconcile(wanted)

    node.reconcile = note  # type: ignore[method-assign]

    async def scenario() -> None:
        outside = Service(
            name="out",
            namespace="shop",
            hostname="*.example",
            vips=(Vip("", block=Cidr.parse("192.0.2.0/24")), Vip("elsewhere", block=Cidr.parse("198.18.0.0/15"))),
        )
        both = (workload("web", "10.0.0.1"), workload("far", "10.1.0.1"))
        node.state.apply(Changes(workloads=both, services=(outside,)))
        async with node.running():
            await node.settled(eventually)

    asyncio.run(scenario())
    assert known == [{"10.0.0.1", "10.1.0.1"}]
    assert node.asked == [None], "any address: a predecessor may have left others"
    assert blocks == [{Cidr.parse("192.0.2.0/24")}]


def test_the_kernel_drops_what_nobody_has_registered_as_soon_as_the_mesh_says_so(
    node: Node, eventually: Eventually
) -> None:
    told: list[dict[str, bool]] = []
    reconcile = node.reconcile

    def note(wanted: Wanted) -> list[str]:
        told.append({pod.name: pod.registry_only for pod in wanted.pods})
        return reconcile(wanted)

    node.reconcile = note  # type: ignore[method-assign]

    async def scenario() -> None:
        node.state.apply(Changes(workloads=(workload("web", "10.0.0.1"),)))
        async with node.running():
            await node.settled(eventually)
            mesh = MeshTraffic(is_registry_only=True)
            for extension, is_on in (
                (mesh, True),
                (ClientScopes(namespace="shop", scopes=(scope(is_registry_only=False),)), False),
                (ClientScopes(namespace="shop", scopes=(scope(is_registry_only=False, app="db"),)), True),
                (MeshTraffic(), False),
                (ClientScopes(namespace="", scopes=(scope(is_registry_only=True),)), True),
            ):
                node.change(Changes(extensions=(extension,)))
                await eventually(lambda is_on=is_on: told[-1] == {"web": is_on})  # type: ignore[misc]

    asyncio.run(scenario())
    assert told[0] == {"web": False}


def scope(*, is_registry_only: bool, **labels: str) -> ClientScope:
    return ClientScope(name="shop/s", labels=labels, is_registry_only=is_registry_only)


def test_the_kernel_is_told_what_names_mean_and_no_more_than_it_has_room_for(
    node: Node, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports = (ServicePort(Port(443), 443),)
    entry = Service(name="api", namespace="shop", hostname="api.example", ports=ports)
    outside = Workload(uid="api", name="api", namespace="shop", hostname="api.example", services={entry.key: ports})
    told: list[AbstractSet[Exclusion]] = []
    reconcile = node.reconcile

    def spy(wanted: Wanted) -> list[str]:
        told.append(wanted.named)
        return reconcile(wanted)

    node.reconcile = spy  # type: ignore[method-assign]

    def means(*ips: str) -> None:
        node.change(Changes(names=(ResolvedName(hostname="api.example", addresses=tuple(map(Ip, ips))),)))

    async def steps() -> None:
        async with node.running():
            node.change(Changes(workloads=(workload("web", "10.0.0.1"), outside), services=(entry,)))
            await node.settled(eventually)
            means("203.0.113.7", "2001:db8::7")
            await eventually(lambda: len(told[-1]) == 2)
            assert node.capture.unsteered == 0
            monkeypatch.setattr(module, "MOST_NAMED", 1)
            means("203.0.113.8", "203.0.113.9")
            await eventually(lambda: len(told[-1]) == 1)
            assert node.capture.unsteered == 1
            means()
            await eventually(lambda: not told[-1])

    asyncio.run(steps())
    assert {
        Exclusion(Cidr.parse("203.0.113.7/32"), Port(443)),
        Exclusion(Cidr.parse("2001:db8::7/128"), Port(443)),
    } in told
