# SPDX-License-Identifier: Apache-2.0
"""`nodeagent trace`: of whom, and each hop as it is told: a packet at a program, or what the proxy did about it. Pure.

The programs say what became of a packet, and the worker's record what it did with the connection: when it accepted it,
where that was led, by which policy, and how it ended. Both have times, by which they are told in one order.
"""

import difflib
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from nodeagent.admin import answers
from nodeagent.admin.names import find_destination
from nodeagent.admin.state import AgentState, Captured, PodView
from nodeagent.admin.views import show_identity
from nodeagent.errors import ConfigError, NotPossible
from nodeagent.logs.moment import timestamp
from nodeagent.model.address import Ip, join_host_port
from nodeagent.model.hop import TracedPacket
from nodeagent.model.mesh import Mesh
from nodeagent.model.record import ConnectionRecord, Direction, Transport, Verdict, reason_of
from nodeagent.model.workload import Service, Workload
from nodeagent.routing.route import Target

ANY_ADDRESS, ANY_PORT = Ip("::"), 0
"""In a peer; as the kernel has them."""
LONGEST_SECONDS = 600.0
MOST_HOPS = 10_000
_PASS, _DROP, _REDIRECT = "pass", "drop", "redirect"
_VERDICTS = {"UNSPEC": _PASS, "OK": _PASS, "SHOT": _DROP, "REDIRECT": _REDIRECT}
_PROXY, _KERNEL = "proxy", "kernel"


@dataclass(frozen=True, kw_only=True)
class TraceQuestion:
    """As the operator typed it."""

    pod: str
    peers: tuple[str, ...] = ()
    """Each `NAME`, `NAME:PORT` or `:PORT`."""
    seconds: float
    most: int
    """Hops."""
    is_every: bool = False


@dataclass(frozen=True)
class Traced:
    """Whose packets."""

    pod: PodView
    peers: frozenset[Target]
    """Of the other end; none: whoever it is."""

    @property
    def name(self) -> str:
        return f"{self.pod.namespace}/{self.pod.pod}"

    @property
    def place(self) -> Mapping[str, str]:
        """For who runs something there."""
        return {"namespace": self.pod.namespace, "pod": self.pod.pod, "netns": self.pod.netns}

    def fits(self, record: ConnectionRecord) -> bool:
        ends = {record.source_ip, record.original_ip, record.destination_ip}
        if ends.isdisjoint(self.pod.ips):
            return False
        ports = {record.source_port, record.original_port, record.destination_port, ANY_PORT}
        return not self.peers or any(peer.ip in {*ends, ANY_ADDRESS} and peer.port in ports for peer in self.peers)


def find_traced(state: AgentState, question: TraceQuestion) -> Traced:
    """Raises ConfigError for names that mean nothing or several things, NotPossible for a pod that is not captured."""
    pod = _find_pod(state, question.pod)
    if pod.captured is not Captured.YES:
        raise NotPossible(
            f"{pod.namespace}/{pod.pod} is not captured ({pod.reason or pod.captured}), so none of its packets is seen",
            check="`nodeagent pods` lists those that are, and why the others are not.",
        )
    return Traced(pod, frozenset(peer for text in question.peers for peer in _find_peers(state, text)))


def _find_pod(state: AgentState, name: str) -> PodView:
    namespace, _, short = name.rpartition("/")
    found = [pod for pod in state.pods if pod.pod == short and namespace in {"", pod.namespace}]
    if len(found) == 1:
        return found[0]
    known = [f"{pod.namespace}/{pod.pod}" for pod in state.pods]
    if found:
        meant = ", ".join(sorted(f"{pod.namespace}/{pod.pod}" for pod in found))
        raise ConfigError(f"{name!r} may mean {meant}", check="Write it with its namespace.")
    near = difflib.get_close_matches(name, known, n=3)
    raise ConfigError(
        f"no pod of this node is called {name!r}",
        check=f"Did you mean {' or '.join(near)}?" if near else "`nodeagent pods` lists them; each node has its own.",
    )


