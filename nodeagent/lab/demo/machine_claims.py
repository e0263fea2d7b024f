# SPDX-License-Identifier: Apache-2.0
"""Claims about the machine: nothing forged gets in, nothing of ours is where it does not belong."""

import socket
import struct
from pathlib import Path

from nodeagent.lab.demo.claims import demand, eventually
from nodeagent.lab.demo.client import ask
from nodeagent.lab.demo.stage import PORT, Stage

FORGED = 5


def spoofing_dropped(stage: Stage) -> str:
    """A packet with another pod's source address is dropped and counted by name."""
    web, api, db, told = stage.pod("web"), stage.pod("api"), stage.pod("db"), []
    for index, family in enumerate((socket.AF_INET, socket.AF_INET6)):
        forged, target = api.ips[index], db.ips[index]
        before = stage.packets("node-a").get("SPOOFED_SOURCE", 0)
        _send_forged(stage, family, forged, target)
        wanted = before + FORGED

        def counted(wanted: int = wanted) -> bool:
            return stage.packets("node-a").get("SPOOFED_SOURCE", 0) >= wanted

        eventually(counted, 3, f"SPOOFED_SOURCE of node-a rose by {FORGED} for {forged}")
        told.append(f"{forged} forged by web: SPOOFED_SOURCE +{stage.packets('node-a')['SPOOFED_SOURCE'] - before}")
    demand(ask(web, db.ips[0], PORT, "WHO"), "web's own traffic was harmed")
    return "; ".join(told)


def _send_forged(stage: Stage, family: int, source: str, target: str) -> None:
    """SYNs built by hand, sent by a raw socket of the pod with all its capabilities."""
    packet_type = 0x0800 if family == socket.AF_INET else 0x86DD
    with stage.pod("web").socket(socket.AF_PACKET, socket.SOCK_DGRAM) as raw:
        addresses = socket.inet_pton(family, source), socket.inet_pton(family, target)
        for number in range(FORGED):
            segment = struct.pack("!HHIIBBHHH", 40000 + number, PORT, 1, 0, 5 << 4, 2, 65535, 0, 0)
            if family == socket.AF_INET:
                header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 40, 1, 0, 64, 6, 0, *addresses)
                header = header[:10] + struct.pack("!H", _checksum(header)) + header[12:]
            else:
                header = struct.pack("!IHBB16s16s", 6 << 28, 20, 6, 64, *addresses)
            raw.sendto(header + segment, ("eth0", packet_type, 0, 0, stage.gateway_mac("web")))


def _checksum(header: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(header) // 2}H", header))
    while total >> 16:
        total = (total >> 16) + (total & 0xFFFF)
    return 0xFFFF - total


def node_untouched(stage: Stage) -> str:
    """The node's namespace holds no firewall rule, ip rule, route or changed sysctl of ours while all this runs."""
    for node in ("node-a", "node-b"):
        differences = stage.node_differences(node)
        demand(not differences, f"{node}: {'; '.join(differences[:5])}")
    return "node-a and node-b: firewall, ip rules, routes and sysctls as before the agents came; one device more (na0)"


def worker_confined(stage: Stage) -> str:
    """A worker has no capability and no way into the node's namespace."""
    told = []
    for node in ("node-a", "node-b"):
        for pid in stage.worker_pids(node):
            status = _status(pid)
            for field in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
                demand(int(status[field], 16) == 0, f"worker {pid}: {field} is {status[field]}")
            demand(status["NoNewPrivs"] == "1", f"worker {pid} could gain privileges by exec")
            uids = set(status["Uid"].split())
            demand("0" not in uids, f"worker {pid} has uid {uids}")
            own = Path(f"/proc/{pid}/ns/net").stat().st_ino
            demand(own != stage.node_netns_inode(node), f"worker {pid} is in the node's namespace")
            links = [str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()]
            demand(not any(link.startswith("net:") for link in links), f"worker {pid} holds a namespace: {links}")
            told.append(f"pid {pid} of {node}: uid {uids.pop()}, no capability in any set, namespace net:[{own}]")
    return "; ".join(told)


def _status(pid: int) -> dict[str, str]:
    rows = (line.partition(":") for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines())
    return {name: value.strip() for name, _, value in rows}
