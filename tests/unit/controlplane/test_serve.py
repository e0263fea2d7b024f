# SPDX-License-Identifier: Apache-2.0
"""The server over TLS on loopback, with a gRPC client in the same process."""

import asyncio
import contextlib
import dataclasses
import datetime as dt
import logging
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography import x509

from nodeagent.certs.client import CaClient
from nodeagent.config import Config
from nodeagent.controlplane import discovery, quota, rotation, serve, subscription
from nodeagent.controlplane.authority import open_authority
from nodeagent.controlplane.ca import (
    INTERMEDIATE_LIFE,
    CertificateAuthority,
    make_intermediate,
    make_root,
    pem,
    root_name,
)
from nodeagent.controlplane.clients import MAX_CLIENTS_OF_NODE, show_clients
from nodeagent.controlplane.encode import Resource
from nodeagent.controlplane.finding import Finding
from nodeagent.controlplane.gate import Gate
from nodeagent.controlplane.objects import MeshObject
from nodeagent.controlplane.publisher import Publisher
from nodeagent.controlplane.serve import Server
from nodeagent.controlplane.snapshot import ADDRESS, AUTHORIZATION, Snapshot, advance
from nodeagent.controlplane.state import StateDirectory
from nodeagent.controlplane.token import make_key, make_token
from nodeagent.controlplane.translate import translate
from nodeagent.errors import ConfigError, PortInUse
from nodeagent.model.identity import Identity
from nodeagent.model.mesh import Changes, Mesh
from nodeagent.proto import ca_pb2, ca_pb2_grpc, xds_pb2, xds_pb2_grpc
from nodeagent.xds.client import XdsClient
from nodeagent.xds.store import Store
from tests.logged import logged

Read = Callable[[str], tuple[list[MeshObject], list[Finding]]]
KEY = make_key()
JWT_BEGINS = "eyJhbGciOiJ"
"""Each JWT does, and no certificate does by chance, as it has the first three of these letters now and then."""
WEB = "spiffe://cluster.local/ns/shop/sa/web"
WITHIN_SECONDS = 60
"""Only for what fails."""


def bearer(node: str = "node-a", *, key: bytes = KEY, seconds: int = 86400) -> tuple[tuple[str, str], ...]:
    """Made while tests are collected, so it must outlive the whole run."""
    token = make_token(key, node, now=time.time(), ttl_seconds=seconds)
    return (("authorization", f"Bearer {token}"), ("clusterid", "Kubernetes"))


@dataclasses.dataclass
class Running:
    server: Server
    publisher: Publisher
    address: str
    channel: grpc.aio.Channel
    read: Read
    authorities: list[CertificateAuthority]
    """The last one is in use."""

    def publish(self, text: str) -> None:
        objects, _ = self.read(text)
        snapshot, _ = advance(self.publisher.snapshot, translate(objects))
        self.publisher.publish(snapshot)

    async def certificate(self, csr: str, identity: str, metadata: tuple[tuple[str, str], ...]) -> list[str]:
        request = ca_pb2.IstioCertificateRequest(csr=csr, validity_duration=60)
        if identity:
            request.metadata["ImpersonatedIdentity"] = identity
        stub: Any = ca_pb2_grpc.IstioCertificateServiceStub(self.channel)
        response = await stub.CreateCertificate(request, metadata=metadata)
        return list(response.cert_chain)

    def stream(self, metadata: tuple[tuple[str, str], ...]) -> "grpc.aio.StreamStreamCall[Any, Any]":
        stub: Any = xds_pb2_grpc.AggregatedDiscoveryServiceStub(self.channel)
        call: grpc.aio.StreamStreamCall[Any, Any] = stub.DeltaAggregatedResources(metadata=metadata)
        return call


def first_request(type_url: str = ADDRESS, **metadata: str) -> xds_pb2.DeltaDiscoveryRequest:
    request = xds_pb2.DeltaDiscoveryRequest(type_url=type_url)
    request.node.id = "ztunnel~10.0.0.1~agent.istio-system~istio-system.svc.cluster.local"
    request.node.metadata.update(metadata)
    return request


Story = Callable[[Running], Awaitable[None]]


