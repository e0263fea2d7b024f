# SPDX-License-Identifier: Apache-2.0
"""Vectors about connections that pass directly between two pods of the node: what is allowed, and who intrudes.

The table of verdicts lets a to b's port 7000, and b to a's port 7100.
"""

from collections.abc import Mapping

from tests.kernel.no_way_around.frames import ACK, DESTINATION_OPTIONS, FIN, PADDING_OPTIONS, RST, SYN, VLAN, Frame
from tests.kernel.no_way_around.vector import (
    ALLOWED_PORT,
    BACK_PORT,
    IGNORED,
    INBOUND,
    IPV4_ONLY,
    IPV6_ONLY,
    LOCAL_STEERED,
    PROXY,
    RESET,
    Answer,
    Cast,
    Make,
    Place,
    Sender,
    Table,
    Vector,
    Way,
    sends,
)

_ALLOWED = "the table of verdicts allows it"
_OWN_CONNECTION = "a connection that the table of verdicts allows"
_A: frozenset[Place] = frozenset({"a"})
_B: frozenset[Place] = frozenset({"b"})
_OPENED = {"LOCAL_ALLOWED": 1, "LOCAL_DELIVERED": 1}
_RESTORED = {"FLOW_RESTORED": 1, "LOCAL_DELIVERED": 1}
_FORGOTTEN = "the table of verdicts allows such a connection, and the table of flows may have forgotten it"
_FLOWS = {"LOCAL_FLOW": 1, "LOCAL_DELIVERED": 1}


def _to_b(flags: int = SYN, source: str = "", **twists: object) -> Make:
    return sends(flags, "neighbour", source, **{"destination_port": ALLOWED_PORT, **twists})


def _back(flags: int, **twists: object) -> Make:
    """From b to a, in the connection that a has opened."""

    def make(cast: Cast) -> Frame:
        given = {"source_port": ALLOWED_PORT, "destination_port": cast.port, **twists}
        return cast.frame(flags, cast.pod, source=cast.neighbour, **given)

    return make


_OPEN: tuple[tuple[Sender, Make], ...] = (("a", _to_b()),)


def _running(
    name: str,
    make: Make,
    counts: Mapping[str, int],
    arrives: frozenset[Place],
    answer: Answer = "",
    sender: Sender = "a",
    documented: str = "",
) -> Vector:
    return Vector(name, make, counts, arrives, answer, sender, documented=documented, before=_OPEN)


DIRECT = Table(
    "Direct connections",
    (
        Vector("SYN to the port that is allowed", _to_b(), _OPENED, _B, documented=_ALLOWED),
        Vector("SYN to the next port", _to_b(destination_port=7001), LOCAL_STEERED, PROXY, "SYN-ACK"),
        Vector("SYN to port 0, which is no port", _to_b(destination_port=0), LOCAL_STEERED, PROXY, "SYN-ACK"),
        Vector(
            "SYN to 15008, which the table closes",
            sends(SYN, "pod", destination_port=15008),
            LOCAL_STEERED,
            PROXY,
            "SYN-ACK",
            sender="b",
        ),
        Vector("SYN and FIN to the port that is allowed", _to_b(SYN | FIN), IGNORED, PROXY),
        Vector("data without a SYN to the port that is allowed", _to_b(ACK), _RESTORED, _B, documented=_FORGOTTEN),
        Vector(
            "data without a SYN from the port that is allowed",
            _back(ACK),
            _RESTORED,
            _A,
            sender="b",
            documented=_FORGOTTEN,
        ),
        Vector(
            "data without a SYN, the other way round",
            sends(ACK, "neighbour", source_port=ALLOWED_PORT),
            RESET,
            PROXY,
            "reset",
        ),
        Vector(
            "SYN-ACK from the port that is allowed",
            _back(SYN | ACK),
            _RESTORED,
            _A,
            sender="b",
            documented=_FORGOTTEN,
        ),
        Vector("SYN with options", _to_b(options=bytes((1,) * 4)), {"IP_OPTIONS": 1}, families=IPV4_ONLY),
        Vector(
            "SYN with extension headers",
            _to_b(extensions=((DESTINATION_OPTIONS, PADDING_OPTIONS),)),
            {"EXTENSION_HEADERS": 1},
            families=IPV6_ONLY,
        ),
        Vector("SYN with two VLAN tags", _to_b(tags=((VLAN, 0), (VLAN, 0))), {"TAGGED_TWICE": 1}),
        Vector("SYN as the pod that is allowed", _to_b(source="pod"), {"SPOOFED_SOURCE": 1}, sender="b"),
        _running("data", _to_b(ACK), _FLOWS, _B, documented=_OWN_CONNECTION),
        _running("SYN-ACK of the other end", _back(SYN | ACK), _FLOWS, _A, sender="b", documented=_OWN_CONNECTION),
        _running("SYN and FIN within it", _to_b(SYN | FIN), _FLOWS, _B, documented=_OWN_CONNECTION),
        _running("data from another port", _to_b(ACK, source_port=6), _RESTORED, _B, documented=_FORGOTTEN),
        _running("data to another port", _to_b(ACK, destination_port=7001), RESET, PROXY, "reset"),
        _running("a SYN of the other end, within it", _back(SYN), LOCAL_STEERED, PROXY, "SYN-ACK", "b"),
        _running("data to another pod", sends(ACK, "remote", destination_port=ALLOWED_PORT), RESET, PROXY, "reset"),
        Vector(
            "a SYN against a connection, in the direction that is not allowed",
            sends(SYN, "neighbour", source_port=BACK_PORT),
            LOCAL_STEERED,
            PROXY,
            "SYN-ACK",
            before=(("b", sends(SYN, "pod", source_port=80, destination_port=BACK_PORT)),),
        ),
    ),
)


def _intruder(
    name: str,
    make: Make,
    counts: Mapping[str, int],
    arrives: frozenset[Place] = frozenset(),
    sender: Sender = "x",
    documented: str = "",
    by: Way = Way(),  # noqa: B008 - frozen
) -> Vector:
    return Vector(name, make, counts, arrives, sender=sender, documented=documented, by=by, before=_OPEN)


INTRUDERS = Table(
    "Intruders in a direct connection",
    (
        _intruder("a stranger's data, as the client", _to_b(ACK, "pod"), {"FORGED_FLOW": 1}),
        _intruder("a stranger's reset, as the client", _to_b(RST, "pod"), {"FORGED_FLOW": 1}),
        _intruder("a stranger's end, as the client", _to_b(FIN | ACK, "pod"), {"FORGED_FLOW": 1}),
        _intruder("a stranger's data, as the server", _back(ACK), {"FORGED_FLOW": 1}),
        _intruder("a stranger's reset, as the server", _back(RST), {"FORGED_FLOW": 1}),
        _intruder("data from the wire, as the client", _to_b(ACK, "pod"), {"FORGED_FLOW": 1}, sender="wire"),
        _intruder(
            "a stranger's data, as the client and marked LOCAL",
            _to_b(ACK, "pod"),
            {"FORGED_FLOW": 1},
            by=Way(mark=0x1002),
        ),
        _intruder(
            "a stranger's SYN, as the client: the answer goes to that one",
            _to_b(SYN, "pod"),
            {**INBOUND, "FORGED_FLOW": 1},
            PROXY,
        ),
    ),
)
