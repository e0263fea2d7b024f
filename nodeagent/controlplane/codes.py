# SPDX-License-Identifier: Apache-2.0
"""What each code means to an operator: why it matters, and what to do. docs/codes.md is printed from here."""

from typing import NamedTuple

from nodeagent.controlplane.finding import CODES


class Page(NamedTuple):
    why: str
    mend: str
    example: str = ""
    """YAML that has it."""


PAGES: dict[str, Page] = {
    "MN0001": Page(
        "The file is too large (16 MiB), no regular file, or this user may not read it. All objects that came from it "
        "stay as they were.",
        "Split the file, or give the control plane's user the right to read it.",
    ),
    "MN0002": Page(
        "The text is not YAML, or not UTF-8, so nothing of the file can be told. All objects that came from it stay as "
        "they were.",
        "Mend the line that is named. A tab instead of spaces, a missing quote and a colon in a text are the usual "
        "causes.",
        "metadata: {name: web",
    ),
    "MN0003": Page(
        "YAML forbids a key twice in one mapping, and parsers disagree about which counts. In a policy one of two "
        "conditions would vanish. The object is refused, as are tags (`!secret`) and keys that are no text.",
        "Remove one of the two.",
        "spec:\n  rules: [{}]\n  rules: []",
    ),
    "MN0004": Page(
        "Two documents are the same object: the same kind, namespace and name. The first counts, files taken by name.",
        "Remove or rename one.",
    ),
    "MN0005": Page(
        "A document without apiVersion, kind or a valid metadata.name cannot be any object. Nothing that came from its "
        "file is removed, since it could be any of them.",
        "Write apiVersion, kind and metadata.name.",
        "apiVersion: v1\nkind: Pod\nmetadata: {nam: web}",
    ),
    "MN0006": Page(
        "The kind means nothing to this control plane, so that the object has no effect.",
        "Nothing, if it is for somebody else. Is apiVersion the right group otherwise?",
        "apiVersion: v1\nkind: Secret\nmetadata: {name: key}",
    ),
    "MN0201": Page(
        "An attribute of layer 7 (a method, a path, a header) is not seen by a node's agent. istiod leaves it out of a "
        "DENY rule, and an entry or condition of which nothing remains matches nothing: the rule never fires, and what "
        "it was to deny is allowed. Istio's own words say otherwise in places; this is what its code does, and ours.",
        "Deny by principal, namespace, address or port; or use a waypoint and targetRefs. With the annotation "
        '`nodeagent/strict-deny: "true"` what needs layer 7 counts as met, and more is denied than is written.',
        "spec:\n  action: DENY\n  rules:\n  - to:\n    - operation: {methods: [POST]}",
    ),
    "MN0202": Page(
        "A rule of an ALLOW policy with an attribute of layer 7 anywhere is left out, so that less is allowed than is "
        "written. A policy of which no rule remains allows nothing.",
        "Allow by layer 4 here, and judge the rest at a waypoint.",
        "spec:\n  rules:\n  - to:\n    - operation: {methods: [GET]}",
    ),
    "MN0203": Page(
        "Principals are compared without the scheme, so one that begins with spiffe:// never matches.",
        "Write cluster.local/ns/shop/sa/web.",
        "principals: ['spiffe://cluster.local/ns/shop/sa/web']",
    ),
    "MN0204": Page(
        "A client in plain text has no identity: no not-list excludes it. A rule that only names whom it does not want "
        "therefore allows every stranger.",
        "Add principals: ['*'] to the same source, or PeerAuthentication with mode STRICT.",
        "spec:\n  rules:\n  - from:\n    - source: {notNamespaces: [guests]}",
    ),
    "MN0205": Page(
        "trustDomains and notTrustDomains, which istiod drops without a word, are told to agents and ztunnels as "
        "principals that begin with them. One that begins with a star cannot be said so, and the object is refused.",
        "Write out the trust domains.",
        "spec:\n  rules:\n  - from:\n    - source: {trustDomains: ['*.example']}",
    ),
    "MN0206": Page(
        "The principal's trust domain is not the mesh's, nor an alias of it (trustDomainAliases of MeshConfig). No "
        "workload here has it.",
        "Correct the domain, unless the domains are federated.",
        "principals: [other.example/ns/shop/sa/web]",
    ),
    "MN0207": Page(
        "Ports of a policy are those on which the pod listens, never those of a Service. With the Service's port an "
        "ALLOW allows nothing, and a DENY denies nothing. It is only told if the ports of all selected pods are known, "
        "from their containers or from Services.",
        "Write the targetPort's number.",
        "to:\n- operation: {ports: ['80']} # the pod listens on 8080",
    ),
    "MN0208": Page(
        "A policy is enforced by the agent of the node, for pods that it captures. None of the pods that this one is "
        "about is: they are not enrolled, or share the network of their node.",
        "Label the namespace with istio.io/dataplane-mode: ambient, or select other pods.",
    ),
    "MN0209": Page(
        "All pods with this service account are outside of the mesh or on the host's network, so they connect in plain "
        "text and have no identity: an ALLOW never matches, a DENY never denies, and STRICT refuses them. Kubelet's "
        "probes are not meant: what a node sends to its own pods passes every policy.",
        "Capture them, or name their addresses with ipBlocks.",
        "principals: [cluster.local/ns/legacy/sa/billing] # legacy is not in the mesh",
    ),
    "MN0210": Page(
        "Another policy or rule has said it already: the same words, or a rule without conditions that is about the "
        "same pods and more. Whoever edits this one will see nothing change.",
        "Remove it, or narrow the other one.",
        "spec:\n  rules:\n  - {}\n  - from:\n    - source: {namespaces: [shop]}",
    ),
    "MN0211": Page(
        "The pods have addresses of both families and the blocks are of one. Connections by the other family never "
        "match: they slip through a DENY, and an ALLOW refuses them.",
        "Add the clients' addresses of the other family, or name clients by identity.",
        "spec:\n  action: DENY\n  rules:\n  - from:\n    - source: {ipBlocks: [192.0.2.0/24]}",
    ),
    "MN0212": Page(
        "The API has no field of this name where it stands. A misspelt condition of a policy would not be enforced, a "
        "misspelt address not be known, so the object is refused.",
        "Correct the spelling or the indentation. With --unknown-fields warn objects other than policies are taken "
        "nevertheless, for a Kubernetes that is newer than this release.",
        "spec:\n  rules:\n  - from:\n    - source: {principal: [a]}",
    ),
    "MN0213": Page(
        "istiod attaches a policy with an empty selector to no workload at all, although it looks like one for the "
        "namespace. Here it is for the whole namespace, as in the API's text.",
        "Leave the selector out, or select by labels.",
        "spec:\n  selector: {}",
    ),
    "MN0214": Page(
        "An address names one pod. Connections to it, and from it, would be taken for the other's.",
        "Which pod has the address? Remove it from the other, or the other pod.",
    ),
    "MN0215": Page(
        "Nobody assigns addresses to Services here, so that this one is reached by its name at most.",
        "Write clusterIP, or `clusterIP: None`.",
        "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {ports: [{port: 80}]}",
    ),
    "MN0216": Page(
        "The object is valid and is not enforced by a node's agent: it is for a waypoint (targetRefs, AUDIT, CUSTOM), "
        "a dry run, or selects from a namespace where selectors do not count.",
        "Nothing, if that is meant.",
        "metadata:\n  annotations: {istio.io/dry-run: 'true'}",
    ),
    "MN0217": Page(
        "Of several such objects only the oldest counts: by creationTimestamp, then file, then name.",
        "Keep one.",
    ),
    "MN0218": Page(
        "The entry names attributes of layer 4 and 7. istiod leaves out the latter in a DENY rule, so that more is "
        "denied than is written. With nodeagent/strict-deny an entry of layer 7 alone is denied to everybody.",
        "Is that meant? Else judge it at a waypoint.",
        "spec:\n  action: DENY\n  rules:\n  - to:\n    - operation: {methods: [POST], ports: ['80']}",
    ),
    "MN0219": Page(
        "For a workload that has no label at all istiod lists every policy with a selector of its namespace and of the "
        "root namespace, and so does this control plane. Where an ALLOW for the whole namespace, or mesh, closes that "
        "workload, one that was written for others opens it to their clients. It is told of captured pods, and of "
        "WorkloadEntries and endpoints of ServiceEntries with `ambient.istio.io/redirection: enabled`: elsewhere "
        "nobody enforces policies. By a DENY that was written for others such a workload is closed, too; so it is by "
        "an ALLOW where none is for all, but for the clients of others. That is not told. Rules "
        "are compared as a whole: one that another contains, written otherwise, is told.",
        "Give the workload a label, whatever it says: in metadata.labels of the Pod or the WorkloadEntry (there "
        "spec.labels will do), and for an endpoint in those of its ServiceEntry. An endpoint's own do not count.",
        "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\n"
        "metadata: {name: vm, annotations: {ambient.istio.io/redirection: enabled}} # no labels\n"
        "spec: {address: 192.0.2.1}\n---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n"
        "metadata: {name: nothing}\nspec: {}\n---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n"
        "metadata: {name: db} # the vm is open to web, too\nspec:\n  selector: {matchLabels: {app: db}}\n"
        "  rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/web]}}]}]",
    ),
    "MN0301": Page(
        "Agents route connections, not requests: routes of HTTP, settings of layer 7, hosts by pattern and "
        "what only a sidecar has are left out, and the rest of the object is in force. docs/traffic.md lists what is "
        "applied.",
        "Nothing, if it is for a waypoint or for sidecars. Else say it with tcp or tls routes.",
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: web, namespace: shop}\n"
        "spec:\n  hosts: [web]\n  http:\n  - route: [{destination: {host: web}}]",
    ),
    "MN0302": Page(
        "Whoever may write a route anywhere could lead everybody's connections to himself. Routes count only for "
        "Services of the VirtualService's own namespace, DestinationRules in the Service's or in the root namespace.",
        "Move the object to the namespace of the Service.",
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: web, namespace: shop}\n"
        "spec:\n  hosts: [db.office.svc.cluster.local]\n  tcp:\n  - route: [{destination: {host: web}}]",
    ),
    "MN0303": Page(
        "The name exists, and agents know no Service by it (an ExternalName, a ServiceEntry's pattern) or no "
        "DestinationRule that counts for it has the subset. Connections that are routed there are refused. What nobody "
        "has at all is told as IST0101.",
        "Name a Service or a ServiceEntry's host, and a subset of a DestinationRule in its namespace.",
        "tcp:\n- route: [{destination: {host: mirror}}] # a Service of type ExternalName",
    ),
}


def page(code: str) -> str:
    """As Markdown. Raises KeyError for a code that does not exist."""
    lines = [f"## {code}", "", f"{CODES[code][0].upper()}{CODES[code][1:]}.", ""]
    found = PAGES.get(code)
    if found is None:
        return "\n".join(
            [*lines, f"As in Istio: https://istio.io/latest/docs/reference/config/analysis/{code.lower()}/", ""]
        )
    if found.example:
        lines += ["```yaml", found.example, "```", ""]
    return "\n".join([*lines, found.why, "", f"**What to do** {found.mend}", ""])
