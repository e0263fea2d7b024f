# SPDX-License-Identifier: Apache-2.0
"""The tour: every promise of the product as a claim, in the order in which they are shown."""

from nodeagent.lab.demo import failure_claims, machine_claims, policy_claims, routing_claims, traffic_claims
from nodeagent.lab.demo.claims import Claim
from nodeagent.lab.demo.stage import Stage

TOUR: tuple[Claim[Stage], ...] = (
    Claim("captured: the application sees the client's real address and port", traffic_claims.captured),
    Claim("encrypted: nothing in plain text between the nodes, TLS 1.3 to 15008", traffic_claims.encrypted),
    Claim("identified: both ends know both identities", traffic_claims.identified),
    Claim(
        "same node: in the kernel, past the proxy, real addresses, nothing of it on the link", traffic_claims.same_node
    ),
    Claim("service: an address of a Service leads to its pods", traffic_claims.service),
    Claim("whole: 256 MiB each way arrive unchanged", traffic_claims.whole),
    Claim("endings: half-close and reset arrive as such", traffic_claims.endings),
    Claim("outside the mesh: reachable as before", traffic_claims.outside_untouched),
    Claim("policies: ALLOW and DENY by principal, namespace, address block and port", policy_claims.policies),
    Claim("plaintext: refused under STRICT, served under PERMISSIVE", policy_claims.plaintext),
    Claim("NodePort: leads to the pod's guard, refused under STRICT", policy_claims.node_port_guarded),
    Claim("same node, revoked: an idle connection ends at both ends", policy_claims.flow_revoked),
    Claim("policy edit: in force for new connections, and an open one is cut", policy_claims.edit_enforced),
    Claim("invalid edit: refused with file and line, the old rule stays", policy_claims.invalid_refused),
    Claim("REGISTRY_ONLY: what the mesh does not know is dropped in the kernel", routing_claims.registry_only),
    Claim(
        "weighted routes: connections to a Service shared out by weight, for the clients named", routing_claims.weighted
    ),
    Claim("outlier: an endpoint to which connections fail is drawn no more", routing_claims.outlier_ejected),
    Claim("rate limit: an identity opens so many connections and no more", routing_claims.rate_limited),
    Claim("spoofed source: dropped and counted by name", machine_claims.spoofing_dropped),
    Claim("node untouched: no firewall rule, ip rule, route or sysctl of ours", machine_claims.node_untouched),
    Claim("worker confined: no capability, no way into the node's namespace", machine_claims.worker_confined),
    Claim("certificates renewed under traffic: no connection lost", failure_claims.rotation),
    Claim("control plane killed: traffic goes on; back: changes flow again", failure_claims.control_plane_dies),
    Claim("agent killed: traffic goes on; restarted: workers adopted, nothing lost", failure_claims.agent_dies),
    Claim(
        "upgrade under load: agents, programs and maps replaced and rolled back, nothing lost", failure_claims.upgraded
    ),
    Claim("worker replaced under load: open connections go on at its successor", failure_claims.worker_replaced),
    Claim("worker killed: no plain text, new connections wait and are served", failure_claims.worker_dies),
    Claim("node still untouched after all this", machine_claims.node_untouched),
)
LAST = "machine as before: links, namespaces, tc, bpffs, cgroups and rules"
"""The claim that can only be judged when everything is gone."""
