# SPDX-License-Identifier: Apache-2.0
"""Claims about where connections go: what the mesh's owner says of it beyond Services and policies."""

from collections import Counter

from nodeagent.lab.demo import mesh
from nodeagent.lab.demo.claims import demand, eventually
from nodeagent.lab.demo.client import PATIENCE_SECONDS, Fate, ask, fate, is_served
from nodeagent.lab.demo.stage import PORT, SERVICE_PORT, Stage
from nodeagent.lab.namespaces import Pod
from nodeagent.model.address import Ip

ENFORCED_WITHIN_SECONDS = PATIENCE_SECONDS
ROUTES = "50-routes.yaml"
OUTBOUND = "51-outbound.yaml"
BOTH = "52-both.yaml"
BOTH_SERVICE_IPS = ("10.96.0.12", "fd00:96::12")
LIMIT = "53-limit.yaml"
_BURST = 5
_NOBODY_LISTENS = 4
_ONE_LISTENS = 7070
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


def outlier_ejected(stage: Stage) -> str:
    """An endpoint to which connections fail gets none for a while: its clients stop meeting it."""
    web, told = stage.pod("web"), []
    both = mesh.service("both", "shop", {"tier": "backend"}, BOTH_SERVICE_IPS, {SERVICE_PORT: _ONE_LISTENS})
    policy: mesh.Object = {
        "outlierDetection": {"consecutive5xxErrors": 3, "baseEjectionTime": "300s", "maxEjectionPercent": 50}
    }
    application = stage.start_application(stage.pod("api"), _ONE_LISTENS)
    try:
        stage.write(BOTH, [both])
        ip, other_ip = (Ip(ip) for ip in BOTH_SERVICE_IPS)
        eventually(lambda: is_served(web, ip, SERVICE_PORT), ENFORCED_WITHIN_SECONDS, "the Service is known")
        before = _fates(web, ip, 40)
        demand(before[Fate.SERVED] and before[Fate.REFUSED], f"nobody listens at db, and the fates were {before}")
        stage.write(BOTH, [both, mesh.destination_rule("both", "shop", policy)])

        def is_ejected() -> bool:
            """That 20 of 20 meet api comes about once in a million times by chance."""
            return _fates(web, ip, 20)[Fate.REFUSED] == 0

        eventually(is_ejected, ENFORCED_WITHIN_SECONDS, "db, where nobody listens, is not drawn any more")
        for address in (ip, other_ip):
            after = _fates(web, address, 50)
            demand(after == {Fate.SERVED: 50}, f"{address}: with db ejected the fates were {after}")
            told.append(f"{address}: 50 of 50 served")
        stage.write(BOTH, [both])
        eventually(lambda: not is_ejected(), ENFORCED_WITHIN_SECONDS, "without the rule db is drawn again")
    finally:
        application.kill()
        application.wait()
        stage.write(BOTH, [])
    return f"before, {before[Fate.REFUSED]} of 40 refused, since nobody listens at db; ejected: {', '.join(told)}"


def _fates(client: Pod, ip: Ip, times: int) -> Counter[Fate]:
    return Counter(fate(client, ip, SERVICE_PORT) for _ in range(times))


