# SPDX-License-Identifier: Apache-2.0
"""Sidecar and outboundTrafficPolicy -> what clients see of the mesh, and whether they may reach anything else. Pure.

Istio's rules: for a client the oldest Sidecar of its namespace counts that selects it, else the oldest without
selector, else that of the root namespace. The one that counts says everything: without egress its clients see all, and
without outboundTrafficPolicy MeshConfig's is meant. Nothing is told where it differs in nothing from what holds for the
mesh.
"""

from collections import defaultdict
from collections.abc import Iterable

from nodeagent.controlplane.objects import MeshConfig, MeshObject, OutboundMode, Sidecar
from nodeagent.model.traffic import ClientScope, ClientScopes


def translate_sidecars(objects: Iterable[MeshObject], mesh: MeshConfig, meshwide: OutboundMode) -> list[ClientScopes]:
    """`meshwide`: see outbound_mode."""
    by_namespace: defaultdict[str, list[Sidecar]] = defaultdict(list)
    sidecars = (value for value in objects if isinstance(value, Sidecar))
    for sidecar in sorted(sidecars, key=lambda sidecar: (not sidecar.labels, sidecar.meta.age)):
        by_namespace["" if _is_meshwide(sidecar, mesh) else sidecar.meta.namespace].append(sidecar)
    everybody = [
        ClientScope(
            name=f"{sidecar.meta.namespace}/{sidecar.meta.name}",
            egress=sidecar.egress,
            is_registry_only=meshwide is OutboundMode.REGISTRY_ONLY,
        )
        for sidecar in by_namespace.pop("", [])[:1]
        if sidecar.egress is not None
    ]
    found = [ClientScopes(namespace="", scopes=tuple(everybody))] if everybody else []
    for namespace, written in by_namespace.items():
        scopes = tuple(_scope(sidecar, mesh) for sidecar in written)
        usual = meshwide is OutboundMode.REGISTRY_ONLY
        if everybody or any(scope.egress is not None or scope.is_registry_only is not usual for scope in scopes):
            found.append(ClientScopes(namespace=namespace, scopes=scopes))
    return found


def outbound_mode(objects: Iterable[MeshObject], mesh: MeshConfig) -> OutboundMode:
    """Of clients whose namespace has no Sidecar for them: the oldest's of the root namespace, else MeshConfig's."""
    sidecars = [value for value in objects if isinstance(value, Sidecar) and _is_meshwide(value, mesh)]
    oldest = min(sidecars, key=lambda sidecar: sidecar.meta.age, default=None)
    return oldest.outbound if oldest is not None and oldest.outbound is not None else mesh.outbound


def _scope(sidecar: Sidecar, mesh: MeshConfig) -> ClientScope:
    return ClientScope(
        name=f"{sidecar.meta.namespace}/{sidecar.meta.name}",
        labels=sidecar.labels,
        egress=sidecar.egress,
        is_registry_only=(sidecar.outbound or mesh.outbound) is OutboundMode.REGISTRY_ONLY,
    )


def _is_meshwide(sidecar: Sidecar, mesh: MeshConfig) -> bool:
    return sidecar.meta.namespace == mesh.root_namespace and not sidecar.labels
