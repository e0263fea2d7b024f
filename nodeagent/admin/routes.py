# SPDX-License-Identifier: Apache-2.0
"""Which path of the admin socket answers with which view. The only place where a query is read."""

import dataclasses
import math
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Protocol, TypeAlias

from nodeagent.admin.dump import dump, whole_history
from nodeagent.admin.edges import edges
from nodeagent.admin.explain import Question, explain
from nodeagent.admin.hops import TraceQuestion, parse_trace
from nodeagent.admin.server import Documents, LastingOrder, Route
from nodeagent.admin.state import AgentState, FetchConnections, FlowSource, ProbedNode, ReadState, ReplacedWorker
from nodeagent.admin.status import status
from nodeagent.admin.views import (
    certificates,
    connections,
    flows,
    logs,
    pods,
    policies,
    policy_in_words,
    probe,
    services,
    workloads,
)
from nodeagent.errors import ConfigError
from nodeagent.model.identity import Identity
from nodeagent.model.record import ConnectionRecord, FlowPage

LONGEST_WAIT_SECONDS = 30.0
PROBE_SECONDS = 5.0
"""For each tunnel: a SYN that was lost is sent again after one, three and seven."""
LONGEST_PROBE_SECONDS = 30.0


def make_routes(read: ReadState, fetch_connections: FetchConnections, history: FlowSource) -> Mapping[str, Route]:
    """`read` makes a snapshot for each question; `fetch_connections` asks the workers."""

    def answered_by(view: Callable[[AgentState], Mapping[str, object]]) -> Route:
        async def answer(_query: Mapping[str, str]) -> Mapping[str, object]:
            return view(read())

        return answer

    async def of_policies(query: Mapping[str, str]) -> Mapping[str, object]:
        name = query.get("name")
        return policies(read()) if name is None else policy_in_words(read(), name)

    async def of_connections(_query: Mapping[str, str]) -> Mapping[str, object]:
        return connections(await fetch_connections(), read().now)

    async def of_flows(query: Mapping[str, str]) -> Mapping[str, object]:
        cursor, wait = query.get("after"), _seconds(query.get("wait", "0"))
        if cursor is None:
            last = query.get("last")
            return flows(history.newest(None if last is None else _count(last)))
        return flows(await history.follow(cursor, min(wait, LONGEST_WAIT_SECONDS)))

    async def of_edges(_query: Mapping[str, str]) -> Mapping[str, object]:
        open_now, over = await fetch_connections(), await whole_history(history)
        return edges(read(), open_now, over)

    async def of_dump(_query: Mapping[str, str]) -> Mapping[str, object]:
        open_now, over = await fetch_connections(), await whole_history(history)
        return dump(read(), open_now, over)

    async def of_explain(query: Mapping[str, str]) -> Mapping[str, object]:
        return explain(read(), parse_question(query), history.newest_first())

    return {
        "/version": answered_by(
            lambda state: {"version": state.version, "node": state.node, "programs": state.programs}
        ),
        "/status": answered_by(status),
        "/pods": answered_by(pods),
        "/workloads": answered_by(lambda state: workloads(state.mesh)),
        "/services": answered_by(lambda state: services(state.mesh)),
        "/policies": of_policies,
        "/certs": answered_by(certificates),
        "/log": answered_by(logs),
        "/connections": of_connections,
        "/flows": of_flows,
        "/explain": of_explain,
        "/edges": of_edges,
        "/dump": of_dump,
    }


ReplaceWorkers: TypeAlias = Callable[[int | None, float], Awaitable[Sequence[ReplacedWorker]]]
"""Of one slot or, one after the other, of all; waits so many seconds for the end of each former worker."""


KillConnection: TypeAlias = Callable[[str], Awaitable[ConnectionRecord]]
"""By its id; the record of its end."""


class StartPod(Protocol):
    """As PodStarts.start of agent/pod_starts.py."""

    async def __call__(self, namespace: str, name: str, uid: str, netns: str) -> str: ...


ProbeNodes: TypeAlias = Callable[[Collection[str], float], Awaitable[Sequence[ProbedNode]]]
"""Of these nodes or, of none, of all; patient for so many seconds with each."""


class LogLevelSetting(Protocol):
    """As agent/log_levels.py."""

    def change(self, text: str, *, is_reset: bool = False, seconds: float = 0.0) -> object: ...


