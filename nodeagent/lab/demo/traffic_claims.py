# SPDX-License-Identifier: Apache-2.0
"""Claims about traffic that nobody disturbs: captured, encrypted, identified, complete."""

import socket
import struct

from nodeagent.lab.demo.claims import demand, eventually
from nodeagent.lab.demo.client import ask, connect, download, read_all, upload
from nodeagent.lab.demo.stage import PORT, Stage
from nodeagent.model.address import Ip

MARKER = b"na-demo-secret-0123456789abcdef!"
MARKERS = 10_000
BULK_BYTES = 256 << 20


def captured(stage: Stage) -> str:
    """The kernel's counter moved, and the application saw the address and port that the client really has."""
    web, db, told = stage.pod("web"), stage.pod("db"), []
    for ip in db.ips:
        before = stage.packets("node-a").get("STEERED", 0)
        with connect(web, ip, PORT) as connection:
            own, port = connection.getsockname()[:2]
            connection.sendall(b"WHO\n")
            seen = read_all(connection).decode().strip()
        after = stage.packets("node-a").get("STEERED", 0)
        demand(seen == f"{own} {port}", f"the client is {own} {port}, the application saw {seen}")
        demand(after > before, f"the kernel's counter STEERED stayed {before}")
        told.append(f"{ip}: STEERED +{after - before}, the application saw {seen}")
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
        sent = 2 * len(MARKER) * MARKERS
        eventually(lambda: tap.result().hbone_bytes > sent, 5, "the tunnel's bytes on the link")
    seen = tap.result()
    demand(seen.dropped == 0, f"the tap lost {seen.dropped} packets, so its counts prove nothing")
    demand(seen.markers == 0, f"the marker crossed the link {seen.markers} times in plain text")
    hellos = seen.count(to_port=15008).client_hellos, seen.count(from_port=15008).server_hellos
    demand(hellos == (2, 2), f"TLS 1.3 hellos of clients and servers on port 15008: {hellos} instead of 2 and 2")
    return (
        f"marker sent {2 * MARKERS} times, on the link {seen.markers} times; 2 TLS 1.3 handshakes to port 15008, "
        f"{seen.tls_records} records, {seen.hbone_bytes >> 10} KiB"
    )


def identified(stage: Stage) -> str:
    """Both nodes name both identities, each from the certificate that the other end proved."""
    web, db = stage.pod("web"), stage.pod("db")
    expected = {f"spiffe://cluster.local/ns/shop/sa/{name}" for name in ("web", "db")}
    told = []
    for ip in db.ips:
        with connect(web, ip, PORT) as connection:
            port = connection.getsockname()[1]
            connection.sendall(b"WHO\n")
            read_all(connection)
        for node in ("node-a", "node-b"):
            line = stage.access_line(node, str(web.ips[db.ips.index(ip)]), port)
            found = {str(line.get("src.identity")), str(line.get("dst.identity"))}
            demand(found == expected, f"{node} recorded {sorted(found)}")
        told.append(f"{'IPv6' if ':' in ip else 'IPv4'}: node-a and node-b agree")
    return f"{'; '.join(told)} on {' and '.join(sorted(expected))}"


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
    """A half-close leaves the other direction open; a reset arrives as a reset, in both directions."""
    web, db = stage.pod("web"), stage.pod("db")
    for ip in db.ips:
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
        told: list[str] = []

        def both_told(ip: Ip = ip, told: list[str] = told) -> bool:
            told += ask(web, ip, PORT, "ENDINGS").split()
            return len(told) == 2

        eventually(both_told, 5, f"{ip}: the application learnt of both endings")
        demand(sorted(told) == ["end", "reset"], f"{ip}: the application saw {told}")
    return (
        "IPv4 and IPv6: answer after half-close; reset seen by the client; reset and end told apart by the application"
    )


def same_node(stage: Stage) -> str:
    """Pods of one node pass the same policy, and see each other's real addresses."""
    web, api, seen = stage.pod("web"), stage.pod("api"), ""
    for ip in api.ips:
        with connect(web, ip, PORT) as connection:
            own, port = connection.getsockname()[:2]
            connection.sendall(b"WHO\n")
            seen = read_all(connection).decode().strip()
        demand(seen == f"{own} {port}", f"the client is {own} {port}, the application saw {seen}")
    return f"web to api on node-a, IPv4 and IPv6; the application saw {seen}"


def service(stage: Stage) -> str:
    """A Service's address leads to one of its pods, on both nodes."""
    web = stage.pod("web")
    for ip in stage.service_ips:
        answer = ask(web, ip, 80, "WHO")
        demand(answer.split()[0] in {str(own) for own in web.ips}, f"{ip}:80 answered {answer!r}")
        demand(ask(stage.pod("db"), ip, 80, "WHO"), f"db did not reach itself at {ip}:80")
    return f"{', '.join(stage.service_ips)} port 80 served by db's port {PORT}, also to db itself"


def outside_untouched(stage: Stage) -> str:
    """A pod outside the mesh is reached as before: directly, in plain text."""
    web, legacy = stage.pod("web"), stage.pod("legacy")
    for ip in legacy.ips:
        demand(ask(web, ip, PORT, "WHO"), f"web did not reach legacy at {ip}")
    for ip in stage.pod("legacy2").ips:
        demand(ask(legacy, ip, PORT, "WHO").split()[0] in {str(own) for own in legacy.ips}, f"legacy to {ip}")
    return "web to legacy (plain TCP) and legacy to legacy2 on the other node (never touched), IPv4 and IPv6"


def _was_reset(connection: socket.socket) -> bool:
    try:
        while connection.recv(100):
            pass
    except ConnectionResetError:
        return True
    return False
