# SPDX-License-Identifier: Apache-2.0
"""Two pods on two nodes, through the mesh and outside it, in one run; and the memory of what runs on a node.

Both pairs stand on the same nodes and the same link.
"""

from nodeagent.lab.demo.stage import NODES
from tests.bench import load, programs, proxies
from tests.bench.ground import Condition, Ground
from tests.bench.report import Comparison, Row, summarize
from tests.bench.rounds import Harness, Settings, Subject

WORKS = (load.bulk("upload"), load.bulk("download"), load.exchange(), load.churn(1))


def run(ground: Ground, harness: Harness, settings: Settings) -> list[Row]:
    for node in NODES:
        ground.become(node, Condition.KERNEL)
    client, server = ground.pod("web"), ground.pod("db")
    ground.generator.serve(server)
    ground.generator.serve(ground.pod("legacy"))
    mesh = Subject(
        "mesh",
        client,
        server.ipv4,
        load.PORT,
        lambda: ground.await_reason(NODES[0], "STEERED", client, server.ipv4, load.PORT),
    )
    direct = Subject("no mesh", ground.pod("legacy2"), ground.pod("legacy").ipv4, load.PORT, lambda: None)
    rounds = harness.run([direct, mesh], WORKS)
    wanted = [
        Comparison(f"across nodes to no mesh, {measure}", measure, how.unit, "mesh", "no mesh")
        for work in WORKS
        for measure, how in work.measures.items()
    ]
    nodes = [ground.stage.lab.nodes[node] for node in NODES]
    turns = harness.undisturbed(
        lambda: programs.measure(ground.generator, nodes, mesh, load.exchange(), settings.rounds, settings.seconds)
    )
    costs = programs.rows(turns, "across nodes", "request/response", is_one_at_a_time=True)
    return [*summarize(rounds, wanted), *costs, *memory(ground)]


def memory(ground: Ground) -> list[Row]:
    made = []
    for node in NODES:
        pids = {"agent": ground.stage.agents[node].pid, "worker": ground.stage.worker_pids(node)[0]}
        made += [
            Row(f"memory of {part}, {node}", proxies.resident_bytes(pid) / (1 << 20), "MiB")
            for part, pid in pids.items()
        ]
    return made
