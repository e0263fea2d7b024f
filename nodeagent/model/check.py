# SPDX-License-Identifier: Apache-2.0
"""What `nodeagent check` looks at, each with the name that people read and the id that scripts and links hold on to."""

import enum
import re

PAGE = "docs/checks.md"


class Check(enum.StrEnum):
    """Of the machine, and of what its agent trusts; what an agent tells of itself are its components."""

    KERNEL = "kernel"
    CAPABILITIES = "capabilities"
    WORKERS_CAPABILITIES = "for workers"
    BPFFS = "bpffs"
    CLSACT = "clsact"
    SOCKET_ASSIGNMENT = "bpf_sk_assign"
    BCC = "bcc"
    PODS_CGROUP = "pods' cgroup"
    MEMORY_LOCK = "memlock"
    UNPRIVILEGED = "unprivileged"
    NETNS_FOLDER = "pods' netns"
    PORTS = "ports"
    OTHER_MESHES = "other meshes"
    CNI = "cni"
    TCX = "tcx"
    RING_BUFFER = "ring buffer"
    MAP_BATCHES = "map batches"
    SOCK_DESTROY = "sock destroy"
    NETNS_COOKIE = "netns cookie"
    REPORT_COOKIE = "report cookie"
    CONNECT = "connect"
    RUN_STATISTICS = "run statistics"
    KERNEL_TLS = "ktls"
    TOKEN = "token"  # noqa: S105 - a name
    PROGRAMS = "programs"
    NETKIT = "netkit"
    MARKS = "marks"
    FORWARDING = "forwarding"
    PINS = "pins"
    CROSSING = "crossing"
    GUARDS = "guards"
    CONFLICTS = "conflicts"
    ROOTS = "roots"
    CLOCK = "clock"


def check_id(name: str) -> str:
    """Of a check of the machine, as a heading's anchor: `pods-cgroup`."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower().replace("'", "")).strip("-")


def component_id(name: str) -> str:
    """Of a component of the agent, which may be called as a check of the machine is: `agent-kernel`."""
    return f"agent-{check_id(name)}"
