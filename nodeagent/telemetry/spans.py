# SPDX-License-Identifier: Apache-2.0
"""Connections as spans of OpenTelemetry, sent to a collector by OTLP over HTTP. Needs the extra `otel`.

Made of records, as metrics and log are, when a connection has ended; their fields are those of the access log. A thread
of the SDK sends them: the agent never waits, and what a collector does not take in time is dropped and counted. The two
sides of a tunnel are linked by the `traceparent` of its CONNECT: the server's span is the child of the client's.
"""

import logging
import random
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from nodeagent.model.record import ConnectionRecord, Direction, Verdict
from nodeagent.model.trace import TraceParent, begin_trace, is_within
from nodeagent.telemetry.access_log import fields_of

MAX_WAITING = 2048
"""Spans, of about 4 KiB each, that wait for the collector: the SDK's own default."""
SEND_SECONDS = 1.0
"""Between two batches."""
LAST_SECONDS = 2.0
"""For the last ones: a collector that hangs must not keep an agent from leaving."""

_log = logging.getLogger(__name__)


class ConnectionSpans:
    """Open from the beginning; leaving the block sends what waits."""

    def __init__(
        self,
        exporter: SpanExporter,
        *,
        node: str,
        version: str,
        share: float,
        draw: Callable[[int], int] = random.getrandbits,
    ) -> None:
        """`share` of the connections, 0 to 1, besides those that the other side has sampled."""
        self._share, self._draw = share, draw
        self._ids, self._exporter = _GivenIds(), _Counted(exporter)
        self._made = 0
        self._provider = TracerProvider(
            sampler=ALWAYS_ON,  # it is decided here, by the record
            resource=Resource({"service.name": "nodeagent", "service.version": version, "k8s.node.name": node}),
            id_generator=self._ids,
            span_limits=SpanLimits(max_span_attributes=64, max_attribute_length=512),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(self._exporter, max_queue_size=MAX_WAITING, schedule_delay_millis=SEND_SECONDS * 1000)
        )
        self._tracer = self._provider.get_tracer("nodeagent", version)

    @classmethod
    def to(cls, endpoint: str, *, node: str, version: str, share: float) -> Self:
        """To the collector at this URL."""
        return cls(OTLPSpanExporter(endpoint=endpoint), node=node, version=version, share=share)

    def counts(self) -> dict[str, int]:
        """Since the start: `made`, `sent`, and `failed` at the collector. The rest waits, or was dropped."""
        return {"made": self._made, "sent": self._exporter.sent, "failed": self._exporter.failed}

    def ended(self, record: ConnectionRecord) -> None:
        told = TraceParent.parse(record.traceparent)
        is_server = record.direction is Direction.INBOUND
        parent = told if is_server else None
        own = told if told is not None and not is_server else begin_trace(self._share, self._draw)
        decisive = told or own
        if not (decisive.is_sampled or is_within(decisive.trace_id, self._share)):
            return
        self._ids.trace_id, self._ids.span_id = own.trace_id, own.span_id
        begin = _nanoseconds(record.started)
        span = self._tracer.start_span(
            f"{record.direction} connection",
            context=_context_of(parent) if parent is not None else Context(),
            kind=trace.SpanKind.SERVER if is_server else trace.SpanKind.CLIENT,
            attributes=dict(fields_of(record)),
            start_time=begin,
        )
        if record.is_established:
            span.add_event("open", timestamp=begin + _nanoseconds(record.set_up_seconds))
        if record.verdict is not Verdict.ALLOWED:
            span.set_status(trace.StatusCode.ERROR, record.reason)
        span.end(begin + _nanoseconds(record.seconds))
        self._made += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        last = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        last.start()
        last.join(LAST_SECONDS)
        if last.is_alive():
            _log.warning("the collector of spans does not answer; the last ones are lost")


def _context_of(parent: TraceParent) -> Context:
    flags = trace.TraceFlags(trace.TraceFlags.SAMPLED)
    remote = trace.SpanContext(parent.trace_id, parent.span_id, is_remote=True, trace_flags=flags)
    return trace.set_span_in_context(trace.NonRecordingSpan(remote), Context())


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)


class _GivenIds(IdGenerator):
    """Those of the next span, which a `traceparent` may have told already."""

    trace_id = span_id = 1

    def generate_trace_id(self) -> int:
        return self.trace_id

    def generate_span_id(self) -> int:
        return self.span_id


class _Counted(SpanExporter):
    """Called by the SDK's thread, which alone writes the counts."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self.sent = self.failed = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        if result is SpanExportResult.SUCCESS:
            self.sent += len(spans)
        else:
            self.failed += len(spans)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)
