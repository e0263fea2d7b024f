# SPDX-License-Identifier: Apache-2.0
"""Which columns the tables of what the agent knows have, and how a cell is said. Several commands show a connection."""

from collections.abc import Callable
from typing import Any

from nodeagent.cli.output import Row, Table


def _field(name: str) -> Callable[[Row], object]:
    return lambda row: row[name]


def _joined(name: str) -> Callable[[Row], object]:
    return lambda row: ",".join(map(str, row[name]))


def _age(row: Row) -> object:
    return duration(row["age_seconds"]) if row["since"] else ""


def _bare(name: str) -> Callable[[Row], object]:
    """An identity without its scheme."""
    return lambda row: row[name].removeprefix("spiffe://")


def _full_name(row: Row) -> object:
    return f"{row['namespace']}/{row['name']}"


def duration(seconds: float) -> str:
    """The largest two units: `3d4h`, `12m5s`, `7s`."""
    left, words = max(0, int(seconds)), list[str]()
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count or (unit == "s" and not words):
            words.append(f"{count}{unit}")
        elif words:
            break
    return "".join(words[:2])


def byte_count(count: int) -> str:
    """With three digits at least: `1023 B`, `12.3 KiB`."""
    size, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while size >= 1024 and len(units) > 1:
        size /= 1024
        units.pop(0)
    return f"{count} B" if units[0] == "B" else f"{size:.1f} {units[0]}"


def _addresses(row: Row) -> str:
    """Of a workload; with its name, if it is known by that alone."""
    addresses = ",".join(row["addresses"])
    if not row["dns_name"]:
        return addresses
    return f"{row['dns_name']} ({addresses or row['dns_error'] or 'not resolved yet'})"


def _endpoints(row: Row) -> str:
    names = "".join(f" {name}={','.join(found) or '?'}" for name, found in row["names"].items())
    return f"{row['healthy_endpoints']}/{row['endpoints']}{names}"


STATUS = Table(
    "components",
    (
        ("COMPONENT", _field("component")),
        ("STATE", _field("state")),
        ("SINCE", _age),
        ("DETAIL", _field("detail")),
    ),
    name=_field("component"),
)
WORKERS = Table(
    "workers",
    (
        ("WORKER", _field("slot")),
        ("PID", lambda row: row["pid"] or ""),
        ("STATE", _field("state")),
        ("SINCE", _age),
        ("RESTARTS", _field("restarts")),
        ("CONNECTIONS", _field("connections")),
        ("GENERATION", _field("generation")),
    ),
)
KERNEL = Table("kernel", (("KERNEL", _field("reason")), ("PACKETS", _field("packets")), ("MEANING", _field("words"))))
PODS = Table(
    "pods",
    (
        ("NAMESPACE", _field("namespace")),
        ("POD", _field("pod")),
        ("IP", _joined("ips")),
        ("NETNS", _field("netns")),
        ("CAPTURED", _field("captured")),
        ("REASON", _field("reason")),
        ("MODE", _field("mode")),
        ("IDENTITY", _bare("identity")),
        ("DEVICE", _field("device")),
        ("HITS", _field("hits")),
        ("DIRECT", _field("direct")),
    ),
    more=(("DROPPED", _field("dropped")),),
    name=lambda row: f"{row['namespace']}/{row['pod']}",
)
WORKLOADS = Table(
    "workloads",
    (
        ("NAMESPACE", _field("namespace")),
        ("POD NAME", _field("name")),
        ("ADDRESS", _addresses),
        ("NODE", _field("node")),
        ("WAYPOINT", lambda row: row["waypoint"] or "None"),
        ("PROTOCOL", _field("protocol")),
        ("HEALTHY", lambda row: "yes" if row["healthy"] else "no"),
    ),
    more=(
        ("IDENTITY", _bare("identity")),
        ("OWNER", lambda row: f"{row['workload_type']}/{row['workload_name']}" if row["workload_name"] else ""),
        ("NETWORK", _field("network")),
        ("POLICIES", _joined("policies")),
    ),
    name=_full_name,
)
SERVICES = Table(
    "services",
    (
        ("NAMESPACE", _field("namespace")),
        ("SERVICE NAME", _field("name")),
        ("SERVICE VIP", lambda row: ",".join(vip.partition("/")[2] for vip in row["vips"])),
        ("PORTS", lambda row: ",".join(f"{port}->{target or '?'}" for port, target in row["ports"].items())),
        ("WAYPOINT", lambda row: row["waypoint"] or "None"),
        ("ENDPOINTS", _endpoints),
    ),
    more=(("HOSTNAME", _field("hostname")), ("BALANCING", _field("balancing"))),
    name=_full_name,
)
POLICIES = Table(
    "policies",
    (
        ("NAMESPACE", _field("namespace")),
        ("POLICY NAME", _field("name")),
        ("ACTION", lambda row: row["action"] + (" (dry run)" if row["dry_run"] else "")),
        ("SCOPE", _field("scope")),
        ("RULES", _field("rules")),
        ("ATTACHED", _field("attached")),
        ("HITS", _field("hits")),
        ("FROM", _field("origin")),
    ),
    more=(
        ("LAST-HIT", _field("last_hit")),
        ("SYNCED", lambda row: duration(row["synced_seconds"]) if row["synced"] else ""),
    ),
    name=_full_name,
)
MISSING = Table(
    "missing", (("MISSING POLICY", _field("policy")), ("NAMED BY", lambda row: f"{row['attached']} workloads"))
)
CERTIFICATES = Table(
    "certificates",
    (
        ("CERTIFICATE NAME", _field("name")),
        ("TYPE", _field("type")),
        ("STATUS", _field("state")),
        ("VALID CERT", lambda row: "true" if row["valid"] else "false"),
        ("SERIAL NUMBER", _field("serial")),
        ("NOT AFTER", _field("not_after")),
        ("NOT BEFORE", _field("not_before")),
        ("EXPIRES-IN", lambda row: duration(row["expires_in_seconds"]) if row["not_after"] else ""),
        ("ROTATION", lambda row: f"in {duration(row['rotates_in_seconds'])}" if row["rotates"] else ""),
        ("LAST-ERROR", _field("last_error")),
    ),
    name=_field("name"),
)


