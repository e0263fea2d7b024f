# SPDX-License-Identifier: Apache-2.0
"""Which identity a node may have signed. Pure.

A node may ask for the identities of the pods that the mesh directory places on it, if they have not failed; nothing
else, and never for another trust domain (istiod does not check that one) but an alias of the mesh's, by which an agent
still asks that has not heard of a change.
"""

import dataclasses
import enum

from nodeagent.controlplane.translate import Translation
from nodeagent.model.identity import Identity


class Why(enum.StrEnum):
    """The word in the audit line."""

    OTHER_CLUSTER = "other_cluster"
    NOTHING_ASKED = "nothing_asked"
    NO_IDENTITY = "no_identity"
    OTHER_TRUST_DOMAIN = "other_trust_domain"
    UNKNOWN_NODE = "unknown_node"
    PLACED_ELSEWHERE = "placed_elsewhere"
    NOT_PLACED = "not_placed"


@dataclasses.dataclass(frozen=True, slots=True)
class Refusal:
    """For the control plane's log; the caller only learns that it was refused."""

    why: Why
    reason: str


def decide(node: str, cluster: str, wanted: str, translation: Translation) -> Identity | Refusal:
    """`wanted` is the SPIFFE id of the request's ImpersonatedIdentity; `cluster` is empty when none was sent."""
    mesh = translation.mesh
    if cluster and cluster != mesh.cluster:
        return Refusal(Why.OTHER_CLUSTER, f"node {node} is of cluster {cluster}, this mesh is {mesh.cluster}")
    if not wanted:
        return Refusal(Why.NOTHING_ASKED, f"node {node} named no ImpersonatedIdentity, and has no identity of its own")
    try:
        identity = Identity.parse(wanted)
    except ValueError as error:
        return Refusal(Why.NO_IDENTITY, f"node {node}: {error}")
    if identity.trust_domain not in {mesh.trust_domain, *mesh.trust_domain_aliases}:
        return Refusal(
            Why.OTHER_TRUST_DOMAIN, f"node {node} wants {identity}, but the mesh's trust domain is {mesh.trust_domain}"
        )
    if node not in translation.identities:
        return Refusal(Why.UNKNOWN_NODE, f"node {node} wants {identity}, but no running pod is placed on that node")
    own = Identity(mesh.trust_domain, identity.namespace, identity.service_account)
    if own in translation.identities[node]:
        return identity
    elsewhere = sorted(name for name, placed in translation.identities.items() if own in placed)
    if elsewhere:
        return Refusal(
            Why.PLACED_ELSEWHERE,
            f"node {node} wants {identity}, but no running pod of it is placed there; there is on {elsewhere[0]}",
        )
    return Refusal(Why.NOT_PLACED, f"node {node} wants {identity}, but no running pod of it is placed anywhere")
