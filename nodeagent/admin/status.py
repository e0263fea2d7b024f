# SPDX-License-Identifier: Apache-2.0
"""`nodeagent status`: one line per component and one verdict over all. Pure."""

from collections.abc import Iterator

from nodeagent.admin import answers
from nodeagent.admin.state import AgentState, Captured, CertificateState, ComponentState, Health
from nodeagent.admin.views import age, moment

_RANK = (Health.OK, Health.DEGRADED, Health.FAILED)


def status(state: AgentState) -> answers.Status:
    components = (*state.components, *derived(state))
    worst = max((component.state for component in components), key=_RANK.index, default=Health.OK)
    return {
        "node": state.node,
        "version": state.version,
        "state": worst,
        "since": moment(state.started),
        "summary": summary(state),
        "components": [
            {
                "component": component.name,
                "state": component.state,
                "since": moment(component.since),
                "age_seconds": age(component.since, state.now),
                "detail": component.detail,
            }
            for component in components
        ],
        "workers": [
            {
                "slot": worker.slot,
                "pid": worker.pid,
                "state": worker.state,
                "since": moment(worker.since),
                "age_seconds": age(worker.since, state.now),
                "restarts": worker.restarts,
                "connections": worker.connections,
                "generation": worker.generation,
            }
            for worker in state.workers
        ],
        "kernel": [
            {"reason": count.reason, "packets": count.packets, "words": count.words, "drop": count.is_drop}
            for count in state.kernel
        ],
        "in_kernel": state.in_kernel,
        "generation": state.mesh.generation,
        "rejected": list(state.rejected),
    }


def summary(state: AgentState) -> str:
    """One line for `--brief`."""
    mesh = state.mesh
    captured, wanted = _captured(state)
    return (
        f"{captured}/{wanted} pods captured, {len(mesh.workloads)} workloads, {len(mesh.services)} services, "
        f"{len(mesh.policies)} policies"
    )


def derived(state: AgentState) -> Iterator[ComponentState]:
    """Components that follow from the other parts of the state."""
    captured, wanted = _captured(state)
    detail = f"{captured}/{wanted} pods captured"
    pending = [pod for pod in state.pods if pod.captured is Captured.PENDING]
    if pending:
        detail += f"; pending: {_few([f'{pod.namespace}/{pod.pod} ({pod.reason})' for pod in pending])}"
    yield ComponentState("redirect", Health.DEGRADED if pending else Health.OK, state.started, detail)
    yield _proxy(state)
    yield _certificates(state)
    yield _policies(state)
    drops = sum(count.packets for count in state.kernel if count.is_drop)
    by_size = sorted((count for count in state.kernel if count.is_drop and count.packets), key=lambda c: -c.packets)
    told = f": {_few([f'{count.reason} {count.packets}' for count in by_size])}" if by_size else ""
    # Refusing what must not pass is health, not the lack of it.
    yield ComponentState("drops", Health.OK, state.started, f"{drops} packets{told}")


def _captured(state: AgentState) -> tuple[int, int]:
    captured = sum(pod.captured is Captured.YES for pod in state.pods)
    return captured, captured + sum(pod.captured is Captured.PENDING for pod in state.pods)


def _proxy(state: AgentState) -> ComponentState:
    ready = [worker for worker in state.workers if worker.state == "ready"]
    behind = [worker.slot for worker in ready if worker.generation < state.mesh.generation]
    restarts = sum(worker.restarts for worker in state.workers)
    health = Health.FAILED if not ready else Health.OK
    if ready and len(ready) < len(state.workers):
        health = Health.DEGRADED
    detail = f"{len(ready)}/{len(state.workers)} workers ready"
    detail += f", {sum(worker.connections for worker in state.workers)} connections"
    detail += f", restarted: {restarts}" if restarts else ""
    detail += f", workers {', '.join(map(str, behind))} still apply a change" if behind else ""
    return ComponentState(
        "proxy", health, max((worker.since for worker in state.workers), default=state.started), detail
    )


def _certificates(state: AgentState) -> ComponentState:
    leaves = [view for view in state.certificates if view.identity is not None]
    usable = [view for view in leaves if view.state is CertificateState.AVAILABLE and view.not_after > state.now]
    unusable = [str(view.identity) for view in leaves if view not in usable]
    detail = f"{len(usable)}/{len(leaves)} identities have a certificate"
    if usable:
        detail += f", the next ends {moment(min(view.not_after for view in usable))}"
    if unusable:
        detail += f"; without: {_few(unusable)}"
    return ComponentState("certificates", Health.FAILED if unusable else Health.OK, state.started, detail)


def _policies(state: AgentState) -> ComponentState:
    missing = sorted(
        {name for workload in state.mesh.workloads_on(state.node) for name in state.mesh.policies_for(workload)[1]}
    )
    detail = f"{len(state.mesh.policies)} policies"
    if missing:
        detail += f"; named by workloads here and not received: {_few(missing)}"
    if state.rejected:
        detail += f"; {len(state.rejected)} resources refused: {_few(list(state.rejected))}"
    health = Health.FAILED if missing else Health.DEGRADED if state.rejected else Health.OK
    return ComponentState("policy-sync", health, state.started, detail)


def _few(words: list[str]) -> str:
    return ", ".join(words[:3]) + (f" and {len(words) - 3} more" if len(words) > 3 else "")