@pytest.fixture
def play(state: StateDirectory, read: Read, mesh: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[Story], None]:
    """Runs a story against a server that publishes the example mesh."""
    monkeypatch.setattr(serve, "STOP_SECONDS", WITHIN_SECONDS)  # whoever is told to end ends, on a busy machine too

    @asynccontextmanager
    async def running() -> AsyncIterator[Running]:
        authority = open_authority(state, "cluster.local", dt.datetime.now(dt.UTC))
        authorities = [authority]
        publisher = Publisher()
        server = Server(Gate(KEY), publisher, lambda: authorities[-1])
        address = await server.start("127.0.0.1:0", ["localhost"])
        credentials = grpc.ssl_channel_credentials(authority.root_pem.encode())
        try:
            async with grpc.aio.secure_channel(address, credentials) as channel:
                story = Running(server, publisher, address, channel, read, authorities)
                story.publish(mesh)
                yield story
        finally:
            await server.stop()

    def run(story: Story) -> None:
        async def told() -> None:
            async with asyncio.timeout(WITHIN_SECONDS), running() as stage:
                await story(stage)

        asyncio.run(told())

    return run


async def read_response(call: "grpc.aio.StreamStreamCall[Any, Any]") -> xds_pb2.DeltaDiscoveryResponse:
    response = await call.read()
    assert isinstance(response, xds_pb2.DeltaDiscoveryResponse)
    return response


def names(response: xds_pb2.DeltaDiscoveryResponse) -> set[str]:
    return {resource.name for resource in response.resources}


def test_a_change_reaches_a_subscribed_agent(play: Callable[[Story], None], mesh: str) -> None:
    async def story(stage: Running) -> None:
        call = stage.stream(bearer())
        await call.write(first_request(NODE_NAME="node-a"))
        await call.write(xds_pb2.DeltaDiscoveryRequest(type_url=AUTHORIZATION))
        answers = {(await read_response(call)).type_url for _ in range(2)}
        assert answers == {ADDRESS, AUTHORIZATION}
        stage.publish(mesh.replace("sa/web]", "sa/other]"))
        response = await read_response(call)
        assert (response.type_url, names(response)) == (AUTHORIZATION, {"shop/db"})
        call.cancel()

    play(story)


def test_a_resumed_agent_is_sent_what_changed_while_it_was_away(play: Callable[[Story], None], mesh: str) -> None:
    async def story(stage: Running) -> None:
        call = stage.stream(bearer())
        await call.write(first_request())
        held = {resource.name: resource.version for resource in (await read_response(call)).resources}
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK

        stage.publish(mesh.replace("name: web-0", "name: web-1"))
        call = stage.stream(bearer())
        request = first_request()
        request.initial_resource_versions.update(held)
        await call.write(request)
        response = await read_response(call)
        assert names(response) == {"Kubernetes//Pod/shop/web-1"}
        assert list(response.removed_resources) == ["Kubernetes//Pod/shop/web-0"]
        call.cancel()

    play(story)


