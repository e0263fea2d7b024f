# SPDX-License-Identifier: Apache-2.0
"""Records become spans that name both ends and belong together; nobody waits for a collector."""

import threading
from collections.abc import Callable, Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from nodeagent.model.record import ConnectionRecord, Direction, Transport
from nodeagent.telemetry import spans as module
from nodeagent.telemetry.spans import ConnectionSpans

RecordOf = Callable[..., ConnectionRecord]

_TRACE, _SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, NOT_SAMPLED = f"00-{_TRACE}-{_SPAN}-01", f"00-{_TRACE}-{_SPAN}-00"


def made(*records: ConnectionRecord, share: float = 1.0) -> tuple[ReadableSpan, ...]:
    exporter = InMemorySpanExporter()
    numbers = iter(range(1, 1000))
    with ConnectionSpans(
        exporter, node="node-a", version="1.2", share=share, draw=lambda _bits: next(numbers)
    ) as spans:
        for record in records:
            spans.ended(record)
    assert spans.counts() == {"made": len(exporter.get_finished_spans()), "sent": spans.counts()["made"], "failed": 0}
    return exporter.get_finished_spans()


def test_both_sides_of_a_tunnel_are_one_trace(record_of: RecordOf) -> None:
    client, server = made(
        record_of(traceparent=SAMPLED, reason="closed", seconds=2.0, set_up_seconds=0.5),
        record_of(traceparent=SAMPLED, reason="closed", direction=Direction.INBOUND),
    )
    assert client.context is not None
    assert server.context is not None
    assert (f"{client.context.trace_id:032x}", f"{client.context.span_id:016x}") == (_TRACE, _SPAN)
    assert client.parent is None
    assert server.parent is not None
    assert (server.parent.trace_id, server.parent.span_id) == (client.context.trace_id, client.context.span_id)
    assert server.context.trace_id == client.context.trace_id
    assert server.context.span_id != client.context.span_id
    assert (client.kind, server.kind) == (SpanKind.CLIENT, SpanKind.SERVER)
    assert client.start_time is not None
    assert client.end_time is not None
    assert client.end_time - client.start_time == 2_000_000_000
    assert [(event.name, event.timestamp - client.start_time) for event in client.events] == [("open", 500_000_000)]
    assert client.attributes is not None
    assert client.attributes["dst.workload"] == "server-xyz"
    assert client.attributes["src.identity"] == "spiffe://cluster.local/ns/default/sa/client"
    assert client.resource.attributes == {
        "service.name": "nodeagent",
        "service.version": "1.2",
        "k8s.node.name": "node-a",
    }


def test_a_denial_is_an_error_that_names_its_reason(record_of: RecordOf) -> None:
    (span,) = made(record_of(reason="policy_denied", policy="shop/no", direction=Direction.INBOUND))
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "policy_denied")
    assert span.attributes is not None
    assert span.attributes["policy"] == "shop/no"
    assert span.events == ()


@pytest.mark.parametrize(
    ("traceparent", "direction", "share", "spans"),
    [
        pytest.param(SAMPLED, Direction.INBOUND, 0.0, 1, id="the other side samples it"),
        pytest.param(NOT_SAMPLED, Direction.INBOUND, 0.0, 0, id="nobody does"),
        pytest.param(NOT_SAMPLED, Direction.INBOUND, 1.0, 1, id="it is within our share, as of a ztunnel's"),
        pytest.param("rubbish", Direction.INBOUND, 1.0, 1, id="what is no traceparent"),
        pytest.param("", Direction.OUTBOUND, 0.0, 0, id="none, and we sample nothing"),
        pytest.param("", Direction.OUTBOUND, 1.0, 1, id="none: it has not left this node"),
    ],
)
def test_which_are_sampled(
    record_of: RecordOf, traceparent: str, direction: Direction, share: float, spans: int
) -> None:
    record = record_of(traceparent=traceparent, direction=direction, reason="closed", transport=Transport.TCP)
    assert len(made(record, share=share)) == spans


class Stuck(SpanExporter):
    def __init__(self) -> None:
        self.goes_on = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        del spans
        self.goes_on.wait()
        return SpanExportResult.FAILURE

    def shutdown(self) -> None:
        """Nothing is held."""


def test_a_collector_that_hangs_holds_nobody_up(record_of: RecordOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LAST_SECONDS", 0.01)
    exporter = Stuck()
    with ConnectionSpans(exporter, node="node-a", version="1.2", share=1.0) as spans:
        for _ in range(10):
            spans.ended(record_of(reason="closed"))
    assert spans.counts() == {"made": 10, "sent": 0, "failed": 0}
    exporter.goes_on.set()
    for thread in threading.enumerate():
        if thread.name == "last spans":
            thread.join()
    assert spans.counts() == {"made": 10, "sent": 0, "failed": 10}
