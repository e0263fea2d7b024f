# SPDX-License-Identifier: Apache-2.0
"""The gRPC skin against a control plane that does what the test says, on loopback."""

import asyncio
import contextlib
import dataclasses
import logging
import re
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from grpc import aio

from nodeagent.config import Config
from nodeagent.errors import ConfigError
from nodeagent.model.mesh import Changes, Mesh
from nodeagent.model.workload import Workload
from nodeagent.proto import authorization_pb2, workload_pb2, xds_pb2
from nodeagent.xds import client as client_module
from nodeagent.xds.client import DECODE_INLINE, XdsClient
from nodeagent.xds.delta import Kind, LastGood
from nodeagent.xds.store import Store

if TYPE_CHECKING:
    from tests.unit.conftest import TinyCa
    from tests.unit.xds.conftest import Serve, Stream, Until

A, P, E = Kind.ADDRESS.value, Kind.AUTHORIZATION.value, Kind.EXTENSION.value
NAME = "istiod.istio-system.svc"
UNTOLD = "Internal error from Core"


def workload(name: str, version: str = "1", **fields: Any) -> xds_pb2.Resource:
    value = workload_pb2.Address(workload=workload_pb2.Workload(uid=name, name=name, namespace="shop", **fields))
    return xds_pb2.Resource(
        name=name, version=version, resource=AnyMessage(type_url=A, value=value.SerializeToString())
    )


def policy(name: str) -> xds_pb2.Resource:
    value = authorization_pb2.Authorization(name=name, namespace="shop")
    return xds_pb2.Resource(name=f"shop/{name}", resource=AnyMessage(type_url=P, value=value.SerializeToString()))


@dataclasses.dataclass
class Agent:
    """A client, and what it told its agent."""

    client: XdsClient
    changes: list[Changes]
    mesh: Mesh


