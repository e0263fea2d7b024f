# SPDX-License-Identifier: Apache-2.0
"""ALLOW policies that open workloads without any label, for which they were not written. Pure.

Such a workload lists every policy with a selector (`Surroundings.policies_of`). An ALLOW that it lists because of that
opens it only where one without selector applies as well: alone it closes what was open to everybody. Nor does it open
anything where another policy denies or allows everything, or allows the same.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from nodeagent.controlplane.finding import Finding
from nodeagent.controlplane.objects import AuthorizationPolicy, Key
from nodeagent.controlplane.view import View, warn
from nodeagent.model.policy import Action, Policy, PolicyScope, Rule
from nodeagent.model.workload import Workload

_EVERYTHING = Rule()


def analyze_unlabelled(view: View) -> Iterator[Finding]:
    """A finding for each policy and namespace."""
    written = {f"{policy.meta.namespace}/{policy.meta.name}": policy for policy in view.policies}
    general = [view.told[key] for key in written if key in view.told and _is_general(view.told[key])]
    if not any(policy.action is Action.ALLOW for policy in general):
        return  # as a rule, and it spares the look at each pod
    by_namespace: dict[str, list[tuple[Key, Workload]]] = defaultdict(list)
    for key, workload in view.unlabelled():
        by_namespace[workload.namespace].append((key, workload))
    for namespace, found in by_namespace.items():
        here = [one for one in general if one.scope is PolicyScope.GLOBAL or one.namespace == namespace]
        listed = [view.told[key] for key in found[0][1].policies if key in view.told]  # the same for all of them
        which = _words(namespace, [key for key, _ in found])
        for policy, closing in _opening(here, listed):
            yield _finding(written[policy.key], written[closing.key], which)


def _is_general(policy: Policy) -> bool:
    return policy.scope is not PolicyScope.WORKLOAD_SELECTOR


def _opening(general: Sequence[Policy], listed: Sequence[Policy]) -> Iterator[tuple[Policy, Policy]]:
    """Of the policies that are listed those that allow more than the general ones, with one of these."""
    allowing = [policy for policy in general if policy.action is Action.ALLOW]
    denying = [policy for policy in (*general, *listed) if policy.action is Action.DENY]
    if not allowing or any(_EVERYTHING in policy.rules for policy in (*allowing, *denying)):
        return
    allowed = {rule for policy in allowing for rule in policy.rules}
    for policy in listed:
        if policy.action is Action.ALLOW and not allowed.issuperset(policy.rules):
            yield policy, allowing[0]


def _words(namespace: str, found: Sequence[Key]) -> str:
    count = f"{len(found)} workload{'s' * (len(found) > 1)}"
    return f"{count} without any label in namespace {namespace}, too, such as {min(found)}"


def _finding(policy: AuthorizationPolicy, closing: AuthorizationPolicy, which: str) -> Finding:
    return warn(
        policy.meta,
        "MN0219",
        f"it counts for {which}, with rules that {closing.meta.key} has not",
        "Give each a label, whatever it says: in the metadata of the Pod or WorkloadEntry, or of an endpoint's "
        "ServiceEntry.",
        "spec.selector",
    )
