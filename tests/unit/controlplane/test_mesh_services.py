# SPDX-License-Identifier: Apache-2.0
"""Several objects with one name: who counts, and who is canonical."""

from collections.abc import Callable

from nodeagent.controlplane.translate import Translation

Translated = Callable[[str], Translation]
HOST = "web.shop.svc.cluster.local"
SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.0.0.1, ports: [{port: 80}]}
---
"""
PRIVATE = """
kind: MeshConfig
serviceEntryVisibility:
  policies:
  - visibility: NAMESPACE
    matchingRules: [{namespaceSelector: {matchLabels: {is: private}}}]
---
"""


def entry(name: str, namespace: str, *, created: str = "2026-01-01T00:00:00Z", address: str = "10.50.0.1") -> str:
    return f"""
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}, namespace: {namespace}, creationTimestamp: '{created}'}}
spec:
  hosts: [{HOST}]
  ports: [{{number: 80, name: tcp, protocol: TCP}}]
  resolution: STATIC
  addresses: [{address}]
  endpoints: [{{address: 192.0.2.1}}]
---
"""


def vips(translation: Translation) -> dict[str, tuple[str, bool]]:
    return {key: (one.vips[0].ip, one.is_canonical) for key, one in translation.services.items()}


def test_in_its_namespace_a_service_beats_a_service_entry(translated: Translated) -> None:
    translation = translated(entry("se", "shop") + SERVICE)
    assert vips(translation) == {f"shop/{HOST}": ("10.0.0.1", True)}
    assert translation.workloads == {}, "the endpoints of what is beaten are told to nobody"


def test_in_one_namespace_the_oldest_service_entry_counts(translated: Translated) -> None:
    younger = entry("a", "shop", created="2026-01-02T00:00:00Z", address="10.50.0.2")
    translation = translated(younger + entry("b", "shop"))
    assert vips(translation) == {f"shop/{HOST}": ("10.50.0.1", True)}
    assert list(translation.workloads) == ["Kubernetes/networking.istio.io/ServiceEntry/shop/b/192.0.2.1"]


def test_elsewhere_a_service_is_canonical_and_others_stay_for_their_namespace(translated: Translated) -> None:
    translation = translated(entry("se", "other", address="10.50.0.2") + SERVICE)
    assert vips(translation) == {f"shop/{HOST}": ("10.0.0.1", True), f"other/{HOST}": ("10.50.0.2", False)}


def test_without_a_service_the_oldest_is_canonical(translated: Translated) -> None:
    younger = entry("a", "a", created="2026-01-02T00:00:00Z")
    assert vips(translated(younger + entry("b", "b"))) == {
        f"a/{HOST}": ("10.50.0.1", False),
        f"b/{HOST}": ("10.50.0.1", True),
    }


def test_what_only_its_namespace_may_know_is_not_canonical(translated: Translated) -> None:
    hidden = "apiVersion: v1\nkind: Namespace\nmetadata: {name: a, labels: {is: private}}\n---\n"
    younger = entry("b", "b", created="2026-01-02T00:00:00Z")
    translation = translated(PRIVATE + hidden + entry("a", "a") + younger)
    assert vips(translation) == {f"a/{HOST}": ("10.50.0.1", False), f"b/{HOST}": ("10.50.0.1", True)}
    assert translation.services[f"a/{HOST}"].is_namespace_private
