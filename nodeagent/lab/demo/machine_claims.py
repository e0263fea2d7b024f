# SPDX-License-Identifier: Apache-2.0
"""Claims about the machine: nothing forged gets in, nothing of ours is where it does not belong."""

import socket
import struct
from pathlib import Path

from nodeagent.lab.demo import processes
from nodeagent.lab.demo.claims import demand, eventually
from nodeagent.lab.demo.client import PATIENCE_SECONDS, ask
from nodeagent.lab.demo.stage import PORT, Stage
from nodeagent.lab.wire import Tap

FORGED = 5


def spoofing_dropped(stage: Stage) -> str:
    """Packets with another pod's source address are dropped and counted by name; the pod's own go their way."""
    web, api, db, told = stage.pod("web"), stage.pod("api"), stage.pod("db"), []
    # What the proxy takes never crosses the link as it is; a SYN to a host that is no part of the mesh does.
    outside = stage.lab.control
    for index, family in enumerate((socket.AF_INET, socket.AF_INET6)):
        own, forged = web.ips[index], api.ips[index]
        before = stage.packets("node-a").get("SPOOFED_SOURCE", 0)
        with stage.lab.wire.tap() as tap:
            for target in (db.ips[index], outside.ips[index]):
                _send_syns(stage, family, forged, target)
            _send_syns(stage, family, own, outside.ips[index])
            wanted = before + 2 * FORGED

            def all_seen(own: str = own, tap: Tap = tap, wanted: int = wanted) -> bool:
                counted = stage.packets("node-a").get("SPOOFED_SOURCE", 0)
                return counted >= wanted and tap.result().count(ip=own).packets >= FORGED

            eventually(
                all_seen,
                PATIENCE_SECONDS,
                f"SPOOFED_SOURCE +{2 * FORGED} for {forged}, and web's own packets on the link",
            )
        crossed = tap.result().count(ip=forged).packets
        demand(not crossed, f"{crossed} packets from or to {forged}, forged by web, crossed the link")
        more = stage.packets("node-a")["SPOOFED_SOURCE"] - before
        demand(more == 2 * FORGED, f"{2 * FORGED} packets were forged, {more} counted")
        told.append(f"{2 * FORGED} SYNs of {forged} forged by web: SPOOFED_SOURCE +{more}, on the link 0")
    demand(ask(web, db.ips[0], PORT, "WHO"), "web's own traffic was harmed")
    return f"{'; '.join(told)}; web's own crossed it"


def _send_syns(stage: Stage, family: int, source: str, target: str) -> None:
    """FORGED of them, built by hand, sent by a raw socket of the pod with all its capabilities."""
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
    """A worker has no capability and no way into the node's namespace; and nobody else is in the proxy's."""
    told = []
    for node in ("node-a", "node-b"):
        inside, known = stage.worker_pids(node), [row["pid"] for row in stage.ask(node, "status")["workers"]]
        demand(inside, f"{node}: nobody is in the proxy namespace")
        demand(inside == sorted(known), f"{node}: in the proxy namespace are {inside}, the agent knows {known}")
        for pid in inside:
            status = processes.status(pid)
            for field in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
                demand(int(status[field], 16) == 0, f"worker {pid}: {field} is {status[field]}")
            demand(status["NoNewPrivs"] == "1", f"worker {pid} could gain privileges by exec")
            users = {*status["Uid"].split(), *status["Gid"].split(), *status["Groups"].split()}
            demand("0" not in users, f"worker {pid} has users and groups {sorted(users)}")
            own = Path(f"/proc/{pid}/ns/net").stat().st_ino
            demand(own != stage.node_netns_inode(node), f"worker {pid} is in the node's namespace")
            ways = processes.ways_out(pid, own)
            demand(not ways, f"worker {pid} holds {'; '.join(ways)}")
            told.append(f"pid {pid} of {node}: uid {status['Uid'].split()[0]}, alone in net:[{own}]")
    return f"{'; '.join(told)}; no capability in any set, no descriptor of a namespace, no socket of another one"
