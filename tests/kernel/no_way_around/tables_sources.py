# SPDX-License-Identifier: Apache-2.0
"""Vectors about who a pod says it is: source addresses, marks, and sockets that let it choose."""

from tests.kernel.no_way_around.frames import ACK, RST, SYN
from tests.kernel.no_way_around.vector import (
    INBOUND,
    IPV4_ONLY,
    IPV6_ONLY,
    LOCAL_STEERED,
    PROXY,
    RESET,
    STEERED,
    Table,
    Vector,
    Way,
    sends,
)

_SPOOFED = {"SPOOFED_SOURCE": 1}

SOURCES = Table(
    "Sources that are not the pod's",
    (
        Vector("SYN as another enrolled pod, to the mesh", sends(SYN, "remote", "neighbour"), _SPOOFED),
        Vector("SYN as another enrolled pod, to that pod itself", sends(SYN, "neighbour", "neighbour"), _SPOOFED),
        Vector("SYN as another enrolled pod, to an unknown address", sends(SYN, "outside", "neighbour"), _SPOOFED),
        Vector("SYN as another enrolled pod, to the node", sends(SYN, "node", "neighbour"), _SPOOFED),
        Vector("SYN as another enrolled pod, to an excluded address", sends(SYN, "excluded", "neighbour"), _SPOOFED),
        Vector("SYN as a pod outside the mesh", sends(SYN, "remote", "stranger"), _SPOOFED),
        Vector("SYN as a pod of another node", sends(SYN, "neighbour", "remote"), _SPOOFED),
        Vector("SYN as the node, which is not captured", sends(SYN, "neighbour", "node"), _SPOOFED),
        Vector("SYN as the gateway", sends(SYN, "neighbour", "gateway"), _SPOOFED),
        Vector("SYN as anybody", sends(SYN, "remote", "random"), _SPOOFED),
        Vector("SYN as a multicast group", sends(SYN, "remote", "multicast"), _SPOOFED),
        Vector("SYN as the loopback address", sends(SYN, "neighbour", "loopback"), _SPOOFED),
        Vector("SYN as nobody", sends(SYN, "neighbour", "unspecified"), _SPOOFED),
        Vector("SYN from a link-local address", sends(SYN, "gateway", "link-local"), _SPOOFED),
        Vector("SYN as everybody", sends(SYN, "remote", "255.255.255.255"), _SPOOFED, families=IPV4_ONLY),
        Vector("SYN-ACK as another enrolled pod", sends(SYN | ACK, "remote", "neighbour"), _SPOOFED),
        Vector("data as another enrolled pod", sends(ACK, "remote", "neighbour"), _SPOOFED),
        Vector("data as the peer, to a pod of this node", sends(ACK, "neighbour", "remote"), _SPOOFED),
        Vector("reset as another enrolled pod", sends(RST, "remote", "neighbour"), _SPOOFED),
        Vector("data as the node, to a pod of this node", sends(ACK, "neighbour", "node"), _SPOOFED),
    ),
)

_MAPPED = {"MAPPED_ADDRESS": 1}

MAPPED = Table(
    "IPv4-mapped addresses in IPv6 packets",
    (
        Vector("from the pod's own, mapped", sends(SYN, "remote", "::ffff:10.99.1.2"), _MAPPED, families=IPV6_ONLY),
        Vector("from another pod's, mapped", sends(SYN, "remote", "::ffff:10.99.1.3"), _MAPPED, families=IPV6_ONLY),
        Vector(
            "from mapped to mapped, as if it were IPv4",
            sends(SYN, "::ffff:10.99.1.3", "::ffff:10.99.1.2"),
            _MAPPED,
            families=IPV6_ONLY,
        ),
        Vector("to a mesh address, mapped", sends(SYN, "::ffff:10.99.2.2"), _MAPPED, families=IPV6_ONLY),
        Vector("to an unknown address, mapped", sends(SYN, "::ffff:203.0.113.9"), _MAPPED, families=IPV6_ONLY),
        Vector("data to a mesh address, mapped", sends(ACK, "::ffff:10.99.2.2"), _MAPPED, families=IPV6_ONLY),
        Vector(
            "to a mesh address, IPv4-compatible: unknown to the mesh, and to every route",
            sends(SYN, "::10.99.2.2"),
            {"UNKNOWN_DESTINATION": 1},
            frozenset({"wire"}),
            families=IPV6_ONLY,
            documented="an address that the mesh does not know",
        ),
    ),
)


def _marked(mark: int) -> tuple[Vector, ...]:
    by = Way(mark=mark)
    return (
        Vector(f"SYN with mark {mark:#x}", sends(SYN, "remote"), STEERED, PROXY, "SYN-ACK", by=by),
        Vector(
            f"SYN to a local pod with mark {mark:#x}", sends(SYN, "neighbour"), LOCAL_STEERED, PROXY, "SYN-ACK", by=by
        ),
        Vector(f"data to a local pod with mark {mark:#x}", sends(ACK, "neighbour"), RESET, PROXY, "reset", by=by),
        Vector(f"SYN as another pod with mark {mark:#x}", sends(SYN, "remote", "neighbour"), _SPOOFED, by=by),
        Vector(
            f"a stranger's SYN with mark {mark:#x}",
            sends(SYN, "pod"),
            INBOUND,
            PROXY,
            "SYN-ACK",
            sender="x",
            by=by,
        ),
    )


MARKS = Table(
    "Marks: ours (0x1001 OUT, 0x1002 LOCAL, 0x1003 PROXY, 0x1005 OUT_NEW), kube-proxy's and all bits",
    tuple(vector for mark in (0x1001, 0x1002, 0x1003, 0x1005, 0x4000, 0xFFFFFFFF) for vector in _marked(mark)),
)

SOCKETS = Table(
    "Raw sockets and SO_BINDTODEVICE",
    (
        Vector("SYN by IPPROTO_RAW", sends(SYN, "remote"), STEERED, PROXY, "SYN-ACK", by=Way("ip")),
        Vector("SYN as another pod by IPPROTO_RAW", sends(SYN, "remote", "neighbour"), _SPOOFED, by=Way("ip")),
        Vector(
            "the same, bound to eth0", sends(SYN, "neighbour", "remote"), _SPOOFED, by=Way("ip", bind_to_device="eth0")
        ),
        Vector(
            "SYN bound to eth0, marked as the proxy's",
            sends(SYN, "remote"),
            STEERED,
            PROXY,
            "SYN-ACK",
            by=Way("ip", mark=0x1003, bind_to_device="eth0"),
        ),
        Vector("data by IPPROTO_RAW", sends(ACK, "neighbour"), RESET, PROXY, "reset", by=Way("ip")),
    ),
)
