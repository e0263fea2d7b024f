# SPDX-License-Identifier: Apache-2.0
"""Offloads and MTUs of devices, in the calling thread's network namespace, and as they were at the end of the block."""

import array
import contextlib
import fcntl
import socket
import struct
from collections.abc import Iterator, Mapping

_SIOCETHTOOL, _SIOCGIFMTU, _SIOCSIFMTU = 0x8946, 0x8921, 0x8922
_GET_AND_SET = {"tx": (0x16, 0x17), "tso": (0x1E, 0x1F), "gso": (0x23, 0x24), "gro": (0x2B, 0x2C)}
"""ETHTOOL_GTXCSUM and ETHTOOL_STXCSUM, and so on. Those that need another come after it."""


def read_offloads(device: str) -> dict[str, bool]:
    with _any_socket() as handle:
        return {name: bool(_ethtool(handle, device, get, 0)) for name, (get, _) in _GET_AND_SET.items()}


def set_offloads(device: str, values: Mapping[str, bool]) -> None:
    with _any_socket() as handle:
        for name, (_, set_) in _GET_AND_SET.items():
            if name in values:
                _ethtool(handle, device, set_, int(values[name]))
    found = read_offloads(device)
    assert {name: found[name] for name in values} == dict(values), f"{device} has {found}"


def read_mtu(device: str) -> int:
    with _any_socket() as handle:
        answer = fcntl.ioctl(handle, _SIOCGIFMTU, struct.pack("16s16x", device.encode()))
        return int(struct.unpack_from("i", answer, 16)[0])


def set_mtu(device: str, mtu: int) -> int:
    """The former one."""
    former = read_mtu(device)
    with _any_socket() as handle:
        fcntl.ioctl(handle, _SIOCSIFMTU, struct.pack("16si12x", device.encode(), mtu))
    return former


def _ethtool(handle: socket.socket, device: str, command: int, value: int) -> int:
    words = array.array("I", (command, value))
    request = bytearray(struct.pack("16sP16x", device.encode(), words.buffer_info()[0]))
    fcntl.ioctl(handle, _SIOCETHTOOL, request)
    return words[1]


@contextlib.contextmanager
def _any_socket() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        yield handle
