# SPDX-License-Identifier: Apache-2.0
"""How a connection ended, or why it was refused: the closed set that is counted, logged and explained.

What the kernel programs decide has its own table, bpf/reasons.h, read by kernel/reasons.py; this one is the proxy's.
Rows are never renamed: dashboards outlive releases. The second column is Istio's response flag, the
third says what to look at.
"""

import enum
from typing import Self


class Reason(enum.Enum):
    """`value` is the name in metrics and logs; `flag` Istio's response_flags; `check` a hint for the operator."""

    flag: str
    check: str

    def __new__(cls, value: str, flag: str, check: str) -> Self:
        row = object.__new__(cls)
        row._value_ = value
        row.flag = flag
        row.check = check
        return row

    CLOSED = ("closed", "-", "")
    """Both directions ended as TCP means it."""
    RESET = ("reset", "-", "The application at one end reset the connection.")
    DRAINED = ("drained", "-", "The worker was stopping and its drain deadline passed.")
    POLICY_DENIED = ("policy_denied", "DENY", "A DENY policy matches; `nodeagent explain` names the rule.")
    POLICY_NOT_ALLOWED = (
        "policy_not_allowed",
        "DENY",
        "ALLOW policies exist and none matches; see `nodeagent explain`.",
    )
    POLICY_CHANGED = ("policy_changed", "DENY", "A policy change no longer allows this open connection.")
    POLICY_PENDING = (
        "policy_pending",
        "DENY",
        "The workload names a policy that has not arrived; is the control plane up?",
    )
    UNKNOWN_SOURCE = ("unknown_source", "CONNECT", "The source address is no enrolled pod; has xDS sent its workload?")
    UNKNOWN_DESTINATION = ("unknown_destination", "CONNECT", "No workload or service has this address.")
    NO_HEALTHY_ENDPOINT = ("no_healthy_endpoint", "CONNECT", "The service has no ready endpoint for this port.")
    DNS_FAILED = (
        "dns_failed",
        "DF",
        "The service's endpoints are known by name, and the node's resolver has no address; `explain` says why.",
    )
    NO_SERVICE_PORT = ("no_service_port", "CONNECT", "The service does not list this port.")
    NO_GATEWAY = ("no_gateway", "CONNECT", "The waypoint or network gateway of the destination is not known.")
    SELF_CALL = ("self_call", "CONNECT", "The connection was for a port of the proxy itself.")
    CONNECT_REFUSED = ("connect_refused", "CONNECT", "The application refused; is it listening on this port?")
    CONNECT_TIMEOUT = (
        "connect_timeout",
        "CONNECT",
        "No answer; for port 15008 perhaps a NetworkPolicy or a firewall blocks HBONE.",
    )
    CONNECT_FAILED = ("connect_failed", "CONNECT", "The network refused the connection; the error says how.")
    CERTIFICATE_MISSING = (
        "certificate_missing",
        "IDENTITY_ERROR",
        "No certificate for this identity; see `nodeagent certs`.",
    )
    TLS_FAILED = ("tls_failed", "TLS_FAILURE", "The peer did not complete a mutual TLS 1.3 handshake.")
    TLS_NOT_TLS = ("tls_not_tls", "TLS_FAILURE", "The peer sent something other than TLS to port 15008.")
    TLS_UNKNOWN_CA = ("tls_unknown_ca", "TLS_FAILURE", "The certificate does not lead to a root of this mesh.")
    TLS_WRONG_IDENTITY = ("tls_wrong_identity", "TLS_FAILURE", "The server is not the workload that was dialled.")
    TLS_WRONG_TRUST_DOMAIN = ("tls_wrong_trust_domain", "TLS_FAILURE", "The client's trust domain is not this mesh's.")
    CERTIFICATE_REVOKED = (
        "certificate_revoked",
        "CERT_REVOKED",
        "The peer's certificate, or one above it, is on a list of revoked ones.",
    )
    TLS_TIMEOUT = ("tls_timeout", "TLS_FAILURE", "The handshake was not finished in time.")
    TLS_KEY_CHANGED = (
        "tls_key_changed",
        "CONNECT",
        "The peer changed its key, which kernel TLS follows since Linux 6.14; before that, `--kernel-tls off` here.",
    )
    TLS_KEY_WORN = (
        "tls_key_worn",
        "CONNECT",
        "Its tunnel sent all that one key is good for; new connections had another tunnel long before.",
    )
    H2_FAILED = ("h2_failed", "H2_HANDSHAKE_FAILURE", "The peer broke HTTP/2; the error names the rule.")
    H2_HEADERS_TOO_LARGE = ("h2_headers_too_large", "H2_HANDSHAKE_FAILURE", "Request headers beyond the limit.")
    H2_TOO_MANY_STREAMS = ("h2_too_many_streams", "H2_HANDSHAKE_FAILURE", "More streams than SETTINGS allows.")
    HBONE_BAD_REQUEST = ("hbone_bad_request", "CONNECT", "Not a CONNECT to the address that was dialled.")
    HBONE_REFUSED = ("hbone_refused", "CONNECT", "The peer's proxy answered something other than 200.")
    HBONE_DENIED = ("hbone_denied", "DENY", "The destination's policy refused (401); ask `explain` on its node.")
    PEER_LOST = ("peer_lost", "CONNECT", "The tunnel ended before the connection did.")
    PING_TIMEOUT = ("ping_timeout", "CONNECT", "The peer stopped answering HTTP/2 PING.")
    CONNECTION_LIMIT = ("connection_limit", "CONNECT", "Too many connections for this worker; see its limits.")
    MEMORY_LIMIT = (
        "memory_limit",
        "CONNECT",
        "Peers send, applications do not read, and this worker holds all it may.",
    )
    UPSTREAM_OVERFLOW = ("upstream_overflow", "UO", "A DestinationRule's maxConnections is reached at this worker.")
    SOURCE_RATE = ("source_rate", "RL", "This source connects faster than a ConnectionLimit lets it.")
    SOURCE_CONNECTIONS = (
        "source_connections",
        "RL",
        "This source has as many connections as a ConnectionLimit lets it.",
    )
    SOURCE_WASTEFUL = (
        "source_wasteful",
        "CONNECT",
        "Tunnels of this source, or what they say, come to nothing: its former records say why. Told once a second.",
    )
    OPERATOR_KILLED = ("operator_killed", "-", "An operator has ended it: `nodeagent connections --kill`.")
    IDLE_TIMEOUT = ("idle_timeout", "-", "Not a byte for as long as a DestinationRule's idleTimeout.")
    OUT_OF_PORTS = ("out_of_ports", "CONNECT", "No free source port for this address.")
    POD_REMOVED = ("pod_removed", "-", "The pod left this node or the mesh, and its connections with it.")
    WORKER_LOST = ("worker_lost", "CONNECT", "The worker died; its connections were reset.")
    HANDOVER_FAILED = (
        "handover_failed",
        "CONNECT",
        "Its worker was being replaced, and the successor did not take it; the log of both says why.",
    )
    END_UNSEEN = (
        "end_unseen",
        "-",
        "It ended in the kernel while no program of ours was on the pods' cgroup; bytes are those seen last.",
    )
    BUG = ("bug", "CONNECT", "A defect of nodeagent: the log has the traceback. Please report it.")
    LOST = ("lost", "CONNECT", "A defect of nodeagent: the connection was not accounted for. Please report it.")
