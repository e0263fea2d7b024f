# SPDX-License-Identifier: Apache-2.0
"""Claims about traffic that nobody disturbs: captured, encrypted, identified, complete."""

import socket
import struct
from collections.abc import Mapping

from nodeagent.lab.demo.claims import demand, eventually
from nodeagent.lab.demo.client import PATIENCE_SECONDS, ask, connect, download, median_round_trip, read_all, upload
from nodeagent.lab.demo.program import connected
from nodeagent.lab.demo.stage import PORT, SERVICE_PORT, Stage
from nodeagent.lab.namespaces import Pod
from nodeagent.model.address import Ip
from nodeagent.model.identity import Identity

MARKER = b"na-demo-secret-0123456789abcdef!"
MARKERS = 10_000
BULK_BYTES = 256 << 20
LOCAL_BYTES = 64 << 20
_DIRECT = ("LOCAL_ALLOWED", "LOCAL_FLOW", "LOCAL_DELIVERED")
_PROXIED = ("LOCAL_STEERED", "STEERED", "PROXY_FLOW", "PROXY_ANSWERED", "INTO_POD", "INBOUND")
"""Each packet of a pod that comes to the proxy moves one of these, and so does each that the proxy has for a pod. What
tunnels to other nodes say to each other by themselves, every ten seconds, moves none."""


def captured(stage: Stage) -> str:
    """The kernels' counters moved, and the application saw the address and port that the client really has."""
    web, db, told = stage.pod("web"), stage.pod("db"), []
    names = {"node-a": "STEERED", "node-b": "INTO_POD"}
    for ip in db.ips:
        before = {node: stage.packets(node).get(name, 0) for node, name in names.items()}
        seen = _seen_as_itself(web, ip)
        moved = {node: stage.packets(node).get(name, 0) - before[node] for node, name in names.items()}
        still = [f"{names[node]} of {node}" for node, more in moved.items() if more <= 0]
        demand(not still, f"{ip}: the kernel's counters did not move: {', '.join(still)}")
        counted = ", ".join(f"{names[node]} of {node} +{more}" for node, more in moved.items())
        told.append(f"{ip}: {counted}, the application saw {seen}")
    return "; ".join(told)


def encrypted(stage: Stage) -> str:
    """A marker that is sent many times is never seen between the nodes; what is seen there is TLS 1.3 to 15008."""
    # A client that has not talked to db before, so that the beginning of its tunnels is seen too.
    batch, db = stage.pod("batch"), stage.pod("db")
    with stage.lab.wire.tap(marker=MARKER) as tap:
        for ip in db.ips:
            with connect(batch, ip, PORT) as connection:
                connection.sendall(b"DIGEST\n" + MARKER * MARKERS)
                connection.shutdown(socket.SHUT_WR)
                demand(str(len(MARKER) * MARKERS) in read_all(connection).decode(), "the markers did not arrive")
    seen, sent = tap.result(), 2 * len(MARKER) * MARKERS
    demand(seen.dropped == 0, f"the tap lost {seen.dropped} packets, so its counts prove nothing")
    demand(seen.markers == 0, f"the marker crossed the link {seen.markers} times in plain text")
    demand(seen.hbone_bytes > sent, f"{sent} bytes arrived, the tunnels carried {seen.hbone_bytes}")
    # Connections in which there is one: TCP may send it twice.
    greeted = sum(flow.destination_port == 15008 and count.client_hellos > 0 for flow, count in seen.flows)
    answered = sum(flow.source_port == 15008 and count.server_hellos > 0 for flow, count in seen.flows)
    demand(
        (greeted, answered) == (2, 2),
        f"connections to port 15008 with a TLS 1.3 hello of client and server: {greeted} and {answered} instead of 2",
    )
    return (
        f"marker sent {2 * MARKERS} times, on the link {seen.markers} times; 2 TLS 1.3 handshakes to port 15008, "
        f"{seen.tls_records} records, {seen.hbone_bytes >> 10} KiB"
    )


