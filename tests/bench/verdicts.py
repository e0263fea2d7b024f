# SPDX-License-Identifier: Apache-2.0
"""The table of verdicts of a full node: made again from nothing, and swapped in the kernel.

250 pods are the most that the largest kubelets have: 62,500 pairs. `distinct` is the worst case, in which no pod
shares an identity or a policy with another; `replicas` the usual one.
"""

import statistics
import time

from nodeagent.kernel.steering import Steering
from nodeagent.lab.namespaces import RUN_DIR, Node
from nodeagent.model.address import Ip, Port
from nodeagent.model.identity import Identity
from nodeagent.model.policy import Action, Clause, Match, MatchKind, Policy, PolicyScope, Rule, StringMatch
from nodeagent.policy.verdict_table import Member, VerdictRow, verdict_table
from nodeagent.routing.route import PROXY_PORTS
from tests.bench.report import Row, at_most

PODS = 250
GOAL = at_most(250)
_PORTS = (80, 443, 5432)


def run(node: Node, rounds: int) -> list[Row]:
    steering = Steering(bpffs="/sys/fs/bpf", run_dir=str(RUN_DIR))
    node.call(steering.start)
    try:
        made = []
        for name, members in (("distinct", distinct()), ("replicas", replicas())):
            made += _rows(name, members, steering, rounds)
        return made
    finally:
        node.call(steering.remove)


def distinct() -> list[Member]:
    """Each pod has an identity and a policy of its own; every third policy names ports."""
    return [Member(number, _identity(number), _addresses(number), (_policy(number),)) for number in range(PODS)]


def replicas() -> list[Member]:
    """Ten Deployments of 25, each with one identity and one policy."""
    policies = [_policy(group) for group in range(10)]
    return [
        Member(number, _identity(number % 10), _addresses(number), (policies[number % 10],)) for number in range(PODS)
    ]


def _identity(number: int) -> Identity:
    return Identity("cluster.local", f"team-{number % 7}", f"app-{number}")


def _addresses(number: int) -> tuple[Ip, ...]:
    return Ip(f"10.244.1.{number + 2}"), Ip(f"fd00:244:1::{number + 2}")


def _policy(number: int) -> Policy:
    """Allows two identities and a namespace, on some ports with every third."""
    principals = tuple(
        StringMatch(MatchKind.EXACT, str(_identity((number + step) % PODS)).removeprefix("spiffe://"))
        for step in (1, 2)
    )
    ports = tuple(Port(port) for port in _PORTS) if number % 3 == 0 else ()
    rules = (
        Rule((Clause((Match(principals=principals, destination_ports=ports),)),)),
        Rule((Clause((Match(namespaces=(StringMatch(MatchKind.EXACT, f"team-{number % 7}"),)),)),)),
    )
    name = f"allow-{number}"
    return Policy(name=name, namespace="shop", scope=PolicyScope.WORKLOAD_SELECTOR, action=Action.ALLOW, rules=rules)


def _rows(name: str, members: list[Member], steering: Steering, rounds: int) -> list[Row]:
    computing, swapping = [], []
    rows: list[VerdictRow] = []
    for _ in range(rounds):
        began = time.perf_counter()
        rows = verdict_table(members, PROXY_PORTS)
        computed = time.perf_counter()
        steering.put_verdicts(rows)
        computing.append((computed - began) * 1e3)
        swapping.append((time.perf_counter() - computed) * 1e3)
    what = f"table of verdicts, {PODS} pods, {name}"
    both = [one + other for one, other in zip(computing, swapping, strict=True)]
    return [
        Row(f"{what}: rows", len(rows), ""),
        Row(f"{what}: computed", statistics.median(computing), "ms", None, None, None, min(computing), max(computing)),
        Row(f"{what}: swapped", statistics.median(swapping), "ms", None, None, None, min(swapping), max(swapping)),
        Row(f"{what}: computed and swapped", statistics.median(both), "ms", None, None, GOAL, min(both), max(both)),
    ]
