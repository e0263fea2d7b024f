# SPDX-License-Identifier: Apache-2.0
"""Names and addresses to Services, as one client sees them: several may share an address, some are private.

The rank is ztunnel's (src/state/service.rs: find_best_match, get_best_by_cidr_vip).
"""

from collections.abc import Callable, Iterable

from nodeagent.model.address import Ip
from nodeagent.model.mesh import Mesh
from nodeagent.model.workload import GatewayAddress, Service, Workload


def find_service(
    mesh: Mesh,
    network: str,
    ip: Ip,
    namespace: str,
    is_seen: Callable[[Service], bool] = lambda _: True,
    port: int = 0,
) -> Service | None:
    """The Service at `ip` for clients of `namespace`: by exact address, else by the best block that holds it.

    Between the two are those of which an endpoint's name means `ip`, if `port` is given and theirs. Among blocks the
    client's own namespace comes before the length of the prefix. What is not seen is passed over.
    """
    exact = best(filter(is_seen, mesh.services_at_ip(network, ip)), namespace)
    if exact is not None:
        return exact
    named = best(filter(is_seen, mesh.services_by_name(network, ip, port)), namespace) if port else None
    if named is not None:
        return named
    holding = mesh.services_at_block(network, ip)
    blocks = [found for found in holding if is_seen(found[1]) and _is_visible(found[1], namespace)]
    if not blocks:
        return None
    return max(blocks, key=lambda found: (found[1].namespace == namespace, found[0], found[1].is_canonical))[1]


def find_hostname(mesh: Mesh, hostname: str, namespace: str) -> Service | None:
    return best(mesh.services_named(hostname), namespace)


def best(services: Iterable[Service], namespace: str) -> Service | None:
    """Of the visible ones: the client's own namespace, then a canonical one, then the first."""
    visible = [service for service in services if _is_visible(service, namespace)]
    if not visible:
        return None
    return max(visible, key=lambda service: (service.namespace == namespace, service.is_canonical))


def find_gateway(mesh: Mesh, gateway: GatewayAddress, namespace: str) -> Service | Workload | None:
    """What a GatewayAddress means: by name a Service; by address a workload or a Service."""
    if gateway.service:
        return mesh.services.get(gateway.service)
    return mesh.workload_at(gateway.network, gateway.ip) or find_service(mesh, gateway.network, gateway.ip, namespace)


def _is_visible(service: Service, namespace: str) -> bool:
    return not service.is_namespace_private or service.namespace == namespace
