# SPDX-License-Identifier: Apache-2.0
"""Ports of policies that none of the selected pods has: often the Service's port, where the pod's is asked for. Pure.

A container's ports are optional in Kubernetes, so a policy is judged only if each of its pods says some: by itself, or
by a Service that selects it.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from nodeagent.controlplane.finding import Finding
from nodeagent.controlplane.objects import AuthorizationPolicy, Key, Meta, Pod, PortSpec
from nodeagent.controlplane.view import View, warn
from nodeagent.model.address import Port


def analyze_ports(view: View) -> Iterator[Finding]:
    written: list[tuple[Meta, Sequence[Pod], list[tuple[str, Port]]]] = [
        (policy.meta, view.reached(policy), ports) for policy in view.policies if (ports := list(_ports(policy)))
    ]
    written += [
        (
            peer.meta,
            view.select(peer.meta.namespace, peer.selector),
            [(f"spec.portLevelMtls.{port}", port) for port in peer.port_modes],
        )
        for peer in view.peers
        if peer.port_modes
    ]
    if not written:
        return
    services = _services_of_pods(view)
    for meta, pods, ports in written:
        known = _known_ports(pods, services)
        for field, port in ports:
            if known and port not in known:
                yield _unknown(meta, field, port, pods, services)


def _ports(policy: AuthorizationPolicy) -> Iterator[tuple[str, Port]]:
    for number, rule in enumerate(policy.rules):
        for at, operation in enumerate(rule.operations):
            path = f"spec.rules[{number}].to[{at}].operation"
            yield from ((f"{path}.ports[{place}]", port) for place, port in enumerate(operation.ports))
            yield from ((f"{path}.notPorts[{place}]", port) for place, port in enumerate(operation.not_ports))
        for at, condition in enumerate(rule.conditions):
            path = f"spec.rules[{number}].when[{at}]"
            yield from ((f"{path}.values[{place}]", port) for place, port in enumerate(condition.operation.ports))
            yield from (
                (f"{path}.notValues[{place}]", port) for place, port in enumerate(condition.operation.not_ports)
            )


_Services = dict[Key, list[tuple[Key, PortSpec]]]
"""By pod: the Services that select it, a row for each of their ports."""


def _services_of_pods(view: View) -> _Services:
    found: _Services = defaultdict(list)
    for service in view.services:
        if service.selector:
            for pod in view.select(service.meta.namespace, service.selector):
                found[pod.meta.key] += [(service.meta.key, port) for port in service.ports]
    return found


def _known_ports(pods: Sequence[Pod], services: _Services) -> set[int]:
    """Empty when it is not known of one of them."""
    known: set[int] = set()
    for pod in pods:
        own = {*pod.container_ports, *(spec.target_port for _, spec in services.get(pod.meta.key, ()))} - {0}
        if not own:
            return set()
        known |= own
    return known


def _unknown(meta: Meta, field: str, port: Port, pods: Sequence[Pod], services: _Services) -> Finding:
    check = "The port of the container is asked for, as it listens."
    for pod in pods:
        for service, spec in services.get(pod.meta.key, ()):
            if spec.port == port:
                target = spec.target_port or pod.named_ports.get(spec.target_name, 0)
                check = f"It is the port of {service}, whose pods listen on {target or spec.target_name}."
    return warn(meta, "MN0207", f"no pod that it is about has port {port}", check, field)