def test_refusals_of_an_agent_are_logged_and_the_stream_goes_on(
    play: Callable[[Story], None], mesh: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(stage: Running) -> None:
        call = stage.stream(bearer())
        await call.write(first_request())
        response = await read_response(call)
        refusal = xds_pb2.DeltaDiscoveryRequest(type_url=ADDRESS, response_nonce=response.nonce)
        refusal.error_detail.message = "Kubernetes//Pod/shop/db-0: no thanks"
        await call.write(refusal)
        stage.publish(mesh.replace("10.244.2.10", "10.244.2.11"))
        assert names(await read_response(call)) == {"Kubernetes//Pod/shop/db-0"}
        call.cancel()

    with caplog.at_level(logging.WARNING):
        play(story)
    assert "node node-a refuses resources" in caplog.text
    assert "no thanks" in caplog.text


@pytest.mark.parametrize(
    ("metadata", "claimed", "reason"),
    [
        pytest.param((), "", "no token", id="no token"),
        pytest.param(bearer(key=make_key()), "", "signature is wrong", id="another key"),
        pytest.param(bearer(seconds=-5), "", "expired", id="expired"),
        pytest.param(bearer("node-b"), "node-a", "the token is for node node-b", id="another node's"),
    ],
)
def test_streams_that_are_refused(
    play: Callable[[Story], None],
    caplog: pytest.LogCaptureFixture,
    metadata: tuple[tuple[str, str], ...],
    claimed: str,
    reason: str,
) -> None:
    async def story(stage: Running) -> None:
        call = stage.stream(metadata)
        if claimed:  # a bad token is refused before anything is said; who writes then may learn of that alone
            await call.write(first_request(NODE_NAME=claimed))
        assert await call.code() is grpc.StatusCode.UNAUTHENTICATED
        assert await call.details() == "authentication failure"

    with caplog.at_level(logging.WARNING):
        play(story)
    assert reason in caplog.text


@pytest.mark.parametrize("node_id", ["", "ztunnel~10.0.0.1~agent"])
def test_a_stream_needs_a_node(play: Callable[[Story], None], node_id: str) -> None:
    async def story(stage: Running) -> None:
        request = first_request()
        request.node.id = node_id
        call = stage.stream(bearer())
        await call.write(request)
        assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT

    play(story)


async def refusal(call: "grpc.aio.StreamStreamCall[Any, Any]") -> tuple[grpc.StatusCode, str]:
    """How a stream that the server ends has ended."""
    return await call.code(), await call.details() or ""


def test_a_slow_client_delays_nobody(play: Callable[[Story], None], mesh: str) -> None:
    """One never reads: gRPC's window fills, its writer waits, and the others' do not."""

    async def story(stage: Running) -> None:
        slow = stage.stream(bearer("node-b"))
        await slow.write(first_request())
        quick = stage.stream(bearer())
        await quick.write(first_request())
        await read_response(quick)
        generations = range(2, 22)
        for generation in generations:
            large = Resource("large", str(generation), bytes(1_000_000))
            step = {ADDRESS: frozenset({"large"})}
            stage.publisher.publish(Snapshot(generation, resources={ADDRESS: {"large": large}}, history=(step,)))
            response = await read_response(quick)
            assert [resource.version for resource in response.resources] == [str(generation)]
            await quick.write(xds_pb2.DeltaDiscoveryRequest(type_url=ADDRESS, response_nonce=response.nonce))
        # What it missed comes as one change when it reads on: never twenty times a megabyte.
        read = [await read_response(slow)]
        while read[-1].system_version_info != str(generations[-1]):
            read.append(await read_response(slow))
        assert len(read) < len(generations)
        slow.cancel()
        quick.cancel()

    play(story)


def test_the_newest_of_too_many_streams_of_a_node_wins(play: Callable[[Story], None]) -> None:
    async def story(stage: Running) -> None:
        calls = []
        for _ in range(MAX_CLIENTS_OF_NODE + 1):
            calls.append(stage.stream(bearer()))
            await calls[-1].write(first_request())
            await read_response(calls[-1])
        code, words = await refusal(calls[0])
        assert (code, "replaced" in words) == (grpc.StatusCode.UNAVAILABLE, True)
        assert stage.server.clients.count == MAX_CLIENTS_OF_NODE
        for call in calls[1:]:
            assert not call.done()
            call.cancel()

    play(story)


def test_a_stream_ends_behind_the_message_that_is_on_its_way(
    play: Callable[[Story], None], caplog: pytest.LogCaptureFixture
) -> None:
    async def story(stage: Running) -> None:
        calls = [stage.stream(bearer(f"node-{number}")) for number in range(40)]
        for call in calls:
            await call.write(first_request())
            await call.done_writing()
        for call in calls:
            while await call.read() is not grpc.aio.EOF:
                pass
            assert await call.code() is grpc.StatusCode.OK

    play(story)
    assert [one.getMessage() for one in logged(caplog, "grpc") if one.levelno >= logging.ERROR] == []


def test_a_stop_tells_the_clients(play: Callable[[Story], None], caplog: pytest.LogCaptureFixture) -> None:
    async def story(stage: Running) -> None:
        call = stage.stream(bearer())
        await call.write(first_request())
        await read_response(call)
        await stage.server.stop()
        assert await refusal(call) == (grpc.StatusCode.UNAVAILABLE, "the control plane is stopping")

    with caplog.at_level(logging.ERROR):
        play(story)
    assert told(caplog) == []


def test_beyond_the_limit_of_all_newcomers_are_refused(play: Callable[[Story], None]) -> None:
    async def story(stage: Running) -> None:
        stage.server.clients.limit = 1
        served = stage.stream(bearer())
        await served.write(first_request())
        await read_response(served)
        code, words = await refusal(stage.stream(bearer("node-b")))
        assert (code, words) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "1 clients are connected already")
        assert not served.done()
        served.cancel()

    play(story)


