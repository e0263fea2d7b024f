# SPDX-License-Identifier: Apache-2.0
"""Claims about where connections go: what the mesh's owner says of it beyond Services and policies."""

from collections import Counter

from nodeagent.lab.demo import mesh
from nodeagent.lab.demo.claims import demand, eventually
from nodeagent.lab.demo.client import ask
from nodeagent.lab.demo.stage import SERVICE_PORT, Stage
from nodeagent.lab.namespaces import Pod
from nodeagent.model.address import Ip

ENFORCED_WITHIN_SECONDS = 5.0
ROUTES = "50-routes.yaml"
_DRAWS = 200
_LEAST, _MOST = 20, 80
"""Of 200 draws with a chance of 1 in 4: fewer or more come about once in a million tours."""


def weighted(stage: Stage) -> str:
    """Connections to one Service are shared out by weight between two, for the clients that the route names."""
    web, batch, told = stage.pod("web"), stage.pod("batch"), []
    stage.write(ROUTES, [mesh.virtual_service("db", "shop", [mesh.route({"db": 75, "api": 25}, client_app="web")])])
    for ip in stage.service_ips:
        eventually(lambda ip=ip: _server(stage, web, ip) == "api", ENFORCED_WITHIN_SECONDS, f"{ip}: the route counts")  # type: ignore[misc]
        seen = Counter(_server(stage, web, ip) for _ in range(_DRAWS))
        demand(set(seen) == {"db", "api"}, f"{ip}: served by {dict(seen)}")
        demand(_LEAST <= seen["api"] <= _MOST, f"{ip}: of {_DRAWS} connections api got {seen['api']}, of 25 %")
        others = Counter(_server(stage, batch, ip) for _ in range(20))
        demand(set(others) == {"db"}, f"{ip}: the route is for web alone, and batch was served by {dict(others)}")
        told.append(f"{ip}: {seen['api']} of {_DRAWS} to api")
    stage.write(ROUTES, [])
    for ip in stage.service_ips:

        def is_gone(ip: Ip = ip) -> bool:
            """While the route counts, that 60 in a row are served by db comes about once in thirty million times."""
            return {_server(stage, web, ip) for _ in range(60)} == {"db"}

        eventually(is_gone, ENFORCED_WITHIN_SECONDS, f"{ip}: db alone again")
    return f"{'; '.join(told)} at 75:25; batch, which the route does not name, to db alone"


def _server(stage: Stage, client: Pod, ip: Ip) -> str:
    """Name of the pod that answers at this address of a Service, as it sees itself."""
    address = ask(client, ip, SERVICE_PORT, "WHERE").split()[0]
    return next(name for name, pod in stage.lab.pods.items() if address in pod.ips)
