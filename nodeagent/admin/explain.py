# SPDX-License-Identifier: Apache-2.0
"""`nodeagent explain`: what would become of one connection, and why. Pure.

outcome.py asks routing and policy as the proxy does; this describes their answers, those that are alike together, with
what would have to change and what the reader might not expect. It knows what this node knows, and no other node's.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import msgspec

from nodeagent.admin.last_seen import Likeness, last_seen
from nodeagent.admin.names import find_destination, find_source
from nodeagent.admin.outcome import Answer, Client, find_answers, find_targets
from nodeagent.admin.remedy import to_allow
from nodeagent.admin.state import AgentState, Captured, CertificateState, PodView
from nodeagent.admin.views import show_identity
from nodeagent.errors import ConfigError
from nodeagent.model.address import Ip, join_host_port
from nodeagent.model.identity import Identity
from nodeagent.model.mesh import Mesh
from nodeagent.model.record import ConnectionRecord
from nodeagent.model.workload import Service, TunnelProtocol, Workload
from nodeagent.policy.judge import Judgement, explain_lines
from nodeagent.policy.rehearse import rehearsal_words
from nodeagent.policy.sentences import cautions
from nodeagent.routing.route import Target


@dataclass(frozen=True, kw_only=True)
class Question:
    """The names as the operator typed them."""

    source: str
    destination: str
    port: int
    identity: Identity | None = None
    """Instead of the source's own."""
    is_plaintext: bool = False
    """As if the source were not in the mesh."""


def explain(state: AgentState, question: Question, history: Iterable[ConnectionRecord] = ()) -> dict[str, object]:
    """Raises ConfigError for names that mean nothing or several things. `history` has the newest first."""
    client, found, targets, answers = _ask(state, question)
    groups: dict[tuple[object, ...], list[Answer]] = {}
    for answer in answers:
        workings = answer.judgement.policies if answer.judgement else ()
        alike = (answer.server_name, answer.verdict, answer.words, answer.transport, answer.tunnel, workings)
        groups.setdefault(alike, []).append(answer)
    verdicts = {answer.verdict for answer in answers}
    return {
        "source": _describe_source(state, client, question),
        "destination": _describe_destination(question, found),
        "routes": [_describe(group, state.mesh) for group in groups.values()],
        "verdict": verdicts.pop() if len(verdicts) == 1 else "MIXED",
        "last_seen": last_seen(history, _likeness(client, question, targets, answers), state.now),
        "warnings": list(_warnings(state, client, answers)),
    }


def destinations(state: AgentState, question: Question) -> Iterator[Workload]:
    """Whom the connection may reach, each once. Raises ConfigError as `explain`."""
    answers = _ask(state, question)[3]
    reached = {answer.destination.uid: answer.destination for answer in answers if answer.destination is not None}
    yield from reached.values()


def _ask(
    state: AgentState, question: Question
) -> tuple[Client, Workload | Service | Ip, Sequence[Target], Sequence[Answer]]:
    mesh = state.mesh
    client = _client(state, question)
    found = find_destination(mesh, question.destination, question.port)
    targets = find_targets(mesh, client.workload, found, question.port)
    return client, found, targets, [answer for target in targets for answer in find_answers(mesh, client, target)]


def _client(state: AgentState, question: Question) -> Client:
    found = find_source(state.mesh, state.network, question.source)
    is_enrolled = isinstance(found, Workload) and found.protocol is TunnelProtocol.HBONE
    is_captured = is_enrolled and not question.is_plaintext
    if question.identity is not None and not is_captured:
        raise ConfigError(
            f"--identity: {question.source} would connect in plain text, which has no identity",
            check="Leave out --plaintext, or name a source that is in the mesh.",
        )
    if not isinstance(found, Workload):
        stranger = Workload(
            uid="", name="", namespace="", addresses=(found,), network=state.network, protocol=TunnelProtocol.TCP
        )
        return Client(stranger, is_captured=False, identity=None, is_known=False)
    identity = (question.identity or found.identity) if is_captured else None
    # Of its own node only: how another node has it set is not known here.
    own_node = state.node if state.same_node == "kernel" and found.node == state.node else ""
    drawn = state.drawn if own_node else frozenset()
    return Client(found, is_captured, identity, is_known=True, direct_node=own_node, drawn=drawn)


