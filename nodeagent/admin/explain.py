# SPDX-License-Identifier: Apache-2.0
"""`nodeagent explain`: what would become of one connection, and why. Pure.

outcome.py asks routing and policy as the proxy does; this describes their answers, those that are alike together, with
what would have to change and what the reader might not expect. It knows what this node knows, and no other node's.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec

from nodeagent.admin.names import find_destination, find_source
from nodeagent.admin.outcome import Answer, Client, find_answers, find_targets
from nodeagent.admin.remedy import to_allow
from nodeagent.admin.state import AgentState, Captured, CertificateState, PodView
from nodeagent.admin.views import show_identity
from nodeagent.errors import ConfigError
from nodeagent.model.address import Ip, join_host_port
from nodeagent.model.identity import Identity
from nodeagent.model.workload import Service, TunnelProtocol, Workload
from nodeagent.policy.judge import Judgement, explain_lines
from nodeagent.policy.rehearse import rehearsal_words
from nodeagent.policy.sentences import cautions


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


def explain(state: AgentState, question: Question) -> dict[str, object]:
    """Raises ConfigError for names that mean nothing or several things."""
    mesh = state.mesh
    client = _client(state, question)
    found = find_destination(mesh, question.destination, question.port)
    targets = find_targets(mesh, client.workload, found, question.port)
    answers = [answer for target in targets for answer in find_answers(mesh, client, target)]
    groups: dict[tuple[object, ...], list[Answer]] = {}
    for answer in answers:
        workings = answer.judgement.policies if answer.judgement else ()
        groups.setdefault((answer.server_name, answer.verdict, answer.words, answer.transport, workings), []).append(
            answer
        )
    verdicts = {answer.verdict for answer in answers}
    return {
        "source": _describe_source(state, client, question),
        "destination": _describe_destination(question, found),
        "routes": [_describe(group) for group in groups.values()],
        "verdict": verdicts.pop() if len(verdicts) == 1 else "MIXED",
        "warnings": list(_warnings(state, client, answers)),
    }


def _client(state: AgentState, question: Question) -> Client:
    found = find_source(state.mesh, state.network, question.source)
    if not isinstance(found, Workload):
        stranger = Workload(
            uid="", name="", namespace="", addresses=(found,), network=state.network, protocol=TunnelProtocol.TCP
        )
        return Client(stranger, is_captured=False, identity=None, is_known=False)
    is_captured = found.protocol is TunnelProtocol.HBONE and not question.is_plaintext
    if question.identity is not None and not is_captured:
        raise ConfigError(
            f"--identity: {question.source} would connect in plain text, which has no identity",
            check="Leave out --plaintext, or name a source that is in the mesh.",
        )
    identity = (question.identity or found.identity) if is_captured else None
    # Of its own node only: how another node has it set is not known here.
    own_node = state.node if state.same_node == "kernel" and found.node == state.node else ""
    drawn = state.drawn if own_node else frozenset()
    return Client(found, is_captured, identity, is_known=True, direct_node=own_node, drawn=drawn)


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


def _describe(group: list[Answer]) -> dict[str, object]:
    """Answers that differ in their endpoint only."""
    first = group[0]
    judgement = first.judgement
    return {
        "endpoints": [answer.endpoint for answer in group if answer.endpoint],
        "transport": first.transport,
        "path": list(first.path),
        "verdict": first.verdict,
        "reason": first.reason,
        "words": first.words,
        "policies": msgspec.to_builtins(judgement.policies) if judgement else [],
        "missing": list(judgement.missing) if judgement else [],
        "nearest_miss": msgspec.to_builtins(judgement.nearest_miss) if judgement else None,
        "working": list(explain_lines(judgement)) if judgement else [],
        "dry_run": _describe_dry_run(judgement),
        "to_allow": list(to_allow(judgement)) if judgement else [],
    }


def _describe_dry_run(judgement: Judgement | None) -> str:
    if judgement is None or judgement.rehearsed is None:
        return ""
    return rehearsal_words(judgement.rehearsed, judgement.verdict)


def _warnings(state: AgentState, client: Client, answers: Sequence[Answer]) -> Iterator[str]:
    pod = _pod(state, client.workload)
    if client.is_captured and pod is not None and pod.captured is not Captured.YES:
        yield f"the source is in the mesh and not captured ({pod.reason}): it would connect in plain text"
    for view in state.certificates:
        if view.identity == client.identity is not None and view.state is not CertificateState.AVAILABLE:
            yield f"there is no certificate for {client.identity}: {view.last_error or view.state}"
    named = {working.policy for answer in answers if answer.judgement for working in answer.judgement.policies}
    for name in sorted(named):
        policy = state.mesh.policy_named(name)
        for caution in cautions(policy) if policy is not None else ():
            yield f"{name}: {caution}"


def _pod(state: AgentState, workload: Workload) -> PodView | None:
    named = (workload.namespace, workload.name)
    return next((pod for pod in state.pods if (pod.namespace, pod.pod) == named), None)
