# SPDX-License-Identifier: Apache-2.0
"""Dry runs: what they would change is told, and what is decided never depends on them."""

import random
from collections.abc import Callable

import msgspec
import pytest

from nodeagent.model.address import Ip, Port
from nodeagent.model.policy import Action, Clause, Match, Policy, PolicyScope, Rule
from nodeagent.model.reason import Reason
from nodeagent.model.record import ConnectionRecord, Direction
from nodeagent.policy.evaluate import Allow, ConnectionFacts, Deny, Pending, Verdict, evaluate
from nodeagent.policy.rehearse import Basis, note, rehearsal_words, rehearse
from tests.differential.comparison import Plain

FACTS = ConnectionFacts(None, Ip("10.0.0.1"), Ip("10.0.0.2"), 80)


def policy(name: str, action: Action, port: int = 80, *, is_dry_run: bool = False) -> Policy:
    rule = Rule((Clause((Match(destination_ports=(Port(port),)),)),))
    return Policy(
        name=name, namespace="shop", scope=PolicyScope.NAMESPACE, action=action, rules=(rule,), is_dry_run=is_dry_run
    )


def dry(name: str, action: Action, port: int = 80) -> Policy:
    return policy(name, action, port, is_dry_run=True)


ALLOWED, DENIED = policy("allow", Action.ALLOW), policy("deny", Action.DENY)
CLOSED = policy("other", Action.ALLOW, 443)


@pytest.mark.parametrize(
    ("policies", "rehearsed", "is_other"),
    [
        pytest.param([], None, False, id="nothing"),
        pytest.param([ALLOWED, DENIED], None, False, id="no dry run"),
        pytest.param([dry("try", Action.DENY)], Deny("shop/try", Reason.POLICY_DENIED), True, id="would be denied"),
        pytest.param([dry("try", Action.DENY, 443)], Allow(None), False, id="a DENY for another port"),
        pytest.param([dry("try", Action.ALLOW)], Allow("shop/try"), False, id="the first ALLOW, for this one"),
        pytest.param(
            [dry("try", Action.ALLOW, 443)],
            Deny(None, Reason.POLICY_NOT_ALLOWED),
            True,
            id="the first ALLOW, for others",
        ),
        pytest.param([CLOSED, dry("try", Action.ALLOW)], Allow("shop/try"), True, id="would be let in"),
        pytest.param([dry("try", Action.ALLOW), ALLOWED], Allow("shop/allow"), False, id="allowed without it"),
        pytest.param(
            [dry("try", Action.DENY), DENIED], Deny("shop/deny", Reason.POLICY_DENIED), False, id="denied without it"
        ),
        pytest.param(
            [DENIED, dry("try", Action.ALLOW)], Deny("shop/deny", Reason.POLICY_DENIED), False, id="DENY goes first"
        ),
    ],
)
def test_what_would_become_of_it(policies: list[Policy], rehearsed: Verdict | None, *, is_other: bool) -> None:
    enforced = evaluate(policies, (), FACTS)
    assert enforced == evaluate([one for one in policies if not one.is_dry_run], (), FACTS)
    found = rehearse(policies, (), FACTS)
    assert found == rehearsed
    record = ConnectionRecord(
        id=1, direction=Direction.INBOUND, started=0.0, source_ip=FACTS.source_ip, source_port=1,
        original_ip=FACTS.destination_ip, original_port=80, dry_run="denied", dry_run_policy="old",
    )  # fmt: skip
    note(record, found, enforced)
    words = {Allow: "allowed", Deny: "denied", type(None): ""}[type(rehearsed)]
    assert record.dry_run == words
    assert record.dry_run_policy == ((rehearsed.policy or "") if isinstance(rehearsed, Allow | Deny) else "")
    assert record.is_dry_run_other is is_other
    if found is not None:
        assert words in rehearsal_words(found, enforced)
        assert ("which it is not" in rehearsal_words(found, enforced)) is is_other


def test_nothing_is_said_while_a_policy_is_missing_that_decides() -> None:
    assert isinstance(evaluate([dry("try", Action.ALLOW)], ["shop/late"], FACTS), Pending)
    assert rehearse([dry("try", Action.ALLOW)], ["shop/late"], FACTS) is None


def test_it_is_the_verdict_of_all_policies_in_force(
    make_case: Callable[[random.Random], tuple[list[Plain], list[str], Plain]],
    to_policy: Callable[[Plain], Policy],
    to_facts: Callable[[Plain], ConnectionFacts],
) -> None:
    rng = random.Random(17)
    for _ in range(2000):
        plain, missing, facts = make_case(rng)
        policies, connection = [to_policy(one) for one in plain], to_facts(facts)
        enforced = [msgspec.structs.replace(one, is_dry_run=False) for one in policies]
        wanted = evaluate(enforced, missing, connection)
        found = rehearse(policies, missing, connection)
        if isinstance(wanted, Pending) or not any(one.is_dry_run for one in policies):
            assert found is None
        else:  # of several that decide alike, one that is in force is named
            assert type(found) is type(wanted)
        basis = Basis(tuple(policies), tuple(missing))
        assert (basis.rehearse(connection), basis.evaluate(connection)) == (
            found,
            evaluate(policies, missing, connection),
        )