def _find_peers(state: AgentState, text: str) -> Iterator[Target]:
    name, port = _split(text)
    if not name:
        yield Target(ANY_ADDRESS, port)
        return
    found = find_destination(state.mesh, name, port)
    if isinstance(found, Service):
        yield from _peers_of(state.mesh, found, port)
    elif isinstance(found, Workload):
        yield from (Target(ip, port) for ip in state.mesh.addresses(found))
    else:
        yield Target(found, port)


def _split(text: str) -> tuple[str, int]:
    """Raises ConfigError."""
    is_address = text.endswith("]") or (text.count(":") > 1 and "]" not in text)  # IPv6, with no port
    name, colon, port = (text, "", "") if is_address else text.rpartition(":")
    if not colon:
        name, port = text, "0"
    if not (port.isascii() and port.isdigit()) or not (int(port) <= 65535 and (name or int(port))):
        raise ConfigError(f"{text!r} is no other end", check="Expected: NAME, NAME:PORT or :PORT.")
    return name, int(port)


def _peers_of(mesh: Mesh, service: Service, port: int) -> Iterator[Target]:
    """Its addresses, and those of its endpoints with the ports that they have there."""
    yield from (Target(vip.ip, port) for vip in service.vips if vip.ip)
    for endpoint in mesh.endpoints(service.key):
        listed = endpoint.services.get(service.key, ())
        targets = {one.target_port or one.service_port for one in listed if one.service_port == port}
        for ip in mesh.addresses(endpoint):
            yield from (Target(ip, target) for target in (targets or {port} if port else {ANY_PORT}))


# ---- hops ------------------------------------------------------------------------------------------------------------


class Names(NamedTuple):
    """Who has an address."""

    mesh: Mesh
    network: str

    def party(self, ip: Ip, port: int) -> answers.Party:
        namespace, name = _owner(self.mesh, self.mesh.generation, self.network, ip)
        return {"namespace": namespace, "workload": name, "address": join_host_port(ip, port)}


@functools.lru_cache(maxsize=1024)
def _owner(mesh: Mesh, _generation: int, network: str, ip: Ip) -> tuple[str, str]:
    """Namespace and name; kept, since packets come from few addresses and each Service's block may have to be tried."""
    workload = mesh.workload_at(network, ip)
    services = () if workload is not None else mesh.services_at(network, ip)
    named = workload or (services[0] if services else None)
    return (named.namespace, named.name) if named is not None else ("", "")


def packet_hop(names: Names, packet: TracedPacket) -> answers.Hop:
    return {
        "time": timestamp(packet.at),
        "place": packet.program,
        "device": packet.device,
        "what": packet.packet,
        "bytes": packet.bytes,
        "source": names.party(packet.source, packet.source_port),
        "destination": names.party(packet.destination, packet.destination_port),
        "outcome": packet.reason,
        "verdict": _VERDICTS[packet.verdict],
        "next": next_place(packet),
        "words": packet.words,
        "policy": "",
        "check": "",
        "id": "",
    }


def next_place(packet: TracedPacket) -> str:
    """Where it goes from there."""
    verdict = _VERDICTS[packet.verdict]
    if verdict == _DROP:
        return "nowhere"
    if packet.reason == "INTO_NODE":  # by the device of the pod whose address it carries: from_pod sees it again
        return "from_pod"
    if verdict == _REDIRECT:
        return "pod" if packet.reason == "INTO_POD" else "at_proxy"
    return _AFTER[packet.program] if packet.reason not in _TO_THE_OTHER_POD else "to_pod"


_AFTER = {"from_pod": "node", "to_pod": "pod", "at_proxy": _PROXY, "from_proxy": "node"}
_TO_THE_OTHER_POD = frozenset({"LOCAL_FLOW", "FLOW_RENEWED", "FLOW_RESTORED", "ADOPTED", "LOCAL_ALLOWED"})


def record_hops(names: Names, record: ConnectionRecord, *, is_over: bool, is_told: bool) -> Sequence[answers.Hop]:
    """What the proxy, or the kernel's TCP, has done; `is_told`: of its beginning was told already."""
    hops = [] if is_told else list(_beginning(names, record))
    return [*hops, _end(names, record)] if is_over else hops