def rate_limited(stage: Stage) -> str:
    """One identity opens so many connections to a workload and no more; another identity has an account of its own."""
    web, batch, told = stage.pod("web"), stage.pod("batch"), []
    stage.write(LIMIT, [mesh.connection_limit("all", "shop", {"connectionsPerSecond": 0.01, "burst": _BURST})])
    for name, node in (("db", "node-b"), ("api", "node-a")):
        ips = stage.pod(name).ips
        for ip in ips:  # web uses up what it may open, and so sees that the limit is there
            eventually(lambda ip=ip: not is_served(web, ip, PORT), ENFORCED_WITHIN_SECONDS, f"{ip}: web has enough")  # type: ignore[misc]
        fates = Counter(fate(batch, ips[attempt % 2], PORT) for attempt in range(3 * _BURST))
        # One more if the tour was that slow: a connection in a hundred seconds.
        demand(_BURST <= fates[Fate.SERVED] <= _BURST + 1, f"{name}: of a burst of {_BURST} the fates were {fates}")
        demand(fates[Fate.SERVED] + fates[Fate.REFUSED] == 3 * _BURST, f"{name}: the fates were {fates}")
        eventually(lambda node=node: _has_recorded(stage, node), ENFORCED_WITHIN_SECONDS, f"{node} records source_rate")  # type: ignore[misc]
        told.append(f"{name}: {fates[Fate.SERVED]} of {3 * _BURST} served, the rest reset")
    stage.write(LIMIT, [])
    for name in ("db", "api"):
        for ip in stage.pod(name).ips:
            eventually(lambda ip=ip: is_served(web, ip, PORT), ENFORCED_WITHIN_SECONDS, f"{ip}: without a limit")  # type: ignore[misc]
    return (
        f"burst of {_BURST}, used up by web: {'; '.join(told)} (batch, whose account is its own, both families "
        "together); recorded as source_rate on the destination's node"
    )


def _has_recorded(stage: Stage, node: str) -> bool:
    lines = stage.access_lines(node)
    return any(line.get("reason") == "source_rate" and "/sa/batch" in str(line.get("src.identity")) for line in lines)


def registry_only(stage: Stage) -> str:
    """Under REGISTRY_ONLY the kernel drops what goes to an address that the mesh does not know, and nothing else."""
    web, outside, told = stage.pod("web"), stage.lab.control, []
    # Nobody listens there: a host that is reached refuses, and one that is not says nothing.
    demand(all(_reaches(web, ip) for ip in outside.ips), f"{outside.ips} were out of reach before")
    stage.write(OUTBOUND, [mesh.outbound("REGISTRY_ONLY")])
    for ip in outside.ips:
        eventually(lambda ip=ip: _dropped(stage, ip) > 0, ENFORCED_WITHIN_SECONDS, f"{ip}: dropped as NOT_REGISTERED")  # type: ignore[misc]
        dropped = _dropped(stage, ip)
        demand(dropped > 0, f"{ip}: dropped as NOT_REGISTERED, and then not any more")
        told.append(f"{ip}: NOT_REGISTERED +{dropped}")
        demand(_reaches(stage.pod("legacy2"), ip), f"{ip}: a pod outside the mesh was restricted too")
    registered = [*stage.service_ips, *stage.pod("legacy").ips]
    for ip in registered:
        port = SERVICE_PORT if ip in stage.service_ips else PORT
        demand(is_served(web, ip, port), f"{ip}: registered, and not served")
    stage.write(OUTBOUND, [])
    for ip in outside.ips:
        eventually(lambda ip=ip: not _dropped(stage, ip), ENFORCED_WITHIN_SECONDS, f"{ip}: not dropped any more")  # type: ignore[misc]
        demand(_reaches(web, ip), f"{ip}: out of reach, although nothing is dropped any more")
    return f"{'; '.join(told)}; {', '.join(registered)} served; lifted: within reach again"


def _reaches(client: Pod, ip: Ip) -> bool:
    """Whether the host at `ip` says anything, and be it that nobody listens."""
    return fate(client, ip, _NOBODY_LISTENS) is not Fate.SILENT


def _dropped(stage: Stage, ip: Ip) -> int:
    """What the kernel dropped of web's attempt to reach `ip`; 0 also when it was answered all the same."""
    before = stage.packets("node-a").get("NOT_REGISTERED", 0)
    if fate(stage.pod("web"), ip, _NOBODY_LISTENS, seconds=0.5) is not Fate.SILENT:
        return 0
    return stage.packets("node-a").get("NOT_REGISTERED", 0) - before


def _server(stage: Stage, client: Pod, ip: Ip) -> str:
    """Name of the pod that answers at this address of a Service, as it sees itself."""
    address = ask(client, ip, SERVICE_PORT, "WHERE").split()[0]
    return next(name for name, pod in stage.lab.pods.items() if address in pod.ips)
