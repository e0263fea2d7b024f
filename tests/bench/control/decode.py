# SPDX-License-Identifier: Apache-2.0
"""What it costs an agent to read a whole mesh: CPU of this process, over what a control plane sends to a new agent."""

import time

from nodeagent.controlplane.catalog import Catalog, Content, admit
from nodeagent.controlplane.delta import DeltaStream
from nodeagent.controlplane.snapshot import ADDRESS, AUTHORIZATION, Snapshot, advance
from nodeagent.controlplane.translate import translate
from nodeagent.proto import xds_pb2
from nodeagent.xds.decode import read_response
from tests.bench.control import large_mesh
from tests.bench.control.measure import text

_TIMES = 3


def decode_seconds(workloads: int) -> float:
    """The least of some times: what disturbs only adds."""
    messages = _messages(workloads)
    return min(_once(messages) for _ in range(_TIMES))


def _once(messages: list[bytes]) -> float:
    began = time.process_time()
    for message in messages:
        answer = read_response(xds_pb2.DeltaDiscoveryResponse.FromString(message))
        assert answer is not None
        assert not answer.rejected
    return time.process_time() - began


def _messages(workloads: int) -> list[bytes]:
    contents = {name: Content(name, text(objects)) for name, objects in large_mesh.files(workloads)}
    snapshot, _ = advance(Snapshot(), translate(admit(Catalog(), contents).values))
    stream = DeltaStream("far-000")
    for type_url in (ADDRESS, AUTHORIZATION):
        stream.received(xds_pb2.DeltaDiscoveryRequest(type_url=type_url))
    return [response.SerializeToString() for response in stream.due(snapshot, 0.0)]