def identified(stage: Stage) -> str:
    """Both ends prove their identity, believe no other one, and name both in their records.

    A peer of the lab's own looks at the certificates: as a client it is shown the server's, as a server the client's.
    """
    web, db, told = stage.pod("web"), stage.pod("db"), []
    ours, theirs = (Identity("cluster.local", "shop", name) for name in ("web", "db"))
    with stage.stranger_in_mesh() as name:
        for index, ip in enumerate(db.ips):
            _recorded(stage, index, (str(ours), str(theirs)))
            for pod, wanted in ((web, ours), (db, theirs)):
                shown = stage.stranger.proof_of(pod.ips[index]).identity
                demand(shown == str(wanted), f"a client at {pod.ips[index]} is shown {shown}, not {wanted}")
            _believes_clients(stage, ip, ours)
            _believes_servers(stage, index, name, ours)
            told.append("IPv6" if ":" in ip else "IPv4")
    return (
        f"{' and '.join(told)}: {ours} and {theirs} shown to a peer in the middle of the link; a client without a "
        "certificate or of another CA and a server with another name or of another CA turned away; node-a and node-b "
        "recorded who is the source and who the destination"
    )


def _recorded(stage: Stage, index: int, expected: tuple[str, str]) -> None:
    web, db = stage.pod("web"), stage.pod("db")
    with connect(web, db.ips[index], PORT) as connection:
        port = connection.getsockname()[1]
        connection.sendall(b"WHO\n")
        read_all(connection)
    for node in ("node-a", "node-b"):
        line = stage.access_line(node, str(web.ips[index]), port)
        found = str(line.get("src.identity")), str(line.get("dst.identity"))
        demand(found == expected, f"{node} recorded {found[0]} to {found[1]}")


def _believes_clients(stage: Stage, ip: Ip, known: Identity) -> None:
    stranger = stage.stranger
    demand(not stranger.is_turned_away(ip, known), f"{ip} turned away a client with a certificate of the mesh")
    demand(stranger.is_turned_away(ip, None), f"{ip} goes on with a client without a certificate")
    demand(stranger.is_turned_away(ip, known, is_known_ca=False), f"{ip} goes on with a client of another CA")


def _believes_servers(stage: Stage, index: int, expected: Identity, client: Identity) -> None:
    """What web's tunnel does when the server at the other end is the right one, has another name, or another CA."""
    web, ip = stage.pod("web"), stage.lab.control.ips[index]
    for name, is_known_ca in (
        (Identity("cluster.local", "shop", "impostor"), True),
        (expected, False),
        (expected, True),
    ):
        with stage.stranger.listening() as listener, connect(web, ip, PORT):
            visit = stage.stranger.receive(listener, name, is_known_ca=is_known_ca)
        who = f"a server {name} {'of the mesh' if is_known_ca else 'of another CA'} at {ip}"
        wanted = is_known_ca and name == expected
        demand(visit.is_believed is wanted, f"{who} was {'' if visit.is_believed else 'not '}believed by web's tunnel")
        if is_known_ca:
            shown = visit.client.identity if visit.client else "nobody"
            demand(shown == str(client), f"{who} was shown {shown}, not {client}")


def whole(stage: Stage) -> str:
    """256 MiB each way, equal digests."""
    web, db, told = stage.pod("web"), stage.pod("db"), []
    for ip in db.ips:
        for way, transfer in (("up", upload), ("down", download)):
            sent, received, seconds = transfer(web, ip, PORT, BULK_BYTES)
            demand(sent == received, f"{ip} {way}: sent {sent}, received {received}")
            told.append(f"{way} {'IPv6' if ':' in ip else 'IPv4'} {BULK_BYTES / seconds / 1e6:.0f} MB/s")
    return f"{BULK_BYTES >> 20} MiB, equal SHA-256: {', '.join(told)}"


