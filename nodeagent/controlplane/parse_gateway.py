# SPDX-License-Identifier: Apache-2.0
"""Gateway and GatewayClass (gateway.networking.k8s.io), as far as waypoints and ways to other networks need them. Pure.

An API server's defaults are read in: routes of the same namespace, addresses of the type IPAddress.
"""

from nodeagent.controlplane.fields import Fields
from nodeagent.controlplane.gateway_spec import AddressType, GatewayStatusAddress, Listener, RoutesFrom
from nodeagent.controlplane.objects import Gateway, Meta
from nodeagent.controlplane.parse_selector import parse_label_selector
from nodeagent.model.address import Port

_ROUTES = {str(value): value for value in RoutesFrom}


def parse_gateway(fields: Fields, meta: Meta) -> Gateway:
    spec, status = fields.within("spec"), fields.within("status")
    if spec is None:
        fields.wrong("spec", "a Gateway has a spec with a gatewayClassName")
        return Gateway(meta=meta)
    return Gateway(
        meta=meta,
        class_name=spec.text("gatewayClassName"),
        listeners=tuple(_listener(entry) for entry in spec.each("listeners")),
        addresses=tuple(_address(entry) for entry in status.each("addresses")) if status is not None else (),
    )


def _listener(entry: Fields) -> Listener:
    protocol, port = entry.text("protocol"), entry.port("port")
    if port is None:
        entry.wrong("port", "a port number is missing")
        port = Port(0)
    allowed = entry.within("allowedRoutes")
    namespaces = allowed.within("namespaces") if allowed is not None else None
    if namespaces is None:
        return Listener(protocol, port)
    selector = namespaces.within("selector")
    return Listener(
        protocol,
        port,
        namespaces.choice("from", _ROUTES, RoutesFrom.SAME),
        parse_label_selector(selector) if selector is not None else None,
    )


def _address(entry: Fields) -> GatewayStatusAddress:
    kind = entry.text("type", str(AddressType.IP))
    known = kind in {AddressType.IP, AddressType.HOSTNAME}
    return GatewayStatusAddress(AddressType(kind) if known else AddressType.OTHER, entry.text("value"))
