# SPDX-License-Identifier: Apache-2.0
"""Which Services a client sees: those that the egress.hosts of its Sidecar name, or all. Pure.

What it does not see is to it as if nobody had registered it. It is no border: policy decides who may connect, this who
is led, and a pod's own address stays what it is.
"""

from nodeagent.model.traffic import ClientScope, EgressHosts
from nodeagent.model.workload import Service, Workload


def sees(scope: ClientScope | None, client: Workload, service: Service, port: int) -> bool:
    """Whether `client`, to which `scope` applies, sees `service` at this port of it."""
    if scope is None or scope.egress is None:
        return True
    listener = _listener(scope.egress, port)
    return listener is not None and any(_names(host, client, service) for host in listener.hosts)


def _listener(egress: tuple[EgressHosts, ...], port: int) -> EgressHosts | None:
    """Whoever has the port has it alone."""
    by_port = {listener.port: listener for listener in egress}
    return by_port.get(port, by_port.get(0))


def _names(host: str, client: Workload, service: Service) -> bool:
    namespace, _, name = host.partition("/")
    if namespace == "." and service.namespace != client.namespace:
        return False
    if namespace not in {"*", ".", service.namespace}:  # `~` is none's
        return False
    if name.startswith("*"):
        return service.hostname.endswith(name[1:])
    return service.hostname == name
