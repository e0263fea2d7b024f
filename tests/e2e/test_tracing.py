# SPDX-License-Identifier: Apache-2.0
"""Spans of both sides of a tunnel arrive at a collector on each node's loopback, and belong together."""

import contextlib
import http.server
import socket
import threading
from collections.abc import Iterator

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from nodeagent.lab.demo import program
from nodeagent.lab.demo.claims import eventually
from nodeagent.lab.demo.client import Fate, ask, fate
from nodeagent.lab.demo.stage import NODES, PORT, Stage, running

pytestmark = [pytest.mark.e2e, pytest.mark.any_kernel]

WITHIN_SECONDS = 120.0


class Collector:
    """OTLP over HTTP, on a listener that belongs to a namespace. What came is kept with the node that it names."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Span]] = []

    @contextlib.contextmanager
    def serving(self, listener: socket.socket) -> Iterator[None]:
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.received(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_words: object) -> None:
                """Tests are quiet."""

        with http.server.ThreadingHTTPServer(("", 0), Handler, bind_and_activate=False) as server:
            server.socket.close()
            server.socket = listener
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            try:
                yield
            finally:
                server.shutdown()
                thread.join()

    def received(self, request: ExportTraceServiceRequest) -> None:
        for group in request.resource_spans:
            names = {one.key: one.value.string_value for one in group.resource.attributes}
            assert names["service.name"] == "nodeagent"
            for scope in group.scope_spans:
                self.spans += [(names["k8s.node.name"], span) for span in scope.spans]

    def between(self, source: str, destination: str) -> list[tuple[str, Span]]:
        def value(span: Span, key: str) -> str:
            return next((one.value.string_value for one in span.attributes if one.key == key), "")

        return [
            (node, span)
            for node, span in tuple(self.spans)
            if (value(span, "src.workload"), value(span, "dst.workload")) == (source, destination)
        ]


@pytest.fixture(scope="module")
def collector() -> Collector:
    return Collector()


@pytest.fixture(scope="module")
def stage(collector: Collector) -> Iterator[Stage]:
    with running() as stage, contextlib.ExitStack() as serving:
        stage.prepare()
        stage.invite()  # db denies backoffice
        stage.start_control_plane()
        for node in NODES:
            listener = stage.lab.nodes[node].listen(0)
            serving.enter_context(collector.serving(listener))
            url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1/traces"
            stage.start_agent(node, trace_endpoint=url, trace_sampling="1")
        yield stage


def test_both_sides_of_a_tunnel_are_one_trace(stage: Stage, collector: Collector) -> None:
    for _ in range(3):
        assert ask(stage.pod("web"), stage.pod("db").ipv4, PORT, "WHO")
    eventually(lambda: len(collector.between("web", "db")) >= 6, WITHIN_SECONDS, "spans of both sides come")

    found = collector.between("web", "db")
    clients = {span.span_id: span for node, span in found if node == "node-a"}
    servers = [span for node, span in found if node == "node-b"]
    assert (len(clients), len(servers)) == (3, 3)
    assert {span.kind for span in clients.values()} == {Span.SPAN_KIND_CLIENT}
    assert {span.kind for span in servers} == {Span.SPAN_KIND_SERVER}
    assert {span.parent_span_id for span in servers} == set(clients)
    for server in servers:
        client = clients[server.parent_span_id]
        assert server.trace_id == client.trace_id
        assert [event.name for event in client.events] == ["open"]
        assert client.start_time_unix_nano <= client.events[0].time_unix_nano <= client.end_time_unix_nano
    assert len({span.trace_id for span in servers}) == 3


def test_a_denial_is_an_error_at_both_sides(stage: Stage, collector: Collector) -> None:
    assert fate(stage.pod("batch"), stage.pod("db").ipv4, PORT) is Fate.REFUSED
    eventually(lambda: len(collector.between("batch", "db")) >= 2, WITHIN_SECONDS, "spans of both sides come")
    told = {node: span.status.message for node, span in collector.between("batch", "db")}
    assert told == {"node-a": "hbone_denied", "node-b": "policy_denied"}


def test_what_stays_on_its_node_is_traced_too(stage: Stage, collector: Collector) -> None:
    with program.connected(stage.pod("web"), stage.pod("api").ipv4, PORT, "WHO") as made:
        assert made.received
    eventually(lambda: bool(collector.between("web", "api")), WITHIN_SECONDS, "the span comes")
    ((node, span),) = collector.between("web", "api")
    assert node == "node-a"
    assert span.parent_span_id == b""
    assert next(one.value.string_value for one in span.attributes if one.key == "path") == "kernel"
