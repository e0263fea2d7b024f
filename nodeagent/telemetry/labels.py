# SPDX-License-Identifier: Apache-2.0
"""The traffic labels of Istio's TCP metrics, from one ConnectionRecord: names and values as ztunnel writes them.

Pure. Cardinality: every value is an owner's name, a Service, an identity or a closed set, never an address, a port or a
pod's own name; so the number of series grows with pairs of workloads that talk, not with connections.
"""

from functools import lru_cache
from typing import NamedTuple

from nodeagent.logs.escape import MAX_CHARACTERS, bounded
from nodeagent.model.identity import Identity
from nodeagent.model.record import OPEN_FLAG, ConnectionRecord, Direction, Party, Transport, reason_of

UNKNOWN = "unknown"
SOURCE, DESTINATION = "source", "destination"
"""Reporters."""

TRAFFIC_LABELS = (
    "reporter",
    "source_workload",
    "source_canonical_service",
    "source_canonical_revision",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "destination_service",
    "destination_service_namespace",
    "destination_service_name",
    "destination_workload",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_cluster",
    "request_protocol",
    "response_flags",
    "connection_security_policy",
)
LOCALITY_LABELS = ("source_region", "source_zone", "destination_region", "destination_zone")


class TrafficLabels(NamedTuple):
    """One series. `values` stand in the order of TRAFFIC_LABELS, `locality` in that of LOCALITY_LABELS or is empty."""

    values: tuple[str, ...]
    locality: tuple[str, ...]

    def pairs(self) -> dict[str, str]:
        named = dict(zip(TRAFFIC_LABELS, self.values, strict=True))
        if self.locality:
            named.update(zip(LOCALITY_LABELS, self.locality, strict=True))
        return named


def labels_of(record: ConnectionRecord, reporter: str = "") -> TrafficLabels:
    """Labels of an open or ended connection; the flag is the reason's, `-` while it is open."""
    return _labels(
        reporter or reporter_of(record),
        record.source,
        record.source_identity,
        record.service,
        record.destination,
        record.destination_identity,
        flag_of(record),
        record.transport is Transport.HBONE,
    )


@lru_cache(maxsize=1024)  # the same ends talk again and again, and are asked about three times for each connection
def _labels(  # noqa: PLR0913, PLR0917 - they are the key
    reporter: str,
    source: Party,
    source_identity: Identity | None,
    service: str,
    destination: Party,
    destination_identity: Identity | None,
    flag: str,
    is_tunnelled: bool,  # noqa: FBT001 - a part of the key
) -> TrafficLabels:
    values = (
        reporter,
        *_party(source, source_identity),
        *_service(service),
        *_party(destination, destination_identity),
        "tcp",
        flag,
        "mutual_tls" if is_tunnelled else UNKNOWN,
    )
    if sum(map(len, values)) > MAX_CHARACTERS:  # else none of them is, which is the usual case and quickly seen
        values = tuple(map(bounded, values))  # so that no worker, whatever it is told, can fill the agent's memory
    places = (source.region, source.zone, destination.region, destination.zone)
    return TrafficLabels(values, tuple(bounded(place or UNKNOWN) for place in places) if any(places) else ())


def anonymous(labels: TrafficLabels) -> TrafficLabels:
    """The same without any name: where connections are counted when there are too many series."""
    kept = {"reporter", "request_protocol", "response_flags", "connection_security_policy"}
    pairs = zip(TRAFFIC_LABELS, labels.values, strict=True)
    return TrafficLabels(tuple(value if name in kept else UNKNOWN for name, value in pairs), ())


def reporter_of(record: ConnectionRecord) -> str:
    return SOURCE if record.direction is Direction.OUTBOUND else DESTINATION


def flag_of(record: ConnectionRecord) -> str:
    reason = reason_of(record)
    return reason.flag if reason is not None else OPEN_FLAG


def _party(party: Party, identity: Identity | None) -> tuple[str, ...]:
    """workload, canonical service and revision, namespace, principal, app, version, cluster."""
    name, revision = party.canonical_name or UNKNOWN, party.canonical_revision or UNKNOWN
    return (
        party.workload_name or UNKNOWN,
        name,
        revision,
        party.namespace or UNKNOWN,
        str(identity) if identity is not None else UNKNOWN,
        name,
        revision,
        party.cluster or UNKNOWN,
    )


def _service(key: str) -> tuple[str, str, str]:
    """Hostname, namespace and name of `ns/hostname`.

    A Kubernetes Service is named by the first label of its hostname, anything else, as Istio has it, by all of it.
    """
    namespace, _, hostname = key.partition("/")
    if not hostname:
        return UNKNOWN, UNKNOWN, UNKNOWN
    first, _, rest = hostname.partition(".")
    return hostname, namespace, first if rest.startswith(f"{namespace}.svc.") else hostname
