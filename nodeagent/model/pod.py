# SPDX-License-Identifier: Apache-2.0
"""A pod of this node that may be enrolled, as the file of `--pods` or Kubernetes names it."""

import enum
from typing import Self

import msgspec


class LocalPod(msgspec.Struct, frozen=True, order=True):
    namespace: str
    name: str
    netns: str
    """Path of its network namespace, such as /run/netns/<name>."""
    uid: str = ""
    """Kubernetes' own name for it, which no other pod ever has; empty where nobody gives one."""


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
    NOT_LABELLED = "NOT_LABELLED", "Neither its labels nor its namespace's enrol it; nothing is wrong."
    OPTED_OUT = "OPTED_OUT", "Its own label leaves it out; nothing is wrong."
    EXCLUDED_NS = "EXCLUDED_NS", "Its namespace is one of --exclude-namespaces."
    SIDECAR = "SIDECAR", "It has a sidecar, so it is in the mesh by that."
    NAMESPACE_UNKNOWN = "NAMESPACE_UNKNOWN", "The Kubernetes API has not told of its namespace yet, which decides."
    ENDED = "ENDED", "Its containers have ended."
    TERMINATING = "TERMINATING", "It is being deleted, and had no network namespace that was known here."
    UNKNOWN_WORKLOAD = "UNKNOWN_WORKLOAD", "The control plane has not told of it; is `nodeagent status` well, for xds?"
    NO_ADDRESS = "NO_ADDRESS", "It has no address yet."
    NO_NETNS = "NO_NETNS", "Nobody has named its network namespace, or it cannot be entered; see --pods-file."
    ADDRESS_CONTESTED = (
        "ADDRESS_CONTESTED",
        "Another pod or namespace has its address; one of them should be going.",
    )
    ADDRESS_DIFFERS = (
        "ADDRESS_DIFFERS",
        "The control plane tells of a former pod of this name, at another address.",
    )
    NO_DEVICE = "NO_DEVICE", "No device of the node leads into its network namespace."
    UNSUPPORTED_DEVICE = "UNSUPPORTED_DEVICE", "The device that leads into its network namespace is no veth."
    PENDING = "PENDING", "Its turn has not come yet; a moment later it should have."
    MAP_FULL = "MAP_FULL", "A map of the kernel has no place for it; the log names it."
    ATTACH_FAILED = "ATTACH_FAILED", "The kernel refused the programs on its device; the log says why."
    EGRESS_SKIPPED = "EGRESS_SKIPPED", "Packets reach it past to_pod: `nodeagent bpf attach` shows who runs before it."
