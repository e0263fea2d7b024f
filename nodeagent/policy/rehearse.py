# SPDX-License-Identifier: Apache-2.0
"""What would become of a connection if its dry runs were enforced. Pure; it decides nothing.

The answer is evaluate()'s, with every policy in force. So a DENY that is tried shows whom it would refuse, an ALLOW
whom it would let in, and the first ALLOW of a workload whom it would shut out. (ztunnel logs which dry run matches.)
"""

from collections.abc import Sequence

import msgspec

from nodeagent.model.mesh import Mesh
from nodeagent.model.policy import Policy
from nodeagent.model.record import ConnectionRecord
from nodeagent.model.workload import Workload
from nodeagent.policy.evaluate import Allow, ConnectionFacts, Deny, Pending, Verdict, evaluate


class Basis(msgspec.Struct, frozen=True, gc=False):
    """What applies to a destination at one moment."""

    policies: tuple[Policy, ...]
    missing: tuple[str, ...]
    """`ns/name` of policies that it names and that have not arrived."""
    dry_runs: tuple[Policy, ...] = ()
    """Beside those among `policies`."""

    @classmethod
    def of(cls, mesh: Mesh, destination: Workload) -> "Basis":
        return cls(*mesh.policies_for(destination), mesh.dry_runs_for(destination))

    def evaluate(self, facts: ConnectionFacts) -> Verdict:
        return evaluate(self.policies, self.missing, facts)

    def rehearse(self, facts: ConnectionFacts) -> Allow | Deny | None:
        """None when no dry run is about the destination, or a policy that decides has not arrived."""
        return rehearse((*self.policies, *self.dry_runs), self.missing, facts)


def rehearse(policies: Sequence[Policy], missing: Sequence[str], facts: ConnectionFacts) -> Allow | Deny | None:
    """`policies`: enforced ones and dry runs. None as Basis.rehearse."""
    if not any(policy.is_dry_run for policy in policies):
        return None
    # What is in force goes first: where both decide alike, that is who decides.
    by_force = sorted(policies, key=lambda policy: policy.is_dry_run)
    in_force = [msgspec.structs.replace(one, is_dry_run=False) if one.is_dry_run else one for one in by_force]
    verdict = evaluate(in_force, missing, facts)
    return None if isinstance(verdict, Pending) else verdict


def note(record: ConnectionRecord, rehearsed: Allow | Deny | None, verdict: Verdict) -> None:
    """Writes it into the record, beside what was decided."""
    if rehearsed is None:
        record.dry_run = record.dry_run_policy = ""
        record.is_dry_run_other = False
        return
    record.dry_run = "allowed" if isinstance(rehearsed, Allow) else "denied"
    record.dry_run_policy = rehearsed.policy or ""
    record.is_dry_run_other = isinstance(rehearsed, Allow) is not isinstance(verdict, Allow)


def rehearsal_words(rehearsed: Allow | Deny, verdict: Verdict) -> str:
    """For people: what dry runs would change."""
    by = f" by {rehearsed.policy}" if rehearsed.policy else ""
    if isinstance(rehearsed, Allow):
        change = "as it is" if isinstance(verdict, Allow) else "which it is not"
        return f"would be allowed{by}, {change}"
    why = by or ", since ALLOW policies would apply and none matches"
    return f"would be denied{why}, {'which it is not' if isinstance(verdict, Allow) else 'as it is'}"
