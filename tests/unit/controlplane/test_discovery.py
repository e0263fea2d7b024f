# SPDX-License-Identifier: Apache-2.0
"""Streams: what agents are told over them, who is refused one, and how they end."""

import asyncio
import logging

import grpc
import grpc.aio
import pytest

from nodeagent.controlplane.encode import Resource
from nodeagent.controlplane.snapshot import ADDRESS, AUTHORIZATION, Snapshot
from nodeagent.controlplane.token import make_key
from nodeagent.proto import xds_pb2
from tests.logged import logged
from tests.unit.controlplane.served import (
    Play,
    Running,
    bearer,
    first_request,
    names,
    read_response,
    told,
)


def test_a_change_reaches_a_subscribed_agent(play: Play, mesh: str) -> None:
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


def test_a_resumed_agent_is_sent_what_changed_while_it_was_away(play: Play, mesh: str) -> None:
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
    play: Play, mesh: str, caplog: pytest.LogCaptureFixture
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
    play: Play,
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
def test_a_stream_needs_a_node(play: Play, node_id: str) -> None:
    async def story(stage: Running) -> None:
        request = first_request()
        request.node.id = node_id
        call = stage.stream(bearer())
        await call.write(request)
        assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT

    play(story)


def test_a_slow_client_delays_nobody(play: Play, mesh: str) -> None:
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


def test_a_stream_ends_behind_the_message_that_is_on_its_way(play: Play, caplog: pytest.LogCaptureFixture) -> None:
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


def test_a_stream_that_is_cut_is_forgotten(play: Play, caplog: pytest.LogCaptureFixture) -> None:
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