def _likeness(client: Client, question: Question, targets: Sequence[Target], answers: Sequence[Answer]) -> Likeness:
    return Likeness(
        sources=frozenset(client.workload.addresses),
        dialled=frozenset(targets),
        endpoints=frozenset(answer.at for answer in answers if answer.at is not None),
        identity=question.identity,
        is_plaintext=question.is_plaintext,
    )


def _describe_source(state: AgentState, client: Client, question: Question) -> dict[str, object]:
    workload, pod = client.workload, _pod(state, client.workload)
    if not client.is_known:
        captured = "no: outside the mesh"
    elif question.is_plaintext:
        captured = "no: --plaintext"
    elif pod is not None:
        how = f"{pod.device}, {pod.hits} connections" if pod.captured is Captured.YES else pod.reason
        captured = f"{pod.captured} ({how})"
    elif not client.is_captured:
        captured = "no: not in the mesh"
    else:
        captured = f"by its own node, {workload.node}" if workload.node != state.node else "no: not listed here"
    return {
        "name": f"{workload.namespace}/{workload.name}" if client.is_known else question.source,
        "addresses": list(workload.addresses),
        "node": workload.node,
        "identity": show_identity(client.identity),
        "captured": captured,
    }


def _describe_destination(question: Question, found: Workload | Service | Ip) -> dict[str, object]:
    return {
        "asked": join_host_port(question.destination, question.port),
        "service": found.key if isinstance(found, Service) else "",
        "port": question.port,
    }


def _describe(group: list[Answer], mesh: Mesh) -> dict[str, object]:
    """Answers that differ in their endpoint only."""
    first = group[0]
    judgement = first.judgement
    return {
        "endpoints": [answer.endpoint for answer in group if answer.endpoint],
        "transport": first.transport,
        "path": list(first.path),
        "tunnel": first.tunnel,
        "verdict": first.verdict,
        "reason": first.reason,
        "words": first.words,
        "policies": msgspec.to_builtins(judgement.policies) if judgement else [],
        "missing": list(judgement.missing) if judgement else [],
        "nearest_miss": msgspec.to_builtins(judgement.nearest_miss) if judgement else None,
        "working": list(explain_lines(judgement)) if judgement else [],
        "dry_run": _describe_dry_run(judgement),
        "to_allow": list(to_allow(judgement)) if judgement else [],
        "files": _files(judgement, mesh) if judgement else {},
    }


def _files(judgement: Judgement, mesh: Mesh) -> dict[str, str]:
    """In which file and line each policy is written, if the control plane has said so."""
    places = {working.policy: mesh.origin(working.policy) for working in judgement.policies}
    return {policy: place for policy, place in places.items() if place}


def _describe_dry_run(judgement: Judgement | None) -> str:
    if judgement is None or judgement.rehearsed is None:
        return ""
    return rehearsal_words(judgement.rehearsed, judgement.verdict)


def _warnings(state: AgentState, client: Client, answers: Sequence[Answer]) -> Iterator[str]:
    own = _pod(state, client.workload)
    if client.is_captured and own is not None and own.captured is not Captured.YES:
        yield f"the source is in the mesh and not captured ({own.reason}): it would connect in plain text"
    for view in state.certificates:
        if view.identity == client.identity is not None and view.state is not CertificateState.AVAILABLE:
            yield f"there is no certificate for {client.identity}: {view.last_error or view.state}"
    for pod, workload in _unguarded(state, answers):
        name = f"{workload.namespace}/{workload.name}"
        yield f"the destination {name} is in the mesh and not captured ({pod.reason}): its policies are not enforced"
    named = {working.policy for answer in answers if answer.judgement for working in answer.judgement.policies}
    for name in sorted(named):
        policy = state.mesh.policy_named(name)
        for caution in cautions(policy) if policy is not None else ():
            yield f"{name}: {caution}"


def _unguarded(state: AgentState, answers: Sequence[Answer]) -> Iterator[tuple[PodView, Workload]]:
    """Pods of this node that policies are asked for and that no program guards."""
    judged = (answer.destination for answer in answers if answer.judgement is not None)
    for workload in {found.uid: found for found in judged if found is not None}.values():
        pod = _pod(state, workload)
        if pod is not None and pod.captured is not Captured.YES:
            yield pod, workload


def _pod(state: AgentState, workload: Workload) -> PodView | None:
    named = (workload.namespace, workload.name)
    return next((pod for pod in state.pods if (pod.namespace, pod.pod) == named), None)
