# SPDX-License-Identifier: Apache-2.0
"""Which waypoint stands before a service or workload. Pure.

The label istio.io/use-waypoint names it, on the object, else on its namespace; `none` opts out. What an object names
itself and cannot have (not ready, not allowed, not for its kind) is no waypoint: its namespace's is not asked then. A
Gateway is ready as soon as its status has addresses, whatever its class.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping

from nodeagent.controlplane.fields import parse_flag
from nodeagent.controlplane.gateway_spec import AddressType, Listener, RoutesFrom
from nodeagent.controlplane.objects import Gateway, GatewayClass, Meta, Namespace
from nodeagent.model.address import Port, parse_ip
from nodeagent.model.workload import GatewayAddress

HBONE_PORT = Port(15008)
_USE = "istio.io/use-waypoint"
_CANARY = "istio.io/use-waypoint-canary"
_CANARY_WEIGHT = "istio.io/use-waypoint-canary-weight"
_TRAFFIC = "istio.io/waypoint-for"
_BINDING = "ambient.istio.io/waypoint-inbound-binding"
_MANAGED = "gateway.istio.io/managed"
_INSTANCE = "gateway.networking.k8s.io/gateway-name"
_NOT_BEHIND_WAYPOINTS = frozenset({"istio.io-mesh-controller", "istio.io-eastwest-controller"})
_NUMBER = re.compile(r"\d{1,5}", re.ASCII)
_ALL = 100
"""Percent."""
_FOR_SERVICES = frozenset({"service", "all"})
_FOR_WORKLOADS = frozenset({"workload", "all"})


@dataclasses.dataclass(frozen=True, slots=True)
class Binding:
    """How a waypoint wants connections handed over by its node's proxy."""

    speaks_proxy_protocol: bool
    port: int
    """0 when it is not written."""


@dataclasses.dataclass(frozen=True, slots=True)
class Waypoint:
    name: str
    namespace: str
    address: GatewayAddress | None
    traffic: str
    """service, workload, all or none."""
    listener: Listener | None
    """The one that says which namespaces may use it."""
    binding: Binding | None

    @property
    def tunnel_port(self) -> int:
        """0: connections are not handed over with the PROXY protocol."""
        return self.binding.port if self.binding is not None and self.binding.speaks_proxy_protocol else 0


@dataclasses.dataclass(frozen=True, slots=True)
class Weighted:
    waypoint: GatewayAddress | None
    weight: int


@dataclasses.dataclass(frozen=True, slots=True)
class Waypoints:
    by_name: Mapping[tuple[str, str], Waypoint]
    """By namespace and name."""
    namespaces: Mapping[str, Namespace]

    def having(self, meta: Meta, labels: Mapping[str, str]) -> Waypoint | None:
        """The waypoint that a pod is part of."""
        return self.by_name.get((meta.namespace, labels.get(_INSTANCE, "")))

    def of_workload(self, namespace: str, labels: Mapping[str, str]) -> GatewayAddress | None:
        waypoint = self._named_by(namespace, labels)
        return waypoint.address if waypoint is not None and waypoint.traffic in _FOR_WORKLOADS else None

    def of_service(self, meta: Meta, *, is_private: bool = False) -> Waypoint | None:
        """`is_private`: nobody but its namespace may know it, so a waypoint elsewhere cannot stand before it."""
        if meta.labels.get(_MANAGED) in _NOT_BEHIND_WAYPOINTS:
            return None
        waypoint = self._named_by(meta.namespace, meta.labels)
        if waypoint is None or waypoint.traffic not in _FOR_SERVICES:
            return None
        return None if is_private and waypoint.namespace != meta.namespace else waypoint

    def weighted(self, meta: Meta, primary: Waypoint) -> tuple[Weighted, ...]:
        """The primary and its canary, in percent; empty without a usable canary.

        The canary may stand on the object, or where the primary comes from; a weight that is none counts as no canary.
        """
        namespace = self.namespaces.get(meta.namespace)
        inherited = namespace.meta if namespace is not None and _named(meta.labels, _USE) is None else None
        labels = meta.labels
        if _CANARY not in labels and inherited is not None and _CANARY in inherited.labels:
            labels = inherited.labels
        named, weight = _named(labels, _CANARY), _weight(meta, inherited)
        if named is None or weight is None:
            return ()
        canary = self.by_name.get((named[1] or meta.namespace, named[0]))
        if canary is None or canary.traffic not in _FOR_SERVICES or not self._allows(canary, meta.namespace):
            return ()
        if (canary.namespace, canary.name) == (primary.namespace, primary.name):
            return ()
        return Weighted(primary.address, _ALL - weight), Weighted(canary.address, weight)

    def _named_by(self, namespace: str, labels: Mapping[str, str]) -> Waypoint | None:
        if _USE not in labels:
            of_namespace = self.namespaces.get(namespace)
            labels = of_namespace.meta.labels if of_namespace is not None else {}
        named = _named(labels, _USE)
        if named is None:
            return None
        waypoint = self.by_name.get((named[1] or namespace, named[0]))
        return waypoint if waypoint is not None and self._allows(waypoint, namespace) else None

    def _allows(self, waypoint: Waypoint, namespace: str) -> bool:
        match waypoint.listener:
            case Listener(routes_from=RoutesFrom.ALL):
                return True
            case Listener(routes_from=RoutesFrom.SELECTOR, selector=selector):
                known = self.namespaces.get(namespace)
                return selector is not None and selector.selects(known.meta.labels if known is not None else {})
            case _:
                return waypoint.namespace == namespace


