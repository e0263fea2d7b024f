# SPDX-License-Identifier: Apache-2.0
"""Which identity a node may have signed. Pure.

A node may ask for the identities of the pods that the mesh directory places on it, if they have not failed; nothing
else, and never for another trust domain (istiod does not check that one).
"""

import dataclasses

from nodeagent.controlplane.translate import Translation
from nodeagent.model.identity import Identity


@dataclasses.dataclass(frozen=True, slots=True)
class Refusal:
    """`reason` is for the control plane's log."""

    reason: str


def decide(node: str, cluster: str, wanted: str, translation: Translation) -> Identity | Refusal:
    """`wanted` is the SPIFFE id of the request's ImpersonatedIdentity; `cluster` is empty when none was sent."""
    mesh = translation.mesh
    if cluster and cluster != mesh.cluster:
        return Refusal(f"node {node} is of cluster {cluster}, this mesh is {mesh.cluster}")
    if not wanted:
        return Refusal(f"node {node} named no ImpersonatedIdentity, and has no identity of its own")
    try:
        identity = Identity.parse(wanted)
    except ValueError as error:
        return Refusal(f"node {node}: {error}")
    if identity.trust_domain != mesh.trust_domain:
        return Refusal(f"node {node} wants {identity}, but the mesh's trust domain is {mesh.trust_domain}")
    if identity not in translation.identities.get(node, frozenset()):
        return Refusal(f"node {node} wants {identity}, but no running pod of it is placed there")
    return identity
