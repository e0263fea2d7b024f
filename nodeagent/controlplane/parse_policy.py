# SPDX-License-Identifier: Apache-2.0
"""AuthorizationPolicy and PeerAuthentication, with the checks of Istio's admission webhook and some more. Pure.

What Istio's converter would drop in silence (a bad port, a bad block, an unknown field) rejects the policy here,
because a condition that disappears turns a DENY into nothing.
"""

from nodeagent.controlplane.fields import Fields, parse_flag, parse_port
from nodeagent.controlplane.objects import AuthorizationPolicy, Meta, MtlsMode, PeerAuthentication
from nodeagent.controlplane.parse_rule import API, Judged, parse_rule
from nodeagent.controlplane.webhook import check_custom, check_targets
from nodeagent.model.address import Port
from nodeagent.model.policy import Action

_ACTIONS = {"ALLOW": Action.ALLOW, "DENY": Action.DENY, "AUDIT": None, "CUSTOM": None}
STRICT_DENY = "nodeagent/strict-deny"
_MODES = {str(mode): mode for mode in MtlsMode}


def parse_authorization_policy(fields: Fields, meta: Meta) -> AuthorizationPolicy:
    spec = fields.within("spec")
    if spec is None:
        return AuthorizationPolicy(meta=meta)
    action = spec.choice("action", _ACTIONS, Action.ALLOW)
    is_for_waypoint = _is_for_waypoint(spec)
    # What a waypoint will judge is not told about layer 7.
    is_strict = _is_strict(fields, meta)
    judged = Judged(None if is_for_waypoint else action, is_strict)
    rules = tuple(parse_rule(entry, meta.namespace, judged) for entry in spec.each("rules"))
    if action is Action.DENY and not rules:
        spec.wrong("rules", "a DENY policy without rules denies nothing", check="Write a rule; `- {}` denies all.")
    if spec.text("action") == "CUSTOM":
        check_custom(spec)
    elif spec.has("provider"):
        spec.wrong("provider", "only the action CUSTOM has a provider")
    policy = AuthorizationPolicy(
        meta=meta,
        action=action,
        selector=_selector(spec) or None,
        is_for_waypoint=is_for_waypoint,
        is_strict=is_strict,
        is_dry_run=parse_flag(meta.annotations.get("istio.io/dry-run", "")),
        rules=rules,
    )
    spec.refuse_others(API)
    _tell_if_not_enforced(policy, spec)
    return policy


def _is_strict(fields: Fields, meta: Meta) -> bool:
    """By an annotation of our own. One that cannot be read refuses the policy: it may be meant to deny."""
    written = meta.annotations.get(STRICT_DENY)
    if written in {None, "true", "false"}:
        return written == "true"
    metadata = fields.within("metadata")
    annotations = metadata.within("annotations") if metadata is not None else None
    (annotations or fields).wrong(STRICT_DENY, f"{written!r} is neither true nor false")
    return False


def _is_for_waypoint(spec: Fields) -> bool:
    written = [name for name in ("selector", "targetRef", "targetRefs") if spec.has(name)]
    if len(written) > 1:
        spec.wrong(written[1], f"only one of {' and '.join(written)} is possible")
    check_targets(spec)
    return "targetRef" in written or "targetRefs" in written


def _tell_if_not_enforced(policy: AuthorizationPolicy, spec: Fields) -> None:
    why = ""
    if policy.is_for_waypoint:
        why = "it has targetRefs, so it is for a waypoint"
    elif policy.action is None:
        why = f"the action {spec.text('action')} needs a waypoint"
    elif policy.is_dry_run:
        why = "it is a dry run, whose verdict is only told"
    if why:
        spec.report.warn(
            spec.mapping.line, f"not enforced: {why}", "Node agents enforce ALLOW and DENY.", "MN0216", field=spec.path
        )


def _selector(spec: Fields) -> dict[str, str]:
    """Its labels. An empty selector selects the namespace, as for a sidecar; istiod attaches it to no workload."""
    selector = spec.within("selector")
    if selector is None:
        return {}
    below = selector.within("matchLabels")
    labels = selector.texts("matchLabels")
    for name, value in labels.items():
        if below is not None and (not name or "*" in name or "*" in value):
            below.wrong(name, "a label is matched exactly: no wildcard, no empty name")
    selector.refuse_others(API)
    if not labels:
        spec.report.warn(
            spec.line("selector"),
            "the selector is empty, so this is for the whole namespace",
            "Leave it out, or select by labels.",
            "MN0213",
            field=spec.below("selector"),
        )
    return labels


def parse_peer_authentication(fields: Fields, meta: Meta) -> PeerAuthentication:
    spec = fields.within("spec")
    if spec is None:
        return PeerAuthentication(meta=meta)
    selector = _selector(spec)
    mtls = spec.within("mtls")
    modes = _port_modes(spec)
    if spec.has("portLevelMtls") and not selector:
        spec.wrong("portLevelMtls", "needs a selector with labels: ports differ from workload to workload")
    peer = PeerAuthentication(meta=meta, selector=selector, mode=_mode(mtls), port_modes=modes)
    spec.refuse_others(API)
    return peer


def _mode(mtls: Fields | None) -> MtlsMode:
    if mtls is None:
        return MtlsMode.UNSET
    mode = mtls.choice("mode", _MODES, MtlsMode.UNSET)
    mtls.refuse_others(API)
    return mode


def _port_modes(spec: Fields) -> dict[Port, MtlsMode]:
    """In the order of port numbers."""
    ports = spec.within("portLevelMtls")
    if ports is None:
        return {}
    if not ports.mapping.entries:
        spec.wrong("portLevelMtls", "is empty", check="Leave it out.")
    modes: dict[Port, MtlsMode] = {}
    for text in ports.mapping.entries:
        try:
            port = parse_port(text)
        except ValueError as error:
            ports.wrong(text, str(error))
            continue
        modes[port] = _mode(ports.within(text))
    return dict(sorted(modes.items()))