@dataclasses.dataclass
class Files:
    directory: Path

    @property
    def roots(self) -> Path:
        return self.directory / "roots.pem"

    @property
    def token(self) -> Path:
        return self.directory / "token"

    @property
    def state(self) -> Path:
        return self.directory / "state"

    def config(self, port: int, scheme: str = "http") -> Config:
        return Config(
            node="node-a",
            pod_name="ztunnel-a",
            cluster="c1",
            xds_address=f"{scheme}://127.0.0.1:{port}",
            server_name=NAME,
            root_certificate=str(self.roots),
            token=str(self.token),
        )


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.fixture(autouse=True)
def failures(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The failures in a row of which each delay was made; nobody waits."""
    seen: list[int] = []

    def delay(failures: int, first: float, longest: float, pick: Callable[[], float]) -> float:
        assert (first, longest) == (0.01, 15.0)
        seen.append(failures)
        return 0.002

    monkeypatch.setattr(client_module, "delay", delay)
    return seen


@contextlib.asynccontextmanager
async def running(config: Config, state: Path) -> AsyncIterator[Agent]:
    changes: list[Changes] = []
    mesh = Mesh()

    def on_changes(change: Changes) -> None:
        changes.append(change)
        mesh.apply(change)

    store = Store(str(state), cluster=config.cluster, node=config.node)
    client = XdsClient(config, store, on_changes, pick=lambda: 0.5)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(client.run())
        try:
            yield Agent(client, changes, mesh)
        finally:
            task.cancel()


def play(scene: Coroutine[Any, Any, None]) -> None:
    async def within_time() -> None:
        async with asyncio.timeout(100):
            await scene

    asyncio.run(within_time())


async def opened(stream: "Stream") -> dict[str, xds_pb2.DeltaDiscoveryRequest]:
    """The subscriptions, by type."""
    requests = [await stream.request() for _ in Kind]
    assert all(request.HasField("node") for request in requests)
    return {request.type_url: request for request in requests}


async def acknowledged(stream: "Stream", type_url: str, nonce: str) -> None:
    request = await stream.request()
    assert request == xds_pb2.DeltaDiscoveryRequest(type_url=type_url, response_nonce=nonce)


async def synced(stream: "Stream", *resources: xds_pb2.Resource) -> dict[str, xds_pb2.DeltaDiscoveryRequest]:
    """Plays a control plane that sends `resources` first."""
    subscriptions = await opened(stream)
    for type_url in (A, P):
        sent = [one for one in resources if one.resource.type_url == type_url]
        await stream.send(type_url=type_url, nonce=type_url, resources=sent)
        await acknowledged(stream, type_url, type_url)
    return subscriptions


def test_it_subscribes_applies_acknowledges_and_is_synced(serve: "Serve", files: Files) -> None:
    async def scene() -> None:
        async with serve() as server, running(files.config(server.port), files.state) as agent:
            stream = await server.stream()
            subscriptions = await opened(stream)
            assert set(subscriptions) == {A, P, E}
            assert subscriptions[A].node.id.startswith("ztunnel~1.1.1.1~ztunnel-a.istio-system~")
            assert subscriptions[A].node.metadata["NODE_NAME"] == "node-a"

            await stream.send(type_url=A, nonce="1", resources=[workload("web")])
            await acknowledged(stream, A, "1")
            assert (agent.client.is_synced, agent.client.is_ready) == (False, False)
            await stream.send(type_url=P, nonce="2", resources=[policy("allow")])
            await acknowledged(stream, P, "2")

            assert (agent.client.is_synced, agent.client.is_ready) == (True, True)
            assert list(agent.mesh.workloads) == ["web"]
            assert list(agent.mesh.policies) == ["shop/allow"]
            status = agent.client.status
            assert status.connected_since > 0
            assert status.last_error == ""
            assert status.generation == len(agent.changes) == 2
            assert status.kinds[Kind.ADDRESS].held == 1
            assert status.kinds[Kind.ADDRESS].messages == 1
            assert status.kinds[Kind.ADDRESS].acknowledged == 1
            assert status.kinds[Kind.ADDRESS].message_bytes > 50

    play(scene())


def test_a_bad_resource_is_refused_and_the_good_one_applied(
    serve: "Serve", files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene() -> None:
        async with serve() as server, running(files.config(server.port), files.state) as agent:
            stream = await server.stream()
            await synced(stream)
            await stream.send(type_url=A, nonce="9", resources=[workload("web"), workload("old", tunnel_protocol=2)])
            request = await stream.request()

            assert request.response_nonce == "9"
            assert request.error_detail.code == 0
            assert request.error_detail.message == "old: unsupported tunnel protocol LEGACY_ISTIO_MTLS"
            assert list(agent.mesh.workloads) == ["web"]
            counts = agent.client.status.kinds[Kind.ADDRESS]
            assert (counts.refused, counts.last_refusal) == (1, request.error_detail.message)

    play(scene())
    assert "old: unsupported tunnel protocol" in caplog.text


@pytest.mark.parametrize(
    ("code", "level"),
    [
        (grpc.StatusCode.UNAVAILABLE, logging.INFO),
        (grpc.StatusCode.OK, logging.INFO),
        (grpc.StatusCode.UNKNOWN, logging.INFO),
        (grpc.StatusCode.INTERNAL, logging.WARNING),
    ],
)
def test_a_stream_that_ends_is_resumed_with_the_versions_that_are_held(
    serve: "Serve", files: Files, code: grpc.StatusCode, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene() -> None:
        async with serve() as server, running(files.config(server.port), files.state) as agent:
            first = await server.stream()
            await synced(first, workload("web", "v1"), workload("db", "v2"), policy("allow"))
            first.end(code, "graceful_stop")

            second = await server.stream()
            subscriptions = await opened(second)
            assert dict(subscriptions[A].initial_resource_versions) == {"web": "v1", "db": "v2"}
            assert dict(subscriptions[P].initial_resource_versions) == {"shop/allow": ""}
            assert agent.client.status.last_error.endswith(f"{code.name}: graceful_stop") or code.name == "OK"
            assert agent.client.status.terminations == {code.name: 1}
            await second.send(type_url=A, nonce="1", removed_resources=["db"])
            await acknowledged(second, A, "1")
            assert list(agent.mesh.workloads) == ["web"]
            assert agent.client.status.last_error == ""

    with caplog.at_level(logging.INFO):
        play(scene())
    levels = [record.levelno for record in caplog.records if code.name in record.getMessage()]
    assert levels == [level]


def test_a_restart_during_an_outage_serves_the_last_good_state_and_resumes_from_it(
    serve: "Serve", files: Files, until: "Until", held_port: int
) -> None:
    async def first_life() -> None:
        async with serve() as server, running(files.config(server.port), files.state) as agent:
            await synced(await server.stream(), workload("web", "v1"), policy("allow"))
            await until(lambda: agent.client.status.state_writes > 0)

    async def second_life() -> None:
        async with running(files.config(held_port), files.state) as agent:
            await until(lambda: agent.client.is_ready)
            was_synced = agent.client.is_synced
            assert list(agent.mesh.workloads) == ["web"]
            assert list(agent.mesh.policies) == ["shop/allow"]
            assert agent.client.status.restored_from > 0
            await until(lambda: agent.client.status.terminations.get("UNAVAILABLE", 0) >= 2)
            async with serve(port=held_port) as server:
                subscriptions = await synced(await server.stream())
                assert dict(subscriptions[A].initial_resource_versions) == {"web": "v1"}
                assert (was_synced, agent.client.is_synced) == (False, True)
            assert len(agent.changes) == 1  # what was restored; nothing has changed since

    play(first_life())
    play(second_life())


@pytest.mark.parametrize(
    ("node", "spoil", "why"),
    [
        pytest.param("node-a", lambda content: content[:-1] + b"!", "checksum", id="damaged"),
        pytest.param("node-b", lambda content: content, "it is of node 'node-b'", id="foreign"),
    ],
)
def test_a_state_that_cannot_be_trusted_is_refused_with_the_reason_and_nothing_is_served_from_it(
    files: Files,
    until: "Until",
    caplog: pytest.LogCaptureFixture,
    held_port: int,
    node: str,
    spoil: Callable[[bytes], bytes],
    why: str,
) -> None:
    """Without a mesh the agent is not ready, and does not touch what a predecessor has captured (test_capture.py)."""
    held = LastGood(Changes(workloads=(Workload(uid="web", name="web", namespace="shop"),)), {"web": "1"}, {})
    Store(str(files.state), cluster="Kubernetes", node=node).save(held, time.time())
    files.state.write_bytes(spoil(files.state.read_bytes()))

    async def scene() -> None:
        async with running(files.config(held_port), files.state) as agent:
            await until(lambda: agent.client.status.terminations.get("UNAVAILABLE", 0) >= 1)
            assert not agent.client.is_ready
            assert agent.client.status.restored_from == 0
            assert agent.mesh.workloads == {}

    play(scene())
    assert why in caplog.text


def test_the_state_is_as_old_as_its_last_confirmation_not_as_its_last_change(
    serve: "Serve", files: Files, until: "Until"
) -> None:
    async def scene() -> None:
        async with serve() as server, running(files.config(server.port), files.state) as agent:
            stream = await server.stream()
            await synced(stream, workload("web"))
            await until(lambda: agent.client.status.state_writes == 1)
            stream.end(grpc.StatusCode.UNAVAILABLE)
            await until(lambda: agent.client.status.state_writes == 2)
            assert len(agent.changes) == 1

    play(scene())


def test_a_control_plane_that_came_up_empty_is_refused_until_it_knows_something(
    serve: "Serve", files: Files, until: "Until"
) -> None:
    async def scene() -> None:
        async with serve() as server, running(files.config(server.port), files.state) as agent:
            first = await server.stream()
            await synced(first, workload("web", "v1"))
            first.end(grpc.StatusCode.UNAVAILABLE)
            for _ in range(2):
                empty = await server.stream()
                subscriptions = await opened(empty)
                assert dict(subscriptions[A].initial_resource_versions) == {"web": "v1"}
                await empty.send(type_url=A, nonce="1", removed_resources=["web"])
                assert (await empty.request()).error_detail.message.startswith("the first answer removes all 1")
                assert await empty.is_left()
                empty.end()
            await until(lambda: agent.client.status.terminations.get("ABANDONED") == 2)
            assert "removes all 1 addresses" in agent.client.status.last_error
            assert "empty" in agent.client.status.last_error_check
            assert list(agent.mesh.workloads) == ["web"]

            filled = await server.stream()
            await opened(filled)
            await filled.send(type_url=A, nonce="2", resources=[workload("db")], removed_resources=["web"])
            await acknowledged(filled, A, "2")
            assert list(agent.mesh.workloads) == ["db"]
            assert agent.client.status.last_error == ""

    play(scene())


def test_a_control_plane_that_holds_on_to_a_stream_is_left_nevertheless(
    serve: "Serve", files: Files, until: "Until", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "PARTING_SECONDS", 0.05)

    async def scene() -> None:
        async with serve() as server, running(files.config(server.port), files.state) as agent:
            first = await server.stream()
            await synced(first, workload("web", "v1"))
            first.end(grpc.StatusCode.UNAVAILABLE)
            empty = await server.stream()
            await opened(empty)
            await empty.send(type_url=A, nonce="1", removed_resources=["web"])
            await until(lambda: agent.client.status.terminations.get("ABANDONED") == 1)
            await synced(await server.stream(), workload("web", "v2"))

    play(scene())


def test_over_tls_with_another_server_name_and_a_token_read_for_each_stream(
    serve: "Serve", files: Files, tiny_ca: "TinyCa"
) -> None:
    files.roots.write_text(tiny_ca.pem)
    files.token.write_text("first.token\n")

    async def scene() -> None:
        async with (
            serve(*tiny_ca.server(NAME)) as server,
            running(files.config(server.port, "https"), files.state) as agent,
        ):
            stream = await server.stream()
            await synced(stream)
            assert stream.metadata["authorization"] == "Bearer first.token"
            assert stream.metadata["clusterid"] == "c1"
            files.token.write_text("second.token")
            stream.end(grpc.StatusCode.UNAVAILABLE)

            stream = await server.stream()
            await synced(stream)
            assert stream.metadata["authorization"] == "Bearer second.token"
            assert agent.client.is_synced

    play(scene())


def test_the_token_does_not_travel_in_plain_text(serve: "Serve", files: Files) -> None:
    files.token.write_text("first.token\n")

    async def scene() -> None:
        async with serve() as server, running(files.config(server.port), files.state):
            stream = await server.stream()
            assert "authorization" not in stream.metadata
            assert stream.metadata["clusterid"] == "c1"

    play(scene())


def test_a_server_with_another_name_or_another_ca_is_not_followed_until_the_roots_are_right(
    serve: "Serve", files: Files, tiny_ca: "TinyCa", make_ca: "type[TinyCa]", until: "Until"
) -> None:
    files.token.write_text("t")

    async def scene() -> None:
        files.roots.write_text(tiny_ca.pem)
        async with (
            serve(*tiny_ca.server("somebody.else")) as server,
            running(files.config(server.port, "https"), files.state) as agent,
        ):
            await until(lambda: agent.client.status.terminations.get("UNAVAILABLE", 0) >= 2)
            assert agent.client.status.connected_since == 0
            assert "root certificate" in agent.client.status.last_error_check
        files.roots.write_text(make_ca("Other Root").pem)
        async with (
            serve(*tiny_ca.server(NAME)) as server,
            running(files.config(server.port, "https"), files.state) as agent,
        ):
            await until(lambda: agent.client.status.terminations.get("UNAVAILABLE", 0) >= 2)
            files.roots.write_text(tiny_ca.pem)
            await synced(await server.stream())

    play(scene())


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("token", None, "token file .*: No such file"),
        ("token", "", "not a token"),
        ("token", "two\nlines", "not a token"),
        ("roots", None, "root certificate file .*: No such file"),
        ("roots", "nonsense", "not a certificate in PEM"),
    ],
)
def test_without_token_or_roots_it_waits_for_the_file_and_says_so_once(
    serve: "Serve",
    files: Files,
    tiny_ca: "TinyCa",
    until: "Until",
    caplog: pytest.LogCaptureFixture,
    name: str,
    content: str | None,
    error: str,
) -> None:
    good = {"token": "t", "roots": tiny_ca.pem}
    files.token.write_text(good["token"])
    files.roots.write_text(good["roots"])
    path = getattr(files, name)
    path.unlink() if content is None else path.write_text(content)

    async def scene() -> None:
        async with (
            serve(*tiny_ca.server(NAME)) as server,
            running(files.config(server.port, "https"), files.state) as agent,
        ):
            await until(lambda: agent.client.status.terminations.get("PREVENTED", 0) >= 3)
            assert agent.client.status.last_error_check
            path.write_text(good[name])
            await synced(await server.stream())

    play(scene())
    assert len([record for record in caplog.records if re.search(error, record.getMessage())]) == 1


def test_failures_in_a_row_count_and_a_lasting_stream_begins_anew(
    serve: "Serve", files: Files, until: "Until", failures: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene() -> None:
        async with serve() as server, running(files.config(server.port), files.state) as agent:
            for _ in range(3):
                stream = await server.stream()
                await opened(stream)  # a write to a stream that has ended would fail before the status comes
                stream.end(grpc.StatusCode.UNAUTHENTICATED, "authentication failure")
            stream = await server.stream()
            assert "authentication failure" in agent.client.status.last_error
            assert "token" in agent.client.status.last_error_check
            await synced(stream)
            monkeypatch.setattr(client_module, "LASTING_SECONDS", 0.0)
            stream.end(grpc.StatusCode.UNAVAILABLE)
            stream = await server.stream()
            await synced(stream)
            monkeypatch.setattr(client_module, "LASTING_SECONDS", 60.0)
            stream.end(grpc.StatusCode.UNAVAILABLE)
            await server.stream()

    play(scene())
    assert failures == [1, 2, 3, 1, 2]


@pytest.mark.parametrize(
    ("code", "details"),
    [
        (grpc.StatusCode.PERMISSION_DENIED, "the api generator is restricted to the control-plane (root) namespace"),
        (grpc.StatusCode.UNAUTHENTICATED, "the api generator requires an authenticated control-plane identity"),
    ],
)
def test_an_istiod_that_ends_the_stream_over_extensions_is_followed_without_them(
    serve: "Serve", files: Files, code: grpc.StatusCode, details: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene() -> None:
        async with serve() as server, running(files.config(server.port), files.state) as agent:
            for version in ("1", "2"):  # whenever a stream begins anew: it may be another control plane's
                asking = await server.stream()
                assert set(await opened(asking)) == {A, P, E}
                asking.end(code, details)
                stream = await server.stream()
                requests = [await stream.request() for _ in range(2)]
                assert {request.type_url for request in requests} == {A, P}
                for type_url, resources in ((A, [workload("web", version)]), (P, [])):
                    await stream.send(type_url=type_url, nonce=type_url, resources=resources)
                    await acknowledged(stream, type_url, type_url)
                assert agent.client.is_synced
                assert agent.client.status.last_error == ""
                stream.end(grpc.StatusCode.UNAVAILABLE)

    with caplog.at_level(logging.INFO):
        play(scene())
    assert [record.levelno for record in caplog.records if details in record.getMessage()] == [logging.INFO] * 2


def test_an_end_that_met_a_write_and_so_is_not_told_is_nothing_to_warn_about(
    serve: "Serve", files: Files, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    carry_out, ends = (
        XdsClient._carry_out,
        [aio.AioRpcError(grpc.StatusCode.INTERNAL, aio.Metadata(), aio.Metadata(), UNTOLD)],
    )

    is_opened = asyncio.Event()

    async def crossed(self: XdsClient, call: Any, commands: Any) -> None:
        await carry_out(self, call, commands)
        await is_opened.wait()  # a stream that is left sooner may never be seen by the server
        if ends:
            raise ends.pop()

    async def scene() -> None:
        async with serve() as server, running(files.config(server.port), files.state) as agent:
            await opened(await server.stream())
            is_opened.set()
            await synced(await server.stream())
            assert agent.client.status.terminations == {"INTERNAL": 1}
            assert agent.client.status.last_error == ""

    monkeypatch.setattr(XdsClient, "_carry_out", crossed)
    with caplog.at_level(logging.INFO):
        play(scene())
    assert [record.levelno for record in caplog.records if UNTOLD in record.getMessage()] == [logging.INFO]


def test_a_large_answer_in_one_message(serve: "Serve", files: Files) -> None:
    """Beyond gRPC's usual 4 MiB, and with more resources than are decoded in the loop."""
    count = DECODE_INLINE + 1

    async def scene() -> None:
        async with serve() as server, running(files.config(server.port), files.state) as agent:
            stream = await server.stream()
            await opened(stream)
            resources = [workload(f"w{number}", hostname="h" * 20_000) for number in range(count)]
            await stream.send(type_url=A, nonce="big", resources=resources)
            await acknowledged(stream, A, "big")
            assert len(agent.mesh.workloads) == count
            assert agent.client.status.kinds[Kind.ADDRESS].message_bytes > 5_000_000

    play(scene())


def test_a_type_nobody_asked_for_is_passed_over_with_a_warning(
    serve: "Serve", files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene() -> None:
        async with serve() as server, running(files.config(server.port), files.state):
            stream = await server.stream()
            await opened(stream)
            await stream.send(type_url="type.googleapis.com/some.Thing", nonce="0")
            await stream.send(type_url=A, nonce="1")
            await acknowledged(stream, A, "1")

    play(scene())
    assert "type nobody asked for: 'type.googleapis.com/some.Thing'" in caplog.text


def test_a_bug_in_the_agent_ends_it(serve: "Serve", files: Files) -> None:
    async def scene() -> None:
        async with serve() as server:
            config = files.config(server.port)
            client = XdsClient(config, Store(str(files.state), cluster="c1", node="node-a"), _raise)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(client.run())
                stream = await server.stream()
                await opened(stream)
                await stream.send(type_url=A, nonce="1", resources=[workload("web")])

    with pytest.raises(ExceptionGroup) as caught:
        play(scene())
    assert caught.group_contains(ZeroDivisionError)


def _raise(_: Changes) -> None:
    raise ZeroDivisionError


def test_an_address_that_is_none_is_the_operators_mistake(files: Files) -> None:
    config = dataclasses.replace(files.config(1), xds_address="https://istiod")

    with pytest.raises(ConfigError, match="--xds-address"):
        XdsClient(config, Store("/nonexistent", cluster="c", node="n"), _raise)
