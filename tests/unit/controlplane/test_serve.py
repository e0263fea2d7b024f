# SPDX-License-Identifier: Apache-2.0
"""The port that both services share: where it listens, whom it serves by which root, its limits, its secrets."""

import asyncio
import contextlib
import dataclasses
import datetime as dt
import logging
import socket
import time
from pathlib import Path

import grpc
import grpc.aio
import pytest
from cryptography import x509

from nodeagent.certs.client import CaClient
from nodeagent.config import Config
from nodeagent.controlplane import discovery, quota, rotation, subscription
from nodeagent.controlplane.authority import open_authority
from nodeagent.controlplane.ca import (
    pem,
)
from nodeagent.controlplane.clients import MAX_CLIENTS_OF_NODE, show_clients
from nodeagent.controlplane.gate import Gate
from nodeagent.controlplane.publisher import Publisher
from nodeagent.controlplane.serve import Server
from nodeagent.controlplane.state import StateDirectory
from nodeagent.controlplane.token import make_key, make_token
from nodeagent.errors import ConfigError, PortInUse
from nodeagent.model.identity import Identity
from nodeagent.model.mesh import Changes, Mesh
from nodeagent.xds.client import XdsClient
from nodeagent.xds.store import Store
from tests.unit.controlplane.served import (
    KEY,
    WEB,
    Play,
    Running,
    bearer,
    first_request,
    names,
    read_response,
    refusal,
    told,
)

JWT_BEGINS = "eyJhbGciOiJ"
"""Each JWT does, and no certificate does by chance, as it has the first three of these letters now and then."""


def test_our_own_agents_clients_are_served(play: Play, mesh: str, tmp_path: Path) -> None:
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


def test_a_stop_tells_the_clients(play: Play, caplog: pytest.LogCaptureFixture) -> None:
    async def story(stage: Running) -> None:
        call = stage.stream(bearer())
        await call.write(first_request())
        await read_response(call)
        await stage.server.stop()
        assert await refusal(call) == (grpc.StatusCode.UNAVAILABLE, "the control plane is stopping")

    with caplog.at_level(logging.ERROR):
        play(story)
    assert told(caplog) == []


def test_the_newest_of_too_many_streams_of_a_node_wins(play: Play) -> None:
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


def test_beyond_the_limit_of_all_newcomers_are_refused(play: Play) -> None:
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


def test_a_stream_that_asks_for_too_much_is_ended(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscription, "MAX_NAMES", 10)

    async def story(stage: Running) -> None:
        call = stage.stream(bearer())
        request = first_request()
        request.resource_names_subscribe.extend(map(str, range(11)))
        await call.write(request)
        code, words = await refusal(call)
        assert (code, "more than 10 resources" in words) == (grpc.StatusCode.RESOURCE_EXHAUSTED, True)

    play(story)


def test_a_stream_without_a_request_is_ended(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "FIRST_REQUEST_SECONDS", 0.05)

    async def story(stage: Running) -> None:
        assert await refusal(stage.stream(bearer())) == (grpc.StatusCode.DEADLINE_EXCEEDED, "no request came")
        assert stage.server.clients.count == 0

    play(story)


def test_a_request_that_is_too_large_is_refused_by_grpc(play: Play) -> None:
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


def test_a_node_that_asks_too_often_is_refused(
    play: Play, csr: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
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


def test_another_root_serves_and_signs_while_open_streams_go_on(
    play: Play, mesh: str, csr: str, state: StateDirectory
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


def test_no_log_and_no_answer_has_a_key_or_a_token(
    play: Play, csr: str, state: StateDirectory, caplog: pytest.LogCaptureFixture
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