def endings(stage: Stage) -> str:
    """Each direction ends by itself and leaves the other open; a reset arrives as a reset."""
    web = stage.pod("web")
    for ip in (*stage.pod("db").ips, *stage.pod("api").ips):
        with connect(web, ip, PORT) as connection:
            connection.sendall(b"DIGEST\nhalf")
            connection.shutdown(socket.SHUT_WR)
            demand(read_all(connection).startswith(b"4 "), f"{ip}: nothing came back after a half-close")
        with connect(web, ip, PORT) as connection:
            connection.sendall(b"RESET\n")
            demand(connection.recv(100) == b"resetting\n", f"{ip}: the application did not answer")
            connection.sendall(b"x")
            demand(_was_reset(connection), f"{ip}: the application's reset arrived as a clean end")
        with connect(web, ip, PORT) as connection:
            connection.sendall(b"HOW\n")
            connection.recv(100)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with connect(web, ip, PORT) as connection:
            connection.sendall(b"HOW\n")
            connection.recv(100)
        with connect(web, ip, PORT) as connection:
            connection.sendall(b"LATE\n")
            demand(read_all(connection) == b"over\n", f"{ip}: the application's half-close did not arrive as such")
            connection.sendall(b"sent after the application's end")
        _endings_told(web, ip, ["end", "late:32", "reset"])
    return (
        "IPv4 and IPv6, between nodes and on one: either end's half-close left the other direction open; reset seen by "
        "the client; reset and end told apart by the application"
    )


def _endings_told(client: Pod, ip: Ip, wanted: list[str]) -> None:
    told: list[str] = []

    def all_told() -> bool:
        told.extend(ask(client, ip, PORT, "ENDINGS").split())
        return len(told) >= len(wanted)

    eventually(all_told, PATIENCE_SECONDS, f"{ip}: the application learnt of {len(wanted)} endings")
    demand(sorted(told) == wanted, f"{ip}: the application saw {told}, not {wanted}")


def same_node(stage: Stage) -> str:
    """Allowed pods of one node talk past the proxy, see each other's real addresses, and nothing of it leaves the node.

    Past the proxy: not one packet of the transfer came to it, by the kernel's own counters, and the agent recorded the
    connection as the kernel's.
    """
    web, api, told = stage.pod("web"), stage.pod("api"), []
    with stage.lab.wire.tap() as tap:
        direct = [_past_the_proxy(stage, ip) for ip in api.ips]
        by_proxy = [median_round_trip(web, ip, SERVICE_PORT) for ip in stage.api_service_ips]
    for ip, (seen, packets, seconds), slower in zip(api.ips, direct, by_proxy, strict=True):
        told.append(
            f"{ip}: the application saw {seen}, {LOCAL_BYTES >> 20} MiB in {packets} packets, none by the proxy, "
            f"recorded with path=kernel; round trip {seconds * 1e6:.0f} us, {seconds / slower:.2f} x that by the proxy"
        )
    crossed = sum(tap.result().count(ip=ip).packets for ip in api.ips)
    demand(not crossed, f"{crossed} packets from or to api crossed the link between the nodes")
    return f"{'; '.join(told)}; nothing of it on the link"


def _past_the_proxy(stage: Stage, ip: Ip) -> tuple[str, int, float]:
    """What api saw, the packets that the kernel delivered, and the seconds of a round trip."""
    web = stage.pod("web")
    before = _when_quiet(stage)
    seen = _seen_as_itself(web, ip)
    with connected(web, ip, PORT, "WHO") as program:
        pass
    sent, received, _ = upload(web, ip, PORT, LOCAL_BYTES)
    demand(sent == received, f"{ip}: sent {sent}, received {received}")
    seconds = median_round_trip(web, ip, PORT)
    after = stage.packets("node-a")
    moved = {name: after[name] - before[name] for name in (*_DIRECT, *_PROXIED)}
    still = [name for name in _DIRECT if moved[name] <= 0]
    demand(not still, f"{ip}: the kernel's counters {', '.join(still)} did not move")
    proxied = {name: packets for name, packets in moved.items() if name in _PROXIED and packets}
    demand(not proxied, f"{ip}: the proxy had part in it: {proxied}")
    line = stage.access_line("node-a", str(web.ips[":" in ip]), program.port)
    recorded = line.get("path"), line.get("src.workload"), line.get("dst.workload")
    demand(recorded == ("kernel", "web", "api"), f"{ip}: recorded as {line}")
    return seen, moved["LOCAL_DELIVERED"], seconds


