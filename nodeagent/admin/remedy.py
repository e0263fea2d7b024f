# SPDX-License-Identifier: Apache-2.0
"""What would have to change for a refused connection to be allowed, in the words of the policies' YAML. Pure.

Suggestions only: whether the connection *should* be allowed is the reader's to decide.
"""

from collections.abc import Iterator

from nodeagent.model.policy import Action
from nodeagent.policy.evaluate import Allow, ConnectionFacts, Deny, Pending
from nodeagent.policy.judge import Judgement, PolicyWorking

_NO_IDENTITY = frozenset({"principals", "namespaces", "service_accounts"})


def to_allow(judgement: Judgement) -> tuple[str, ...]:
    """A sentence per change; all of them together are needed. Nothing when the connection is allowed."""
    match judgement.verdict:
        case Allow():
            return ()
        case Pending(missing):
            return tuple(f"the control plane has to send {name}, which the destination names" for name in missing)
        case Deny(None):
            return tuple(_for_the_nearest(judgement))
        case Deny():
            return tuple(
                _except(policy, judgement.facts)
                for policy in judgement.policies
                if policy.action is Action.DENY and policy.is_matched and not policy.is_dry_run
            )


def _except(policy: PolicyWorking, facts: ConnectionFacts) -> str:
    matched = [rule for rule in policy.rules if rule.is_matched]
    fields = {
        field.field for rule in matched for clause in rule.clauses for match in clause.matches for field in match.fields
    }
    if facts.source_identity is None and fields & {f"not_{field}" for field in _NO_IDENTITY}:
        return f"{policy.policy} denies clients without identity: connect from a pod that is in the mesh"
    numbers = ", ".join(str(rule.number) for rule in matched)
    return f"{policy.policy} denies it: except this connection from rule{'s' * (len(matched) > 1)} {numbers}"


def _for_the_nearest(judgement: Judgement) -> Iterator[str]:
    miss = judgement.nearest_miss
    if miss is None:
        names = ", ".join(policy.policy for policy in judgement.policies if policy.action is Action.ALLOW)
        yield f"no ALLOW policy has a rule that could match: add one to {names}"
        return
    place = f"rule {miss.rule} of {miss.policy}"
    for words in miss.words:
        yield _for_field(words.partition(":")[0], place, judgement.facts)


def _for_field(field: str, place: str, facts: ConnectionFacts) -> str:
    name, is_excluded = field.removeprefix("not_"), field.startswith("not_")
    identity = facts.source_identity
    if name in _NO_IDENTITY and identity is None:
        if is_excluded:
            return f"{place} excludes clients without identity: connect from a pod that is in the mesh"
        return f"{place} asks for an identity, and the client has none: connect from a pod that is in the mesh"
    found = {
        "principals": ("principals", identity.principal if identity else ""),
        "namespaces": ("namespaces", identity.namespace if identity else ""),
        "service_accounts": (
            "serviceAccounts",
            f"{identity.namespace}/{identity.service_account}" if identity else "",
        ),
        "source_ips": ("ipBlocks", facts.source_ip),
        "destination_ips": ("destination.ip", facts.destination_ip),
        "destination_ports": ("ports", str(facts.destination_port)),
    }.get(name)
    if found is None:
        return f"{place} has a condition that cannot hold here (it belongs to layer 7)"
    word, value = found
    if is_excluded:
        return f'take "{value}" out of not{word[0].upper()}{word[1:]} in {place}'
    return f'add "{value}" to {word} in {place}'