def _beginning(names: Names, record: ConnectionRecord) -> Iterator[answers.Hop]:
    if record.is_in_kernel:
        words = "the client's TCP connects; the kernel carries it alone, as the table of verdicts allows"
        yield _hop(names, record, record.started, "connects", "allowed", "from_pod", _with_policy(words, record))
        return
    yield _hop(names, record, record.started, "accepted", _PASS, "", _accepted(record))
    if not record.is_established:
        return
    at = record.started + record.set_up_seconds
    if record.transport is Transport.HBONE and record.direction is Direction.OUTBOUND:
        words = f"led to {_destination(record)} by a tunnel to {record.hop}, whose proxy answered the CONNECT with 200"
        yield _hop(names, record, at, "connected", "allowed", "from_proxy", words)
        return
    answer = "; the CONNECT was answered with 200" if record.transport is Transport.HBONE else ""
    words = f"dialled {_destination(record)}, and the application accepted{answer}"
    yield _hop(names, record, at, "connected", "allowed", "from_proxy", _with_policy(words, record))


def _accepted(record: ConnectionRecord) -> str:
    dialled = join_host_port(record.original_ip, record.original_port)
    if record.direction is Direction.OUTBOUND:
        service = f", which is {record.service}" if record.service else ""
        return f"a worker accepted the pod's connection to {dialled}{service}"
    if record.transport is Transport.HBONE:
        return f"a CONNECT for {_destination(record)} came by a tunnel of {_peer(record)}"
    return f"a worker accepted plain text for {_destination(record)}, from nobody that proved who he is"


def _end(names: Names, record: ConnectionRecord) -> answers.Hop:
    reason, is_well = reason_of(record), record.verdict is Verdict.ALLOWED
    words = f"{record.sent_bytes} B there and {record.received_bytes} B back in {record.seconds:.3f} s"
    if not is_well:
        words = record.error or ("ended" if record.is_established or record.is_in_kernel else "refused")
    at, goes = record.started + record.seconds, "" if is_well else "nowhere"
    hop = _hop(names, record, at, record.reason, record.verdict, goes, _with_policy(words, record))
    return {**hop, "check": reason.check if reason is not None else ""}


def _hop(
    names: Names, record: ConnectionRecord, at: float, outcome: str, verdict: str, goes: str, words: str
) -> answers.Hop:
    to_ip, to_port = record.destination_ip or record.original_ip, record.destination_port or record.original_port
    return {
        "time": timestamp(at),
        "place": _KERNEL if record.is_in_kernel else _PROXY,
        "device": "",
        "what": record.direction,
        "bytes": record.sent_bytes + record.received_bytes,
        "source": names.party(record.source_ip, record.source_port),
        "destination": names.party(to_ip, to_port),
        "outcome": outcome,
        "verdict": verdict,
        "next": goes,
        "words": words,
        "policy": record.policy,
        "check": "",
        "id": record.name,
    }


def _with_policy(words: str, record: ConnectionRecord) -> str:
    return f"{words}; decided by {record.policy}" if record.policy else words


def _peer(record: ConnectionRecord) -> str:
    return show_identity(record.source_identity).removeprefix("spiffe://") or "nobody"


def _destination(record: ConnectionRecord) -> str:
    return join_host_port(record.destination_ip or record.original_ip, record.destination_port or record.original_port)


def parse_trace(query: Mapping[str, str]) -> TraceQuestion:
    """Raises ConfigError for what is missing or malformed."""
    pod = query.get("pod", "")
    if not pod:
        raise ConfigError("trace needs a pod", check="nodeagent trace --pod NAMESPACE/NAME")
    return TraceQuestion(
        pod=pod,
        peers=tuple(filter(None, query.get("peers", "").split(","))),
        seconds=_number(query.get("seconds", ""), LONGEST_SECONDS, "seconds"),
        most=int(_number(query.get("most", ""), MOST_HOPS, "hops")),
        is_every=query.get("every") == "true",
    )


def _number(text: str, most: float, what: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 < number <= most:
        raise ConfigError(f"{text!r} is not a number of {what}", check=f"Expected: up to {most:g}.")
    return number