def _when_quiet(stage: Stage) -> Mapping[str, int]:
    """The counters, once the last packets of connections that were closed before are counted."""
    counted: list[Mapping[str, int]] = [stage.packets("node-a")]

    def is_quiet() -> bool:
        has_open = any(one["worker"] is not None for one in stage.ask("node-a", "connections")["connections"])
        counted.append(stage.packets("node-a"))
        return not has_open and all(counted[-1][name] == counted[-2][name] for name in _PROXIED)

    eventually(is_quiet, PATIENCE_SECONDS, "the proxy of node-a has nothing to do")
    return counted[-1]


def service(stage: Stage) -> str:
    """A Service's address leads to one of its pods, on both nodes."""
    web, db = stage.pod("web"), stage.pod("db")
    for ip, own, target in zip(stage.service_ips, web.ips, db.ips, strict=True):
        reached, seen = ask(web, ip, SERVICE_PORT, "WHERE"), ask(web, ip, SERVICE_PORT, "WHO")
        demand(reached == f"{target} {PORT}", f"{ip}:80 led to {reached!r}, not to {target} {PORT}")
        demand(seen.startswith(f"{own} "), f"{ip}:80: the application saw {seen!r}, not {own}")
        reached = ask(db, ip, SERVICE_PORT, "WHERE")
        demand(reached == f"{target} {PORT}", f"{ip}:80 led db to {reached!r}, not to itself")
    return f"{', '.join(stage.service_ips)} port 80 led to {' and '.join(db.ips)} port {PORT}, also from db itself"


def outside_untouched(stage: Stage) -> str:
    """A pod outside the mesh is reached as before: directly, in plain text, by the client's own address and port."""
    told = []
    for client, server in (("web", "legacy"), ("legacy", "legacy2")):
        with stage.lab.wire.tap(marker=MARKER) as tap:
            for ip in stage.pod(server).ips:
                _seen_as_itself(stage.pod(client), ip)
                with connect(stage.pod(client), ip, PORT) as connection:
                    connection.sendall(b"DIGEST\n" + MARKER * 100)
                    connection.shutdown(socket.SHUT_WR)
                    demand(read_all(connection).startswith(b"3200 "), f"{client} to {ip}: the markers did not arrive")
        seen = tap.result()
        for version in (4, 6):
            markers = seen.count(version=version).markers
            demand(markers, f"{client} to {server}, IPv{version}: none of the markers crossed the link in plain text")
            told.append(f"{client} to {server} IPv{version}: {markers} markers on the link")
        tunnelled = sum(seen.count(port=15008, ip=ip).packets for ip in stage.pod(server).ips)
        demand(not tunnelled, f"{client} to {server}: {tunnelled} packets to or from port 15008")
    return f"{'; '.join(told)}; real address and port seen, nothing on port 15008"


def _seen_as_itself(client: Pod, ip: Ip) -> str:
    """What the application saw, once that was the client's own address and port. Raises ClaimFalse."""
    with connect(client, ip, PORT) as connection:
        own, port = connection.getsockname()[:2]
        connection.sendall(b"WHO\n")
        seen = read_all(connection).decode().strip()
    demand(seen == f"{own} {port}", f"the client is {own} {port}, the application at {ip} saw {seen!r}")
    return seen


def _was_reset(connection: socket.socket) -> bool:
    try:
        while connection.recv(100):
            pass
    except ConnectionResetError:
        return True
    return False