def make_orders(
    renew_certificates: Callable[[], int],
    replace_workers: ReplaceWorkers,
    kill_connection: KillConnection,
    log_levels: LogLevelSetting,
    probe_nodes: ProbeNodes,
    end_trace: Callable[[], None],
    start_pod: StartPod | None = None,
) -> Mapping[str, Route]:
    """`end_trace`: the one that runs tells what there is still, and ends.

    `start_pod`: of an agent that takes its pods from Kubernetes.
    """

    async def of_renewal(_query: Mapping[str, str]) -> Mapping[str, object]:
        return {"asked": renew_certificates()}

    async def of_replacement(query: Mapping[str, str]) -> Mapping[str, object]:
        slot, wait = query.get("slot"), query.get("wait", "0")
        if slot is not None and not (slot.isascii() and slot.isdigit()):
            raise ConfigError(f"{slot!r} is not a worker's number", check="Expected: 0 to 3.")
        replaced = await replace_workers(None if slot is None else int(slot), _seconds(wait))
        return {"replaced": [dataclasses.asdict(one) for one in replaced]}

    async def of_killing(query: Mapping[str, str]) -> Mapping[str, object]:
        record = await kill_connection(query.get("id", ""))
        return {"killed": flows(FlowPage((record,), "", has_more=False, lost=0))["flows"]}

    async def of_log(query: Mapping[str, str]) -> Mapping[str, object]:
        level = query.get("level", "")
        log_levels.change(level, is_reset=not level, seconds=_seconds(query.get("seconds", "0")))
        return {}

    async def of_probe(query: Mapping[str, str]) -> Mapping[str, object]:
        nodes = [name for name in query.get("to", "").split(",") if name]
        seconds = min(_seconds(query.get("seconds", f"{PROBE_SECONDS:g}")), LONGEST_PROBE_SECONDS)
        return {"probes": [probe(tried) for tried in await probe_nodes(nodes, seconds)]}

    async def of_trace_end(_query: Mapping[str, str]) -> Mapping[str, object]:
        end_trace()
        return {}

    return {
        "/pods/start": _start_route(start_pod),
        "/certs/renew": of_renewal,
        "/workers/replace": of_replacement,
        "/connections/kill": of_killing,
        "/log": of_log,
        "/probe": of_probe,
        "/trace/end": of_trace_end,
    }


def _start_route(start_pod: StartPod | None) -> Route:
    async def of_start(query: Mapping[str, str]) -> Mapping[str, object]:
        namespace, name, uid, netns = (query.get(field, "") for field in ("namespace", "name", "uid", "netns"))
        if start_pod is None:
            raise ConfigError("this agent takes its pods from a file", check="nodeagent-cni is for --kubernetes on.")
        if not (namespace and name and netns):
            raise ConfigError("a pod is named by namespace, name and netns", check="Is it nodeagent-cni that asks?")
        return {"not_captured": await start_pod(namespace, name, uid, netns)}

    return of_start


class Tracing(Protocol):
    """As agent/tracer.py."""

    async def begin(self, question: TraceQuestion) -> Documents:
        """Returns when packets are told of. Raises NodeagentError."""
        ...


def make_lasting(tracing: Tracing) -> Mapping[str, LastingOrder]:
    async def of_trace(query: Mapping[str, str]) -> Documents:
        return await tracing.begin(parse_trace(query))

    return {"/trace": of_trace}


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ConfigError(f"{text!r} is not a number of seconds", check="Expected: 0 or more.")
    return seconds


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ConfigError(f"{text!r} is not a number of flows", check="Expected: 0 or more.")
    return int(text)


def parse_question(query: Mapping[str, str]) -> Question:
    """Raises ConfigError for what is missing or malformed."""
    source, destination, port = (query.get(name, "") for name in ("source", "destination", "port"))
    if not source or not destination:
        raise ConfigError("explain needs a source and a destination", check="nodeagent explain SOURCE DESTINATION:PORT")
    if not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        raise ConfigError(f"{port!r} is not a port", check="Expected: 1 to 65535.")
    return Question(
        source=source,
        destination=destination,
        port=int(port),
        identity=_identity(query.get("identity", "")),
        is_plaintext=query.get("plaintext") == "true",
    )


def _identity(text: str) -> Identity | None:
    if not text:
        return None
    try:
        return Identity.parse(text if text.startswith("spiffe://") else f"spiffe://{text}")
    except ValueError as error:
        raise ConfigError(f"--identity: {error}") from error
