# SPDX-License-Identifier: Apache-2.0
"""Rules of Istio's admission webhook about what a node agent does not judge itself.

These are target references, the action CUSTOM and values of layer 7. Whoever applies the same YAML to a cluster is
refused there, so it is refused here. Pure.
"""

import re
from collections.abc import Callable

from nodeagent.controlplane.fields import Fields, parse_block

_TARGETS = {
    ("", "Service"),
    ("core", "Service"),
    ("networking.istio.io", "ServiceEntry"),
    ("gateway.networking.k8s.io", "Gateway"),
    ("gateway.networking.k8s.io", "GatewayClass"),
}
_NOT_WITH_CUSTOM = (
    "principals",
    "notPrincipals",
    "requestPrincipals",
    "notRequestPrincipals",
    "namespaces",
    "notNamespaces",
    "serviceAccounts",
    "notServiceAccounts",
    "trustDomains",
    "notTrustDomains",
)
_KEYS_NOT_WITH_CUSTOM = re.compile(r"source\.(?:namespace|serviceAccount|trustDomain|principal)|request\.auth\..*")
_TEMPLATES = ("{*}", "{**}")
_LITERAL = re.compile(r"[a-zA-Z0-9\-._~%!$&'()+,;:@=]+", re.ASCII)


def check_targets(spec: Fields) -> None:
    """What a policy targets instead of selecting it, if it does."""
    single = spec.within("targetRef")
    for target in (*([single] if single is not None else []), *spec.each("targetRefs")):
        group, kind = target.text("group"), target.text("kind")
        if not target.text("name"):
            target.wrong("name", "is missing")
        if target.text("namespace"):
            target.wrong("namespace", "has to be left out: a policy targets its own namespace only")
        if (group, kind) not in _TARGETS:
            target.wrong(
                "kind",
                f"{kind or 'nothing'!r} of group {group!r} is no target",
                check="Gateway, GatewayClass, Service or ServiceEntry, each with its group.",
            )
        target.refuse_others("A target has group, kind and name.")


def check_custom(spec: Fields) -> None:
    """The action CUSTOM: a provider, rules, and nothing that an external authorizer cannot be asked for."""
    rules = list(spec.each("rules"))
    if not spec.has("rules"):
        spec.wrong("rules", "a CUSTOM policy without rules asks nobody", check="Write a rule; `- {}` asks always.")
    provider = spec.within("provider")
    if provider is None or not provider.text("name"):
        spec.wrong("provider", "the action CUSTOM needs provider.name")
    for rule in rules:
        for entry in rule.each("from"):
            source = entry.within("source")
            for name in _NOT_WITH_CUSTOM:
                if source is not None and source.has(name):
                    source.wrong(name, "cannot be asked with the action CUSTOM")
        for condition in rule.each("when"):
            if _KEYS_NOT_WITH_CUSTOM.fullmatch(condition.text("key")):
                condition.wrong("key", "cannot be asked with the action CUSTOM")


def layer7_parser(name: str) -> Callable[[str], object]:
    """What checks a value of this layer 7 field or key; raises ValueError."""
    if name.removeprefix("not").lower() in {"remoteipblocks", "remote.ip"}:
        return parse_block
    return _parse_path if name in {"paths", "notPaths"} else str


def _parse_path(path: str) -> str:
    """Path templates: {*} is one segment, {**} any number and the last."""
    is_template = any(template in path for template in _TEMPLATES)
    is_ended = False
    for segment in path.strip("/").split("/"):
        if segment in _TEMPLATES and is_ended:
            raise ValueError(f"{path!r}: nothing of a template may follow {{**}}")
        if segment in _TEMPLATES:
            is_ended = segment == "{**}"
        elif "{" in segment or "}" in segment:
            raise ValueError(f"{path!r}: braces are for {{*}} and {{**}} alone, each a whole segment")
        elif is_template and not _LITERAL.fullmatch(segment):
            raise ValueError(f"{path!r}: {segment!r} is not possible beside a template")
    return path