def test_a_stream_that_asks_for_too_much_is_ended(
    play: Callable[[Story], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscription, "MAX_NAMES", 10)

    async def story(stage: Running) -> None:
        call = stage.stream(bearer())
        request = first_request()
        request.resource_names_subscribe.extend(map(str, range(11)))
        await call.write(request)
        code, words = await refusal(call)
        assert (code, "more than 10 resources" in words) == (grpc.StatusCode.RESOURCE_EXHAUSTED, True)

    play(story)


def test_a_stream_without_a_request_is_ended(play: Callable[[Story], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "FIRST_REQUEST_SECONDS", 0.05)

    async def story(stage: Running) -> None:
        assert await refusal(stage.stream(bearer())) == (grpc.StatusCode.DEADLINE_EXCEEDED, "no request came")
        assert stage.server.clients.count == 0

    play(story)


def test_a_request_that_is_too_large_is_refused_by_grpc(play: Callable[[Story], None]) -> None:
    async def story(stage: Running) -> None:
        call = stage.stream(bearer())
        request = first_request()
        request.initial_resource_versions["x" * 17_000_000] = "1"
        with contextlib.suppress(grpc.aio.AioRpcError):
            await call.write(request)
        assert await call.code() is not grpc.StatusCode.OK
        another = stage.stream(bearer())
        await another.write(first_request())
        assert len((await read_response(another)).resources) == 3
        another.cancel()

    play(story)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Without what gRPC's poller says of the loop of an earlier test in this process, which is closed."""
    texts = [record.getMessage() for record in caplog.records]
    return [text for text in texts if "PollerCompletionQueue._handle_events" not in text]


def test_a_stream_that_is_cut_is_forgotten(play: Callable[[Story], None], caplog: pytest.LogCaptureFixture) -> None:
    async def story(stage: Running) -> None:
        calls = [stage.stream(bearer()) for _ in range(3)]
        for call in calls:
            await call.write(first_request())
            await call.read()
        assert stage.publisher.streams == 3
        for call in calls:
            call.cancel()
        while stage.publisher.streams:  # noqa: ASYNC110 - gRPC tells nobody when a handler has ended
            await asyncio.sleep(0.01)

    with caplog.at_level(logging.ERROR):
        play(story)
    assert told(caplog) == []


def test_a_node_gets_the_certificates_of_its_pods(play: Callable[[Story], None], csr: str) -> None:
    async def story(stage: Running) -> None:
        leaf = x509.load_pem_x509_certificate((await stage.certificate(csr, WEB, bearer()))[0].encode())
        uris = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert uris.get_values_for_type(x509.UniformResourceIdentifier) == [WEB]

    play(story)


def test_each_request_for_a_certificate_is_one_line_that_says_who_asked_for_what(
    play: Callable[[Story], None], csr: str, caplog: pytest.LogCaptureFixture
) -> None:
    serials: list[int] = []

    async def story(stage: Running) -> None:
        chain = await stage.certificate(csr, WEB, bearer())
        serials.append(x509.load_pem_x509_certificate(chain[0].encode()).serial_number)
        with pytest.raises(grpc.aio.AioRpcError):
            await stage.certificate(csr, WEB, bearer("node-b"))

    play(story)
    issued, refused = [record.getMessage() for record in caplog.records if record.name.endswith("audit")]
    assert issued.startswith("certificate issued node=node-a peer=ipv4:127.0.0.1:")
    assert f'identity="{WEB}" serial={serials[0]:x} not_before=' in issued
    assert refused.startswith("certificate refused node=node-b peer=ipv4:127.0.0.1:")
    assert 'reason=placed_elsewhere why="node node-b wants' in refused


def test_no_log_and_no_answer_has_a_key_or_a_token(
    play: Callable[[Story], None], csr: str, state: StateDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[object] = []

    async def story(stage: Running) -> None:
        call = stage.stream(bearer())
        await call.write(first_request())
        await read_response(call)
        told.append(show_clients(stage.server.clients, now=0.0, wall=dt.datetime.now(dt.UTC)))
        told.append(await stage.certificate(csr, WEB, bearer()))
        for metadata, identity in ((bearer("node-b"), WEB), (bearer(key=make_key()), WEB), (bearer(), "x")):
            with pytest.raises(grpc.aio.AioRpcError):
                await stage.certificate(csr, identity, metadata)
        with pytest.raises(grpc.aio.AioRpcError):
            await stage.certificate("-----BEGIN PRIVATE KEY-----", WEB, bearer())
        call.cancel()

    with caplog.at_level(logging.DEBUG):
        play(story)
    told += [record.getMessage() for record in caplog.records]
    secrets = [line for path in state.path.glob("*-key.pem") for line in path.read_text().splitlines()[1:-1]]
    secrets += ["PRIVATE", KEY.decode(), "Bearer", JWT_BEGINS, csr.splitlines()[1]]
    assert len(secrets) > 10
    for secret in secrets:
        assert secret not in str(told)


def test_another_root_serves_and_signs_while_open_streams_go_on(
    play: Callable[[Story], None], mesh: str, csr: str, state: StateDirectory
) -> None:
    async def story(stage: Running) -> None:
        now = dt.datetime.now(dt.UTC)
        call = stage.stream(bearer())
        await call.write(first_request())
        await read_response(call)
        former = x509.load_pem_x509_certificate((state.path / "root-cert.pem").read_bytes())
        rotation.add_root(state, now)
        rotation.use_root(state, now)
        stage.authorities.append(open_authority(state, "cluster.local", now))
        # Whoever comes now is served by the new root; who trusts the former one alone is not.
        for roots, is_served in ((stage.authorities[-1].root_pem, True), (pem(former), False)):
            credentials = grpc.ssl_channel_credentials(roots.encode())
            options = (("grpc.use_local_subchannel_pool", 1),)
            async with grpc.aio.secure_channel(stage.address, credentials, options=options) as channel:
                another = dataclasses.replace(stage, channel=channel)
                if is_served:
                    chain = await another.certificate(csr, WEB, bearer())
                    assert chain[-1] == stage.authorities[-1].root_pem
                    assert chain[-1].count("BEGIN") == 2
                else:
                    with pytest.raises(grpc.aio.AioRpcError) as raised:
                        await another.certificate(csr, WEB, bearer())
                    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        # The stream that was open before has noticed nothing.
        stage.publish(mesh.replace("10.244.2.10", "10.244.2.11"))
        assert names(await read_response(call)) == {"Kubernetes//Pod/shop/db-0"}
        call.cancel()

    play(story)


def test_a_node_that_asks_too_often_is_refused(
    play: Callable[[Story], None], csr: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(quota, "BURST", 2.0)
    monkeypatch.setattr(quota, "PER_SECOND", 0.0)

    async def story(stage: Running) -> None:
        for _ in range(2):
            await stage.certificate(csr, WEB, bearer())
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stage.certificate(csr, WEB, bearer())
        assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED

    play(story)
    assert "reason=quota" in caplog.text


def test_an_authority_that_has_expired_is_unavailable(play: Callable[[Story], None], csr: str) -> None:
    async def story(stage: Running) -> None:
        long_ago = dt.datetime.now(dt.UTC) - INTERMEDIATE_LIFE - dt.timedelta(days=1)
        key, root = make_root(root_name("cluster.local"), long_ago)
        below, certificate = make_intermediate(key, root, long_ago)
        stage.authorities.append(CertificateAuthority(below, [certificate, root], [root]))
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stage.certificate(csr, WEB, bearer())
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "has expired" in (raised.value.details() or "")

    play(story)


IMPERSONATION = "request impersonation authentication failure"


@pytest.mark.parametrize(
    ("metadata", "identity", "details", "reason"),
    [
        pytest.param((), WEB, "request authenticate failure", "no token", id="no token"),
        pytest.param(bearer(seconds=-1), WEB, "request authenticate failure", "expired", id="expired"),
        pytest.param(bearer(key=make_key()), WEB, "request authenticate failure", "signature", id="another key"),
        pytest.param(bearer("node-b"), WEB, IMPERSONATION, "no running pod", id="a pod of another node"),
        pytest.param(bearer("node-x"), WEB, IMPERSONATION, "placed on that node", id="a node without pods"),
        pytest.param(bearer(), WEB.replace("cluster.local", "evil"), IMPERSONATION, "trust domain", id="trust domain"),
        pytest.param(bearer(), WEB.replace("sa/web", "sa/db"), IMPERSONATION, "no running pod", id="another account"),
        pytest.param(bearer(), "", IMPERSONATION, "no ImpersonatedIdentity", id="nobody's"),
        pytest.param((bearer()[0], ("clusterid", "c2")), WEB, IMPERSONATION, "of cluster c2", id="another cluster"),
    ],
)
def test_certificates_that_are_refused(  # every argument is a column or a fixture
    play: Callable[[Story], None],
    caplog: pytest.LogCaptureFixture,
    csr: str,
    metadata: tuple[tuple[str, str], ...],
    identity: str,
    details: str,
    reason: str,
) -> None:
    async def story(stage: Running) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stage.certificate(csr, identity, metadata)
        assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert raised.value.details() == details

    with caplog.at_level(logging.WARNING):
        play(story)
    assert reason in caplog.text


def test_a_bad_csr_is_an_invalid_argument(play: Callable[[Story], None]) -> None:
    async def story(stage: Running) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stage.certificate("nonsense", WEB, bearer())
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT

    play(story)


def test_a_pod_that_has_gone_gets_no_certificate(play: Callable[[Story], None], mesh: str, csr: str) -> None:
    async def story(stage: Running) -> None:
        assert await stage.certificate(csr, WEB, bearer())
        stage.publish(mesh.replace("nodeName: node-a", "nodeName: node-b"))
        with pytest.raises(grpc.aio.AioRpcError):
            await stage.certificate(csr, WEB, bearer())
        assert await stage.certificate(csr, WEB, bearer("node-b"))

    play(story)


@pytest.mark.parametrize(
    ("listen", "error"),
    [
        ("127.0.0.1", ConfigError),
        ("127.0.0.1:http", ConfigError),
        ("127.0.0.1:70000", ConfigError),
        ("192.0.2.1:15012", ConfigError),
        ("::1:15012", ConfigError),
    ],
)
def test_addresses_that_cannot_be_listened_on(state: StateDirectory, listen: str, error: type[Exception]) -> None:
    async def story() -> None:
        authority = open_authority(state, "cluster.local", dt.datetime.now(dt.UTC))
        server = Server(Gate(KEY), Publisher(), lambda: authority)
        with pytest.raises(error, match="--listen"):
            await server.start(listen, [])
        await server.stop()

    asyncio.run(story())


def test_a_port_in_use_is_told(state: StateDirectory) -> None:
    async def story() -> None:
        authority = open_authority(state, "cluster.local", dt.datetime.now(dt.UTC))
        server = Server(Gate(KEY), Publisher(), lambda: authority)
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            try:
                with pytest.raises(PortInUse, match=str(port)):
                    await server.start(f"127.0.0.1:{port}", [])
            finally:
                await server.stop()

    asyncio.run(story())


def test_our_own_agents_clients_are_served(play: Callable[[Story], None], mesh: str, tmp_path: Path) -> None:
    async def story(stage: Running) -> None:
        (tmp_path / "token").write_text(make_token(KEY, "node-a", now=time.time(), ttl_seconds=60))
        config = Config(
            node="node-a",
            xds_address=f"https://{stage.address}",
            root_certificate=str(tmp_path / "state" / "root-cert.pem"),
            token=str(tmp_path / "token"),
            run_dir=str(tmp_path),
        )
        held = Mesh()
        heard = asyncio.Event()

        def changed(changes: Changes) -> None:
            held.apply(changes)
            heard.set()

        store = Store(str(tmp_path / "held"), cluster=config.cluster, node=config.node)
        following = asyncio.get_running_loop().create_task(XdsClient(config, store, changed).run())
        while len(held.workloads) < 2 or not held.policies:
            await heard.wait()
            heard.clear()
        stage.publish(mesh.replace("sa/web]", "sa/other]"))
        while "sa/other" not in str(held.policies):
            await heard.wait()
            heard.clear()
        bundle = await CaClient(config).fetch(Identity.parse(WEB))
        assert b"CERTIFICATE" in bundle.chain_pem
        following.cancel()

    play(story)
