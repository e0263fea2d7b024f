# SPDX-License-Identifier: Apache-2.0
"""MeshConfig: what Istio keeps in a ConfigMap, as one document. Fields stand at the top or under `spec`. Pure."""

import re

from nodeagent.controlplane.fields import Fields
from nodeagent.controlplane.label_selector import LabelSelector
from nodeagent.controlplane.objects import Enrolment, MeshConfig, Meta, OutboundMode, Visibility, VisibilityPolicy
from nodeagent.controlplane.parse_locality import parse_locality
from nodeagent.controlplane.parse_selector import parse_label_selector
from nodeagent.controlplane.parse_traffic import parse_outbound

_DOMAIN = re.compile(r"[a-z0-9](?:[-a-z0-9._]{0,251}[a-z0-9])?", re.ASCII)
_NAMESPACE = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)
_TOKEN = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9._]{0,251})?", re.ASCII)
_KNOWN = (
    "Used are trustDomain, trustDomainAliases, rootNamespace, discoverySelectors, serviceEntryVisibility, "
    "outboundTrafficPolicy, localityLbSetting, and our own enrolment, network, cluster, clusterDomain."
)
_VISIBILITIES = {
    "VISIBILITY_UNSPECIFIED": Visibility.PUBLIC,
    "UNSPECIFIED": Visibility.PUBLIC,
    **{str(value): value for value in Visibility},
}


def parse_mesh_config(fields: Fields, meta: Meta) -> MeshConfig:
    spec = fields.within("spec") or fields
    for envelope in ("apiVersion", "kind", "metadata", "spec"):
        fields.has(envelope)
    visibility = spec.within("serviceEntryVisibility")
    mesh = MeshConfig(
        meta=meta,
        trust_domain=_matching(spec, "trustDomain", _DOMAIN, "cluster.local"),
        trust_domain_aliases=spec.parsed("trustDomainAliases", _parse_domain),
        root_namespace=_matching(spec, "rootNamespace", _NAMESPACE, "istio-system"),
        enrolment=spec.choice("enrolment", {value.value: value for value in Enrolment}, Enrolment.LABEL),
        network=_matching(spec, "network", _TOKEN, ""),
        cluster=_matching(spec, "cluster", _TOKEN, "Kubernetes"),
        cluster_domain=_matching(spec, "clusterDomain", _DOMAIN, "cluster.local"),
        discovery=tuple(parse_label_selector(entry) for entry in spec.each("discoverySelectors")),
        default_visibility=visibility.choice("defaultVisibility", _VISIBILITIES, Visibility.PUBLIC)
        if visibility is not None
        else Visibility.PUBLIC,
        visibility_policies=tuple(_visibility_policy(entry) for entry in visibility.each("policies"))
        if visibility is not None
        else (),
        outbound=parse_outbound(spec) or OutboundMode.ALLOW_ANY,
        locality=parse_locality(spec),
    )
    spec.warn_others(_KNOWN)
    return mesh


def _parse_domain(text: str) -> str:
    if not _DOMAIN.fullmatch(text):
        raise ValueError(f"{text!r} is no trust domain")
    return text


def _visibility_policy(entry: Fields) -> VisibilityPolicy:
    return VisibilityPolicy(
        entry.choice("visibility", _VISIBILITIES, Visibility.PUBLIC),
        tuple(_visibility_rule(rule) for rule in entry.each("matchingRules")),
    )


def _visibility_rule(rule: Fields) -> LabelSelector | None:
    selector = rule.within("namespaceSelector")
    return parse_label_selector(selector) if selector is not None else None


def _matching(fields: Fields, name: str, pattern: re.Pattern[str], default: str) -> str:
    text = fields.text(name, default)
    if text and not pattern.fullmatch(text):
        fields.wrong(name, f"{text!r} is not possible", check="Letters, digits, dots and dashes.")
    return text
