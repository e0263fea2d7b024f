# SPDX-License-Identifier: Apache-2.0
"""A mesh of a given size beside the lab's own: pods on nodes that are not there, with Services and policies. Pure.

A file holds what an application has: ten replicas spread over the nodes, their Service, and a policy that lets three
other applications in. That is how people keep them, so a change of one pod is a change of one file.
"""

import ipaddress
from collections.abc import Iterator

from nodeagent.lab.demo.mesh import Object, authorization, namespace, node, rule, service

NODES = 200
"""With the two of the lab."""
REPLICAS = 10
_APPS_IN_A_NAMESPACE = 10
_PODS_V4, _PODS_V6 = ipaddress.IPv4Address("10.128.0.0"), ipaddress.IPv6Address("fd00:128::")
_SERVICES_V4, _SERVICES_V6 = ipaddress.IPv4Address("10.112.0.0"), ipaddress.IPv6Address("fd00:112::")


def far_nodes() -> list[str]:
    return [f"far-{number:03}" for number in range(NODES - 2)]


def files(workloads: int) -> Iterator[tuple[str, list[Object]]]:
    """Names of files and what is in them. `workloads` is a multiple of REPLICAS."""
    apps = workloads // REPLICAS
    yield "40-far-nodes.yaml", [node(name, f"zone-{name[-1]}") for name in far_nodes()]
    spaces = [namespace(name, ambient=True) for name in sorted({_namespace(app) for app in range(apps)})]
    yield "41-far-namespaces.yaml", spaces
    for app in range(apps):
        yield file_of(app), application(app, apps)


def file_of(app: int) -> str:
    return f"42-app-{app:04}.yaml"


def application(app: int, apps: int, version: str = "1") -> list[Object]:
    """`version` is a label of its first pod: another one changes that workload and nothing else."""
    name, space = _name(app), _namespace(app)
    friends = {(app + step) % apps for step in (1, 7, 31)}
    principals = [f"cluster.local/ns/{_namespace(friend)}/sa/{_name(friend)}" for friend in sorted(friends)]
    addresses = [str(_SERVICES_V4 + app), str(_SERVICES_V6 + app)]
    return [
        service(name, space, {"app": name}, addresses, {80: 8080}),
        authorization(name, space, name, "ALLOW", [rule(principals=principals)]),
        *(_pod(app, replica, version if replica == 0 else "1") for replica in range(REPLICAS)),
    ]


def first_pod(app: int) -> str:
    """Its uid in the mesh."""
    return f"Kubernetes//Pod/{_namespace(app)}/{_name(app)}-0"


def _pod(app: int, replica: int, version: str) -> Object:
    number, places = app * REPLICAS + replica, far_nodes()
    ips = [str(_PODS_V4 + number), str(_PODS_V6 + number)]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{_name(app)}-{replica}",
            "namespace": _namespace(app),
            "labels": {"app": _name(app), "service.istio.io/canonical-revision": version},
        },
        "spec": {"nodeName": places[number % len(places)], "serviceAccountName": _name(app)},
        "status": {
            "phase": "Running",
            "podIP": ips[0],
            "podIPs": [{"ip": ip} for ip in ips],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def _name(app: int) -> str:
    return f"app-{app:04}"


def _namespace(app: int) -> str:
    return f"team-{app // _APPS_IN_A_NAMESPACE:03}"
