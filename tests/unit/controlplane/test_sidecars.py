# SPDX-License-Identifier: Apache-2.0
"""Which Sidecar counts for whom, and when agents are told of it."""

import pytest

from nodeagent.controlplane.objects import OutboundMode
from nodeagent.controlplane.sidecars import outbound_mode, translate_sidecars
from nodeagent.controlplane.translate import mesh_config
from nodeagent.model.traffic import ClientScope, ClientScopes, EgressHosts
from tests.unit.controlplane.served import Read

OWN = (EgressHosts(("./*",)),)
REGISTRY_ONLY = "outboundTrafficPolicy: {mode: REGISTRY_ONLY}"
ALLOW_ANY = "outboundTrafficPolicy: {mode: ALLOW_ANY}"
EGRESS = "egress: [{hosts: ['./*']}]"
SELECTOR = "workloadSelector: {labels: {app: web}}"
RESTRICTED = f"---\nkind: MeshConfig\n{REGISTRY_ONLY}\n"


def sidecar(name: str, *spec: str, namespace: str = "shop", created: str = "") -> str:
    return f"""
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {{name: {name}, namespace: {namespace}, creationTimestamp: '{created}'}}
spec: {{{", ".join(spec)}}}
"""


def scope(
    name: str, egress: tuple[EgressHosts, ...] | None = None, *, is_registry_only: bool = False, **labels: str
) -> ClientScope:
    return ClientScope(name=name, egress=egress, is_registry_only=is_registry_only, labels=labels)


def of(namespace: str, *scopes: ClientScope) -> ClientScopes:
    return ClientScopes(namespace=namespace, scopes=scopes)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("", [], id="none"),
        pytest.param(sidecar("a"), [], id="it says nothing"),
        pytest.param(sidecar("a", ALLOW_ANY), [], id="what holds anyway"),
        pytest.param(sidecar("a", EGRESS), [of("shop", scope("shop/a", OWN))], id="a namespace's"),
        pytest.param(
            sidecar("a", REGISTRY_ONLY), [of("shop", scope("shop/a", is_registry_only=True))], id="its outbound policy"
        ),
        pytest.param(RESTRICTED + sidecar("a", ALLOW_ANY), [of("shop", scope("shop/a"))], id="it is opened"),
        pytest.param(
            RESTRICTED + sidecar("a", EGRESS),
            [of("shop", scope("shop/a", OWN, is_registry_only=True))],
            id="MeshConfig's where it says none",
        ),
        pytest.param(
            sidecar("a", REGISTRY_ONLY, namespace="istio-system") + sidecar("b"),
            [of("shop", scope("shop/b"))],
            id="that of the root namespace ends where there is another",
        ),
        pytest.param(sidecar("a", REGISTRY_ONLY, namespace="istio-system"), [], id="the mesh has it already"),
        pytest.param(
            sidecar("a", EGRESS, namespace="istio-system") + sidecar("b"),
            [of("", scope("istio-system/a", OWN)), of("shop", scope("shop/b"))],
            id="what the root namespace shows, and a namespace that shows all",
        ),
        pytest.param(
            sidecar("a", EGRESS, SELECTOR, namespace="istio-system"),
            [of("istio-system", scope("istio-system/a", OWN, app="web"))],
            id="one with a selector is for its namespace there too",
        ),
        pytest.param(
            sidecar("a", created="2026-01-01T00:00:00Z")
            + sidecar("b", EGRESS, created="2026-01-02T00:00:00Z")
            + sidecar("d", SELECTOR, REGISTRY_ONLY, created="2026-01-04T00:00:00Z")
            + sidecar("c", SELECTOR, EGRESS, created="2026-01-03T00:00:00Z"),
            [
                of(
                    "shop",
                    scope("shop/c", OWN, app="web"),
                    scope("shop/d", is_registry_only=True, app="web"),
                    scope("shop/a"),
                    scope("shop/b", OWN),
                )
            ],
            id="who selects goes first, and then who is older",
        ),
    ],
)
def test_which_sidecar_counts(read: Read, text: str, expected: list[ClientScopes]) -> None:
    objects, findings = read(text) if text else ((), [])
    assert findings == []
    mesh = mesh_config(objects)
    assert translate_sidecars(objects, mesh, outbound_mode(objects, mesh)) == expected


def test_the_oldest_of_the_root_namespace_says_what_holds_for_the_mesh(read: Read) -> None:
    objects, _ = read(
        sidecar("a", ALLOW_ANY, namespace="istio-system", created="2026-02-01T00:00:00Z")
        + sidecar("b", REGISTRY_ONLY, namespace="istio-system", created="2026-01-01T00:00:00Z")
    )
    assert outbound_mode(objects, mesh_config(objects)) is OutboundMode.REGISTRY_ONLY