def end_of(name: str) -> Callable[[Row], object]:
    """`ns/workload:port`, or the address of what has no name."""

    def cell(row: Row) -> object:
        end: dict[str, Any] = row[name]
        port = end["address"].rpartition(":")[2]
        return f"{end['namespace']}/{end['workload']}:{port}" if end["workload"] else end["address"]

    return cell


def round_trip(row: Row) -> object:
    return f"{row['round_trip_us'] / 1000:.1f}ms" if row["round_trip_us"] else ""


WIDE_CONNECTION = (
    ("RTT", round_trip),
    ("SRC-IP", lambda row: row["source"]["address"]),
    ("DST-IP", lambda row: row["destination"]["address"]),
    ("ORIGINAL", _field("original")),
    ("HOP", _field("hop")),
    ("SRC-ID", _bare("source_identity")),
    ("DST-ID", _bare("destination_identity")),
    ("DRY-RUN", _field("dry_run")),
)
CONNECTIONS = Table(
    "connections",
    (
        ("ID", _field("id")),
        ("AGE", lambda row: duration(row["age_seconds"])),
        ("DIR", _field("direction")),
        ("SRC", end_of("source")),
        ("DST", end_of("destination")),
        ("SERVICE", lambda row: row["service"].rpartition("/")[2]),
        ("PROTO", _field("protocol")),
        ("PATH", _field("path")),
        ("TLS-PEER", lambda row: row["tls_peer"].removeprefix("spiffe://")),
        ("POLICY", _field("policy")),
        ("TX", lambda row: byte_count(row["sent_bytes"])),
        ("RX", lambda row: byte_count(row["received_bytes"])),
        ("RTT", round_trip),
    ),
    more=WIDE_CONNECTION[1:],
    name=_field("id"),
)
LOGS = Table(
    "logs",
    (
        ("PART", _field("part")),
        ("LEVEL", _field("level")),
        ("UNTIL", _field("until")),
    ),
    name=_field("part"),
)
