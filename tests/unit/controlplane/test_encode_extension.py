# SPDX-License-Identifier: Apache-2.0
"""Extensions on the wire; that the agent reads them as they were is shown by its decoder's tests."""

from nodeagent.controlplane.encode_extension import encode_extension
from nodeagent.model.address import Cidr
from nodeagent.model.traffic import Destination, ServiceTraffic, TcpMatch, TcpRoute, WorkloadLabels
from nodeagent.proto import extension_pb2 as pb


def test_blocks_are_of_their_own_family() -> None:
    match = TcpMatch(destination_blocks=(Cidr.parse("10.1.0.0/16"), Cidr.parse("fd00::/8")))
    route = TcpRoute((Destination(service="shop/db", weight=1),), (match,))
    message = pb.Extension.FromString(encode_extension(ServiceTraffic(service="shop/db", routes=(route,))).value)
    (written,) = message.service.tcp_routes[0].matches
    assert [(len(block.address), block.length) for block in written.destination_blocks] == [(4, 16), (16, 8)]


def test_a_version_is_that_of_the_content() -> None:
    one, same, other = (
        encode_extension(WorkloadLabels(uid="a", labels=labels))
        for labels in ({"x": "1", "y": "2"}, {"y": "2", "x": "1"}, {"x": "2"})
    )
    assert one == same
    assert one.name == other.name
    assert one.version != other.version