def build_waypoints(
    gateways: Iterable[Gateway], classes: Iterable[GatewayClass], namespaces: Mapping[str, Namespace], network: str
) -> Waypoints:
    by_class = {value.meta.name: value.meta for value in classes}
    found = [_waypoint(gateway, by_class.get(gateway.class_name), network) for gateway in gateways if gateway.addresses]
    return Waypoints({(waypoint.namespace, waypoint.name): waypoint for waypoint in found}, namespaces)


def wants_ingress(meta: Meta, namespace: Namespace | None) -> bool:
    """Whether ingress gateways, too, go through the service's waypoint."""
    of_namespace = namespace.meta.labels if namespace is not None else {}
    text = meta.labels.get("istio.io/ingress-use-waypoint", of_namespace.get("istio.io/ingress-use-waypoint", ""))
    return parse_flag(text)


def _waypoint(gateway: Gateway, of_class: Meta | None, network: str) -> Waypoint:
    meta = gateway.meta
    binding = _binding(_first_of(_BINDING, meta.annotations, of_class.annotations if of_class is not None else {}))
    traffic = _first_of(_TRAFFIC, meta.labels, of_class.labels if of_class is not None else {})
    return Waypoint(
        name=meta.name,
        namespace=meta.namespace,
        address=_address(gateway, network),
        traffic="service" if traffic is None else traffic,
        listener=_listener(gateway, binding),
        binding=binding,
    )


def _first_of(key: str, *mappings: Mapping[str, str]) -> str | None:
    return next((mapping[key] for mapping in mappings if key in mapping), None)


def _address(gateway: Gateway, network: str) -> GatewayAddress | None:
    """By name rather than by address: a name stays when the Service behind it gets other addresses."""
    for address in gateway.addresses:
        if address.type is AddressType.HOSTNAME:
            return GatewayAddress(HBONE_PORT, service=f"{gateway.meta.namespace}/{address.value}")
    for address in gateway.addresses:
        if address.type is AddressType.IP:
            try:
                return GatewayAddress(HBONE_PORT, network=network, ip=parse_ip(address.value))
            except ValueError:
                continue
    return None


def _binding(text: str | None) -> Binding | None:
    """`PROXY`, `PROXY/15088` or `NONE`; anything else is no binding."""
    if text is None:
        return None
    protocol, slash, port = text.partition("/")
    if protocol not in {"NONE", "PROXY"} or "/" in port:
        return None
    return Binding(protocol == "PROXY", int(port) if slash and _NUMBER.fullmatch(port) else 0)


def _listener(gateway: Gateway, binding: Binding | None) -> Listener | None:
    if binding is not None:
        for listener in gateway.listeners:
            if binding.port and listener.port == binding.port:
                return listener
            if not binding.port and binding.speaks_proxy_protocol and listener.protocol == "istio.io/PROXY":
                return listener
    return next(
        (listener for listener in gateway.listeners if (listener.protocol, listener.port) == ("HBONE", HBONE_PORT)),
        None,
    )


def _named(labels: Mapping[str, str], label: str) -> tuple[str, str] | None:
    """Name and, if written, namespace."""
    name = labels.get(label)
    if name is None or name == "none" or (label == _CANARY and not name):
        return None
    return name, labels.get(f"{label}-namespace", "")


def _weight(meta: Meta, inherited: Meta | None) -> int | None:
    text = _first_of(_CANARY_WEIGHT, meta.annotations, inherited.annotations if inherited is not None else {})
    if text is None:
        return 0
    return int(text) if _NUMBER.fullmatch(text.removeprefix("+")) and int(text) <= _ALL else None
