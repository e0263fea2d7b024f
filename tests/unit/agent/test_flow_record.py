# SPDX-License-Identifier: Apache-2.0
"""The record of a direct connection: whose it was, by which policy, and how it ended."""

import msgspec
import pytest

from nodeagent.agent.flow_record import Ending, Moment, describe, ended, how_it_ended, revocation
from nodeagent.kernel.codings import FlowReport, ReportState
from nodeagent.model.address import Ip, Port
from nodeagent.model.identity import Identity
from nodeagent.model.mesh import Changes, Mesh
from nodeagent.model.policy import Action, Clause, Match, Policy, PolicyScope, Rule
from nodeagent.model.reason import Reason
from nodeagent.model.record import Direction, Path, Transport
from nodeagent.model.security import DryRun
from nodeagent.model.workload import TunnelProtocol, Workload

WEB, DB = Ip("10.0.0.1"), Ip("10.0.0.2")
SECOND = 1_000_000_000
NOW = Moment(1_000_000.0, 50 * SECOND)
REPORT = FlowReport(492, 7, 40 * SECOND, 0, 0, 0, WEB, DB, 40000, 80, 0, 0, ReportState.OPEN)
ENDED = REPORT._replace(
    ended=42 * SECOND + SECOND // 2, sent=10, received=20, round_trip_us=70, retransmissions=1, state=ReportState.CLOSED
)


def _workload(name: str, ip: Ip) -> Workload:
    return Workload(
        uid=name, name=name, namespace="shop", addresses=(ip,), service_account=name, protocol=TunnelProtocol.HBONE
    )


def _policy(name: str, action: Action, port: int) -> Policy:
    rule = Rule(clauses=(Clause(matches=(Match(destination_ports=(Port(port),)),)),))
    return Policy(name=name, namespace="shop", scope=PolicyScope.NAMESPACE, action=action, rules=(rule,))


def _mesh(*policies: Policy) -> Mesh:
    mesh = Mesh()
    mesh.apply(Changes(workloads=(_workload("web", WEB), _workload("db", DB)), policies=policies))
    return mesh


def test_it_is_told_as_the_proxy_would_tell_it() -> None:
    record = describe(REPORT, _mesh(_policy("allow", Action.ALLOW, 80)), "", NOW)
    assert (record.id, record.direction, record.transport, record.path) == (
        492, Direction.OUTBOUND, Transport.TCP, Path.KERNEL,
    )  # fmt: skip
    assert record.started == NOW.wall - 10
    assert (record.source_ip, record.source_port) == (WEB, 40000)
    assert (record.original_ip, record.original_port) == (record.destination_ip, record.destination_port) == (DB, 80)
    assert (record.source.workload, record.destination.workload) == ("web", "db")
    assert record.source_identity == Identity("cluster.local", "shop", "web")
    assert record.destination_identity == Identity("cluster.local", "shop", "db")
    assert (record.policy, record.reason, record.service, record.hop) == ("shop/allow", "", "", "")


def test_it_tells_what_dry_runs_would_have_decided() -> None:
    tried = msgspec.structs.replace(_policy("try", Action.DENY, 80), is_dry_run=True)
    mesh = _mesh(_policy("allow", Action.ALLOW, 80))
    mesh.apply(Changes(extensions=(DryRun(policy=tried, namespace="shop"),)))
    record = describe(REPORT, mesh, "", NOW)
    assert (record.policy, record.dry_run, record.dry_run_policy) == ("shop/allow", "denied", "shop/try")
    assert record.is_dry_run_other


def test_what_the_mesh_does_not_know_has_no_name() -> None:
    record = describe(REPORT, Mesh(), "", NOW)
    assert (record.source.workload, record.destination.workload, record.source_identity) == ("", "", None)
    assert record.policy == ""


def test_an_end_has_the_kernels_numbers_and_the_openings_names() -> None:
    record = ended(describe(REPORT, _mesh(), "", NOW), ENDED, Ending(Reason.CLOSED))
    assert (record.sent_bytes, record.received_bytes, record.seconds) == (10, 20, 2.5)
    assert (record.round_trip_us, record.retransmissions, record.reason) == (70, 1, "closed")
    assert record.source.workload == "web"


@pytest.mark.parametrize(
    ("state", "retransmissions", "reason", "error"),
    [
        (ReportState.CLOSED, 0, Reason.CLOSED, ""),
        (ReportState.RESET, 0, Reason.RESET, ""),
        (ReportState.REFUSED, 0, Reason.CONNECT_REFUSED, ""),
        (ReportState.UNANSWERED, 0, Reason.CONNECT_TIMEOUT, "no answer; the SYN was sent 1 time"),
        (ReportState.UNANSWERED, 6, Reason.CONNECT_TIMEOUT, "no answer; the SYN was sent 7 times"),
    ],
)
def test_how_it_ended(state: ReportState, retransmissions: int, reason: Reason, error: str) -> None:
    mesh = _mesh()
    report = ENDED._replace(state=state, retransmissions=retransmissions)
    assert how_it_ended(report, describe(report, mesh, "", NOW), mesh, "") == Ending(reason, error=error)


@pytest.mark.parametrize(
    ("policies", "state", "ending"),
    [
        pytest.param(
            (_policy("no", Action.DENY, 80),),
            ReportState.RESET,
            Ending(Reason.POLICY_CHANGED, "shop/no", "now policy_denied"),
            id="denied by now",
        ),
        pytest.param(
            (_policy("others", Action.ALLOW, 81),),
            ReportState.RESET,
            Ending(Reason.POLICY_CHANGED, "", "now policy_not_allowed"),
            id="not allowed any more",
        ),
        pytest.param((_policy("no", Action.DENY, 80),), ReportState.CLOSED, Ending(Reason.CLOSED), id="ended first"),
        pytest.param((_policy("no", Action.DENY, 81),), ReportState.RESET, Ending(Reason.RESET), id="another port"),
    ],
)
def test_a_reset_of_what_is_denied_by_now_was_ours(
    policies: tuple[Policy, ...], state: ReportState, ending: Ending
) -> None:
    record = describe(ENDED, _mesh(_policy("before", Action.ALLOW, 80)), "", NOW)
    found = how_it_ended(ENDED._replace(state=state), record, _mesh(*policies), "")
    assert found == ending
    expected = "shop/before" if ending.policy is None else ending.policy
    assert ended(record, ENDED, found).policy == expected


def test_what_the_table_does_not_allow_any_more_has_its_reason() -> None:
    mesh = _mesh()
    record = describe(REPORT, mesh, "", NOW)
    assert revocation(record, mesh, "") == Ending(Reason.POLICY_CHANGED, error="now for the proxy to judge")
    assert record.destination_identity is not None
    ending = revocation(record, mesh, "", {record.destination_identity})
    assert ending == Ending(Reason.CERTIFICATE_MISSING, error="for spiffe://cluster.local/ns/shop/sa/db")
    denying = _mesh(_policy("no", Action.DENY, 80))
    assert revocation(record, denying, "") == Ending(Reason.POLICY_CHANGED, "shop/no", "now policy_denied")
