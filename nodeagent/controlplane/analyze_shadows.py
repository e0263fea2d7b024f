# SPDX-License-Identifier: Apache-2.0
"""Policies and rules that change nothing, because another one has said everything already. Pure.

What always matches: a rule without from, to and when. Another policy is in its reach if it is about the same pods or
fewer: the same selector, or the shadow has none and the same namespace or the whole mesh.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from nodeagent.controlplane.finding import Finding
from nodeagent.controlplane.objects import AuthorizationPolicy, PolicyRule
from nodeagent.controlplane.view import warn
from nodeagent.model.policy import Action

_EVERYTHING = PolicyRule()


def analyze_shadows(policies: Sequence[AuthorizationPolicy], root_namespace: str) -> Iterator[Finding]:
    """`policies` are those that are enforced."""
    by_age = sorted(policies, key=lambda policy: policy.meta.age)
    shadows: dict[str, list[AuthorizationPolicy]] = defaultdict(list)
    for policy in by_age:
        if _EVERYTHING in policy.rules:
            shadows[policy.meta.namespace].append(policy)
    said: dict[tuple[object, ...], AuthorizationPolicy] = {}
    for policy in by_age:
        yield from _rules(policy)
        first = said.setdefault(_meaning(policy), policy)
        near = (*shadows.get(policy.meta.namespace, ()), *shadows.get(root_namespace, ()))
        shadow = next((one for one in near if _shadows(one, policy, root_namespace)), None)
        if first is not policy:
            yield warn(policy.meta, "MN0210", f"says the same as {first.meta.key}", "Remove one of the two.")
        elif shadow is not None:
            word = "allows" if shadow.action is Action.ALLOW else "denies"
            yield warn(
                policy.meta,
                "MN0210",
                f"changes nothing: {shadow.meta.key} {word} everything that it is about",
                f"Narrow {shadow.meta.key}, or remove this one.",
            )


def _meaning(policy: AuthorizationPolicy) -> tuple[object, ...]:
    selector = tuple(sorted(policy.selector.items())) if policy.selector is not None else None
    return policy.meta.namespace, policy.action, selector, policy.rules


def _shadows(shadow: AuthorizationPolicy, policy: AuthorizationPolicy, root_namespace: str) -> bool:
    if policy is shadow or _EVERYTHING in policy.rules:
        return False  # two that say everything are the same, or of different reach
    if shadow.action is Action.ALLOW and policy.action is not Action.ALLOW:
        return False
    if shadow.selector is None:
        return shadow.meta.namespace in {policy.meta.namespace, root_namespace}
    is_same = shadow.selector == policy.selector
    return is_same and shadow.meta.namespace == policy.meta.namespace


def _rules(policy: AuthorizationPolicy) -> Iterator[Finding]:
    for number, rule in enumerate(policy.rules):
        field = f"spec.rules[{number}]"
        if rule != _EVERYTHING and _EVERYTHING in policy.rules:
            words = "changes nothing: another rule of this policy matches everything"
            yield warn(policy.meta, "MN0210", words, "Remove the empty rule, or this one.", field)
        elif rule in policy.rules[:number]:
            words = f"says the same as rule {policy.rules.index(rule)}"
            yield warn(policy.meta, "MN0210", words, "Remove one of the two.", field)
