# SPDX-License-Identifier: Apache-2.0
"""A pod of this node that may be enrolled, as the file of `--pods` or, later, the CNI names it."""

import enum
from typing import Self

import msgspec


class LocalPod(msgspec.Struct, frozen=True, order=True):
    namespace: str
    name: str
    netns: str
    """Path of its network namespace, such as /run/netns/<name>."""


class CaptureReason(enum.StrEnum):
    """Why a pod of this node is not captured, or not wholly: the one list of these words, in `nodeagent pods`."""

    check: str
    """What to look at."""

    def __new__(cls, word: str, check: str) -> Self:
        made = str.__new__(cls, word)
        made._value_, made.check = word, check
        return made

    NOT_IN_MESH = "NOT_IN_MESH", "Neither it nor its namespace is enrolled; nothing is wrong."
    HOST_NETWORK = "HOST_NETWORK", "It has the node's own network, which is never captured."
    UNKNOWN_WORKLOAD = "UNKNOWN_WORKLOAD", "The control plane has not told of it; is `nodeagent status` well, for xds?"
    NO_ADDRESS = "NO_ADDRESS", "It has no address yet."
    NO_NETNS = "NO_NETNS", "Nobody has named its network namespace, or it cannot be entered; see --pods-file."
    NO_DEVICE = "NO_DEVICE", "No device of the node leads into its network namespace."
    UNSUPPORTED_DEVICE = "UNSUPPORTED_DEVICE", "The device that leads into its network namespace is no veth."
    PENDING = "PENDING", "Its turn has not come yet; a moment later it should have."
    MAP_FULL = "MAP_FULL", "A map of the kernel has no place for it; the log names it."
    ATTACH_FAILED = "ATTACH_FAILED", "The kernel refused the programs on its device; the log says why."
    EGRESS_SKIPPED = "EGRESS_SKIPPED", "Packets reach it past to_pod: `nodeagent bpf attach` shows who runs before it."
