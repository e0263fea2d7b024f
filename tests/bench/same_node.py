# SPDX-License-Identifier: Apache-2.0
"""Two pods of one node, by every way there is between them, in one run.

bare      no program of ours anywhere
fast      in the kernel, allowed by its table of verdicts
steered   by a Service's address: through the proxy, without a tunnel
tunnel    `--same-node tunnel`: through the proxy twice, mutual TLS between
envoy     the pods of `bare`, and two Envoys with HBONE between them
"""

from collections.abc import Iterator, Mapping

from nodeagent.errors import NotPossible
from nodeagent.lab.namespaces import Pod
from nodeagent.model.address import Ip
from tests.bench import envoy_pair, load, programs
from tests.bench.ground import SERVICE_IPS, SERVICE_PORT, Condition, Ground
from tests.bench.load import Work
from tests.bench.report import Comparison, Goal, Row, at_least, at_most, summarize
from tests.bench.rounds import Harness, Settings, Subject

NODE, CLIENT, SERVER = "node-a", "web", "api"
WORKS = (load.exchange(), load.bulk("upload"), load.churn(64))
_GOALS: dict[str, Goal] = {
    "1 KiB request/response, p50": at_most(1.05),
    "bulk up, 1 connection": at_least(0.96),
    "new connections, 64 at a time": at_least(0.90),
}
_REASONS = ("LOCAL_ALLOWED", "LOCAL_STEERED", "STEERED")
_PEERS = {"bare": "no program", "tunnel": "our tunnel", "envoy": "two Envoys"}


def run(ground: Ground, harness: Harness, settings: Settings) -> list[Row]:
    ways = _subjects(ground)
    made = summarize(harness.run(list(ways.values()), WORKS), comparisons())
    for way in ("fast", "steered"):
        for work in (load.exchange(), load.bulk("upload")):
            turns = harness.undisturbed(lambda way=way, work=work: _measure(ground, ways[way], work, settings))  # type: ignore[misc]
            name = "request/response" if work.kind == "exchange" else "bulk"
            made += programs.rows(turns, f"same node {way}", name, is_one_at_a_time=work.kind == "exchange")
    ground.become(NODE, Condition.BARE)
    return made


def _measure(ground: Ground, way: Subject, work: Work, settings: Settings) -> list[programs.Turn]:
    node = ground.stage.lab.nodes[NODE]
    return programs.measure(ground.generator, [node], way, work, settings.rounds, settings.seconds)


def comparisons() -> Iterator[Comparison]:
    """Pure. The rows of the rounds, in their order."""
    for work in WORKS:
        for measure, how in work.measures.items():
            for peer, words in _PEERS.items():
                goal = _GOALS.get(measure) if peer == "bare" else None
                yield Comparison(f"same node fast to {words}, {measure}", measure, how.unit, "fast", peer, goal)
            for subject in ("steered", "tunnel"):
                yield Comparison(f"same node {subject} to no program, {measure}", measure, how.unit, subject, "bare")
            yield Comparison(f"same node tunnel to two Envoys, {measure}", measure, how.unit, "tunnel", "envoy")


def _subjects(ground: Ground) -> dict[str, Subject]:
    """In an order in which the node changes least, and `bare` is next to `fast`."""
    client, server = ground.pod(CLIENT), ground.pod(SERVER)
    ground.generator.serve(server)
    node = ground.stage.lab.nodes[NODE]
    proxy = envoy_pair.start(node, node, server)

    def way(name: str, condition: Condition, ip: Ip, port: int, reason: str = "") -> Subject:
        return _Way(ground, condition, reason).subject(name, client, ip, port)

    every = (
        way("envoy", Condition.BARE, proxy.ip, proxy.port),
        way("bare", Condition.BARE, server.ipv4, load.PORT),
        way("fast", Condition.KERNEL, server.ipv4, load.PORT, "LOCAL_ALLOWED"),
        way("steered", Condition.KERNEL, Ip(SERVICE_IPS[0]), SERVICE_PORT, "STEERED"),
        way("tunnel", Condition.TUNNEL, server.ipv4, load.PORT, "LOCAL_STEERED"),
    )
    return {subject.name: subject for subject in every}


class _Way:
    """`reason`: what the kernel counts when a connection goes this way, and no other; empty without programs."""

    def __init__(self, ground: Ground, condition: Condition, reason: str) -> None:
        self._ground, self._condition, self._reason = ground, condition, reason
        self._before: Mapping[str, int] = {}

    def subject(self, name: str, client: Pod, ip: Ip, port: int) -> Subject:
        return Subject(name, client, ip, port, lambda: self._prepare(client, ip, port), self._check)

    def _prepare(self, client: Pod, ip: Ip, port: int) -> None:
        self._ground.become(NODE, self._condition)
        if self._reason:
            self._ground.await_reason(NODE, self._reason, client, ip, port)
            self._before = self._ground.packets(NODE)

    def _check(self) -> None:
        """Raises NotPossible when another way was measured than the row would say."""
        if not self._reason:
            return
        now = self._ground.packets(NODE)
        grown = {reason: now[reason] - self._before[reason] for reason in _REASONS}
        if not 0 < sum(grown.values()) == grown[self._reason]:
            raise NotPossible(f"connections that should all have been {self._reason} were {grown}")
