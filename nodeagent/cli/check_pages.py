# SPDX-License-Identifier: Apache-2.0
"""What each check means to an operator: why it is looked at, and what to do. docs/checks.md is printed from here."""

from collections.abc import Iterator
from typing import NamedTuple

from nodeagent.model.check import PAGE, Check, check_id, component_id


class Words(NamedTuple):
    title: str
    """What is so when it is ok."""
    why: str
    mend: str


class CheckPage(NamedTuple):
    name: str
    """As people read it in the list."""
    title: str
    why: str
    mend: str


MACHINE: dict[Check, Words] = {
    Check.KERNEL: Words(
        "the kernel is Linux 5.10 or newer",
        "Packets go from a pod's device straight into another pod by bpf_redirect_peer, which 5.10 brought. What a "
        "kernel can do beyond that is tried by checks of its own, not concluded from its version.",
        "Boot a newer kernel on this node, or keep the agent off it by a nodeSelector.",
    ),
    Check.CAPABILITIES: Words(
        "this process has the capabilities of an agent",
        "BPF loads programs and makes maps, NET_ADMIN attaches them and makes devices, SYS_ADMIN enters the network "
        "namespaces of pods and of the proxy.",
        "Run it as root, or with these three: daemonset/base lists them with their reasons. In a container without a "
        "privilege the checks that follow fail for the same cause.",
    ),
    Check.WORKERS_CAPABILITIES: Words(
        "this process can start workers that have no capability",
        "A worker runs as a user of its own. Becoming that user, ending its processes, giving it its socket and "
        "opening port 15008 and the others for it takes these five.",
        "Run it as root, or with these five: daemonset/base lists them with their reasons.",
    ),
    Check.BPFFS: Words(
        "a bpffs is mounted, and may be written to",
        "Programs and maps are pinned there, so that they outlive an agent: without it a restart would cut "
        "connections.",
        "`mount -t bpf bpf /sys/fs/bpf`, or name another with --bpffs. In a container the host's has to be mounted "
        "with HostToContainer propagation; `nodeagent prepare-node` mounts it before.",
    ),
    Check.CLSACT: Words(
        "a clsact qdisc can be made",
        "Programs at a pod's device sit on it where the kernel has no TCX. One was made in a network namespace that "
        "has ended since.",
        "The kernel needs CONFIG_NET_SCH_INGRESS and CONFIG_NET_CLS_BPF: `modprobe sch_ingress cls_bpf` where they are "
        "modules.",
    ),
    Check.SOCKET_ASSIGNMENT: Words(
        "the kernel accepts a program as ours are",
        "A program with the helpers that steering is made of was loaded and dropped. It fails without bpf(2): by "
        "seccomp, by a kernel that is locked down for confidentiality, or for want of CONFIG_BPF_SYSCALL.",
        "`cat /sys/kernel/security/lockdown` and the container's seccomp profile say who forbids it; RuntimeDefault "
        "of containerd 1.6 and newer allows it to who has CAP_BPF.",
    ),
    Check.BCC: Words(
        "bcc can be imported",
        "The programs are compiled on the node, once for each version, by bcc and the LLVM that it is linked to.",
        "Install Debian's or Ubuntu's python3-bpfcc. A virtual environment has to see it: `--system-site-packages`.",
    ),
    Check.PODS_CGROUP: Words(
        "the cgroup of the node's pods is found",
        "Connections between two pods of a node that the kernel carries alone are seen from there: for records, "
        "metrics and flows. Without it they work, and nobody hears of them.",
        "Name it with --cgroup: the directory of cgroup2 below which all pods are, such as "
        "/sys/fs/cgroup/kubepods.slice. Where cgroup v1 is mounted, too, cgroup2 is often at /sys/fs/cgroup/unified.",
    ),
    Check.MEMORY_LOCK: Words(
        "maps and programs may be as large as they are",
        "Before Linux 5.11 their memory is counted as locked, and ours take some tens of megabytes. An agent raises "
        "the limit as far as it may.",
        "LimitMEMLOCK=infinity in its systemd unit, the capability SYS_RESOURCE, or Linux 5.11.",
    ),
    Check.UNPRIVILEGED: Words(
        "only who is privileged may load BPF programs",
        "Ours need no other setting, and what they have pinned nobody else can open. Where everybody may load "
        "programs, any process of this node can use the verifier's and the CPU's weaknesses against keys in memory.",
        "`sysctl kernel.unprivileged_bpf_disabled=2`; 1 is the same, and stays so until the next boot.",
    ),
    Check.NETNS_FOLDER: Words(
        "the folder with the pods' network namespaces is seen, and stays so",
        "With --kubernetes an agent finds a pod by it. The runtime mounts a file there for each pod; where only the "
        "folder is mounted into the agent's container, without propagation, pods that start later are empty files, and "
        "such pods stay NO_NETNS. Of a folder that is part of a larger mount propagation is not told.",
        "Mount the node's folder with mountPropagation: HostToContainer, as daemonset/base does. Name another with "
        "--netns-dir: of dockerd it is /var/run/docker/netns.",
    ),
    Check.PORTS: Words(
        "nobody else has the agent's ports",
        "Statistics, readiness and ztunnel's admin interface are at ports of the node, since the agent has the "
        "node's network. An agent of ours that runs here is no stranger.",
        "End who listens there, or give the agent another address (--stats-address, --ready-address, "
        "--admin-address), or '' for none.",
    ),
    Check.OTHER_MESHES: Words(
        "nobody else captures pods on this node",
        "Two that steer the same connections send them in a circle, or to a proxy that does not expect them. Known "
        "are ztunnel, istio-cni, Kmesh, Linkerd's and Kuma's plugins.",
        "Leave this node, or its pods, to one of them: a nodeSelector for either, or labels of namespaces.",
    ),
    Check.CNI: Words(
        "the CNI works beside us as it is set up",
        "The first configuration of /etc/cni/net.d is read. Cilium with eBPF host routing sends packets into pods "
        "past our programs, and with cni.exclusive it removes plugins that are chained behind it.",
        "Cilium: bpf.hostLegacyRouting on, cni.exclusive off. `nodeagent pods` says EGRESS_SKIPPED of a pod that is "
        "reached past us.",
    ),
    Check.TCX: Words(
        "programs are attached by TCX links",
        "Where the kernel has TCX (Linux 6.6), ours go to the head of the list and stay there. Elsewhere clsact does "
        "all that we need, but who uses TCX runs before us.",
        "Nothing, unless the check `programs` names somebody.",
    ),
    Check.RING_BUFFER: Words(
        "a ring buffer can be made",
        "Connections that the kernel carries alone report their beginning and end through one.",
        "The kernel needs Linux 5.8.",
    ),
    Check.MAP_BATCHES: Words(
        "maps are written and read many rows at a time",
        "A table of verdicts for 250 pods is written in some calls instead of thousands.",
        "The kernel needs Linux 5.6.",
    ),
    Check.SOCK_DESTROY: Words(
        "an open connection can be ended from outside",
        "When a policy changes, connections between two pods of this node that it forbids are ended, also those on "
        "which nobody sends. Without it they end with the next packet.",
        "CONFIG_INET_DIAG_DESTROY, and `modprobe tcp_diag` where that is a module.",
    ),
    Check.NETNS_COOKIE: Words(
        "a socket tells its network namespace",
        "--service-connect draws the endpoints of Services in connect(2), and only for pods of the mesh, which are "
        "known by this cookie. Without it the proxy draws.",
        "Linux 5.14; or nothing.",
    ),
    Check.REPORT_COOKIE: Words(
        "a program at a socket tells its network namespace",
        "With it a report of a connection in the kernel is believed only of the pod whose namespace it names; without "
        "it by the addresses alone, which another network of this node could have, too.",
        "Linux 5.15; or nothing, where pods have addresses of one network.",
    ),
    Check.CONNECT: Words(
        "programs at connect(2) and getpeername(2) are accepted",
        "--service-connect needs them. Without it the proxy draws the endpoints of Services.",
        "Linux 5.8 and CONFIG_CGROUP_BPF; or nothing.",
    ),
    Check.RUN_STATISTICS: Words(
        "the kernel can time programs",
        "`nodeagent bpf progs --measure` counts runs and their time by it.",
        "Linux 5.8; or nothing.",
    ),
    Check.KERNEL_TLS: Words(
        "the kernel can make TLS records",
        "Only asked for by `kernel_tls: auto`; by default the workers make them. It is tried where the module is there "
        "already, since a trial would load it.",
        "Nothing by default. Else CONFIG_TLS and `modprobe tls`.",
    ),
    Check.TOKEN: Words(
        "the token for the control plane is for it, and has not ended",
        "It is read as a JWT, not verified: whether it is trusted only the control plane says. An expired one is "
        "refused by everybody; for another audience than istio-ca an istiod refuses it, unless it is told otherwise. "
        "One that was made later than now shows that this node's clock is behind. A file that is not there is no "
        "finding, unless --token names it or --kubernetes is on.",
        "daemonset/base projects one for istio-ca, which the kubelet renews: `kubectl describe pod` says if it cannot. "
        "On hosts without Kubernetes make another with `nodeagent token`. See to the clock.",
    ),
    Check.PROGRAMS: Words(
        "no program of somebody else runs before ours",
        "What such a program accepts or redirects, ours never see: a pod could be reached, or send, past the mesh. "
        "`nodeagent bpf attach` has the order at each device.",
        "Attach it behind ours, or leave its pods out of the mesh.",
    ),
    Check.NETKIT: Words(
        "no pod is behind a netkit device",
        "Programs at netkit devices have other hooks, which are not used. Such pods are not captured.",
        "Have the CNI make veth pairs (of Cilium: bpf.datapathMode=veth).",
    ),
    Check.MARKS: Words(
        "nobody else uses our bits of the packets' mark",
        "By it our programs know what they have seen already, and the node's stack what is the proxy's. A routing rule "
        "or a component that looks at the same bits takes these packets for its own.",
        "Choose other bits: --mark and --mark-mask of the agent, and of this command.",
    ),
    Check.FORWARDING: Words(
        "this node forwards what its pods send to others",
        "What goes to another node, tunnelled in a pod's name or not, passes through this node's stack. The "
        "reverse-path filter is not looked at: steering works with each of its values.",
        "`sysctl net.ipv4.ip_forward=1`, and find out who has turned it off: CNI and kubelet turn it on.",
    ),
    Check.PINS: Words(
        "only what this version has pinned is there",
        "Layouts of other versions are left over by an upgrade that did not end, or belong to an agent of another "
        "version that runs here.",
        "The agent removes them after its switch; without one `nodeagent cleanup` does.",
    ),
    Check.CROSSING: Words(
        "the way into the proxy's namespace is there",
        "Steered packets go by the device na0. While it is missing or down they are dropped, never passed on in plain "
        "text.",
        "A running agent makes it again within seconds; its log says why if it does not.",
    ),
    Check.GUARDS: Words(
        "no connection has come to a pod past our programs",
        "A pod has answered connections that we have not let in, some time since the programs are there: something "
        "delivers packets past its device.",
        "Turn off eBPF host routing in the CNI. `nodeagent pods` says EGRESS_SKIPPED while it goes on.",
    ),
    Check.CONFLICTS: Words(
        "this node's devices, rules and pins can be looked at",
        "What could not be read says nothing about who else is here.",
        "Run it as root, in the node's network namespace.",
    ),
    Check.ROOTS: Words(
        "no root that peers are checked by ends within 60 days",
        "When a root ends, every tunnel of the mesh fails at once. It is exchanged while both are trusted, which takes "
        "as long as the longest certificate that the former has signed. Asked with --proxy.",
        "At a control plane of ours `nodeagent ca add-root`, `use-root`, `drop-root`; docs/control-plane.md has the "
        "steps. Of an istiod its own documents do. `nodeagent certs` lists leaves and roots with their ends.",
    ),
    Check.CLOCK: Words(
        "no certificate of this node begins later than now",
        "A CA backdates what it signs, by seconds to minutes: one that begins later all the same was made by a clock "
        "that is ahead of this node's. It is refused, and peers whose clocks are right may refuse ours. A clock that "
        "is ahead of the CA's cannot be told so. Asked with --proxy.",
        "Have this node and the CA's follow a time server: `timedatectl`, `chronyc tracking`. Then "
        "`nodeagent certs --renew`.",
    ),
}
AGENT: dict[str, Words] = {
    "kernel": Words(
        "programs and maps are as wanted",
        "The agent compares what is in the kernel with what it wants, at each change and every 30 s. While they "
        "differ a new pod is not captured yet; when they cannot be made the same it says why. A table that is full "
        "fails closed.",
        "`nodeagent check --pre`, then the agent's log. `nodeagent bpf verify` has each difference.",
    ),
    "same-node": Words(
        "who may connect to whom on this node is in the kernel",
        "The generation and size of the table of verdicts, or that every connection is tunnelled (--same-node).",
        "Nothing: what is not in the table the proxy decides.",
    ),
    "INTO_PROXY_LOST": Words(
        "what is steered to the proxy comes to it",
        "Our program at the pods has sent packets on, and the one before the proxy has seen none of them.",
        "`nodeagent bpf attach` shows other programs at na0 and at eth0 of the proxy's namespace; `ip link` whether "
        "na0 is up.",
    ),
    "INTO_NODE_LOST": Words(
        "the proxy's packets come through the pods' devices",
        "They enter the node's stack there, as if the pod had sent them. Another program takes them before ours.",
        "`nodeagent bpf attach` shows who is at these devices; see the check `programs`.",
    ),
    "LOCAL_LOST": Words(
        "connections between pods of this node arrive",
        "They are allowed and sent on, and the program at the other pod's device has seen none.",
        "A NetworkPolicy, a firewall or another program between the devices takes them: `nft list ruleset`, "
        "`nodeagent bpf attach`.",
    ),
    "flows": Words(
        "connections that the kernel carries alone are seen",
        "For records, metrics and flows. They work all the same. When the kernel's table was full, some left no "
        "record.",
        "--cgroup names the pods' cgroup; see the check `pods' cgroup`.",
    ),
    "services": Words(
        "who draws the endpoints of Services",
        "connect(2), with --service-connect, or the proxy. Rows that do not fit are drawn by the proxy.",
        "It says what is missing; see the checks `connect` and `netns cookie`.",
    ),
    "kernel-tls": Words(
        "who makes the records of tunnels",
        "The workers, by default; the kernel where --kernel-tls asks for it and can have it.",
        "See the check `ktls`, or set --kernel-tls to off.",
    ),
    "compiled": Words(
        "compiled code carries payload",
        "Without it Python does the same, with more CPU for each byte.",
        "Install a C compiler before the package is built, or use the image; `--compiled off` if Python is meant.",
    ),
    "pods-file": Words(
        "the list of pods can be read",
        "A file that cannot be understood changes nothing: the last good list stays in force.",
        "Mend what the message names in the file of --pods-file.",
    ),
    "kubernetes": Words(
        "the API server tells of this node's pods",
        "While it does not answer, what is known stays in force: no pod is captured anew, none is let go.",
        "Does the API server answer from this node, and may the service account get, list and watch pods and "
        "namespaces? See daemonset/base/rbac.yaml.",
    ),
    "xds": Words(
        "the control plane tells of the mesh",
        "While it does not, the last good state stays in force; before there is any, the agent is not ready.",
        "Address, token (audience istio-ca) and root certificate are --xds-address, --token and "
        "--root-certificate of the agent. `nodeagent proxies`, at a control plane of ours, lists who is connected.",
    ),
    "ca": Words(
        "the CA signs for this node's pods",
        "What is in use stays until it ends. An istiod signs for the pods of a node only if the agent's account is one "
        "of its CA_TRUSTED_NODE_ACCOUNTS.",
        "`nodeagent certs` has the last error of each identity; `nodeagent certs --renew` tries again now.",
    ),
    "revocations": Words(
        "the list of revoked certificates can be used",
        "A list that cannot be read, or that nobody known has signed, changes nothing: what was revoked before stays "
        "so.",
        "Mend the file that is named, or have its authority sign a newer list.",
    ),
    "dns": Words(
        "names of the mesh's endpoints have addresses",
        "Endpoints of ServiceEntries that are known by a name alone are resolved by this node's resolver. Without an "
        "answer connections to them are refused (`dns_failed`).",
        "`nodeagent services` has each name with its answer. Does the node's resolver know it?",
    ),
    "state-file": Words(
        "the last good state of the mesh is on disk",
        "By it a restarted agent knows the mesh while the control plane is out. Without it everything works until "
        "then.",
        "Is the run directory's disk full, or read-only?",
    ),
    "redirect": Words(
        "every pod that shall be captured is",
        "A pod that is pending has its reason; its traffic goes on in plain text, or is held by the CNI plugin.",
        "`nodeagent pods` has the reasons; docs/kubernetes.md says what each means.",
    ),
    "proxy": Words(
        "every tunnel worker runs and answers",
        "Without any, steered connections wait and are then refused; with some, the others take the new ones.",
        "`nodeagent status` lists them. The agent starts one that has died again; its log says why it died.",
    ),
    "certificates": Words(
        "every identity of this node has a certificate that is valid",
        "Pods of an identity without one can neither open tunnels nor be reached by them.",
        "`nodeagent certs` has the last error of each. Do the clocks of this node and of the CA agree?",
    ),
    "policy-sync": Words(
        "every policy that workloads here name has arrived",
        "Connections to a workload whose policy is missing wait --policy-wait-seconds and are refused then. Resources "
        "that were refused stay as they were.",
        "The control plane's log and `nodeagent policies` name them.",
    ),
    "drops": Words(
        "how many packets the programs have dropped, by reason",
        "Refusing what must not pass is health: this is never ill.",
        "Nothing. docs/reference.md says what each reason means.",
    ),
}
"""By the component of `nodeagent status`."""
PAGES: dict[str, CheckPage] = {
    **{check_id(check): CheckPage(check, *words) for check, words in MACHINE.items()},
    **{component_id(name): CheckPage(name, *words) for name, words in AGENT.items()},
}
"""By id, in the order of the lists."""


def place(number: str) -> str:
    """Where the page with this id is; empty when there is none, as of an agent of another release."""
    return f"{PAGE}#{number}" if number in PAGES else ""


def page(number: str) -> str:
    """As Markdown. Raises KeyError for an id that does not exist."""
    found = PAGES[number]
    words = f"{found.title[0].upper()}{found.title[1:]}"
    lines = [f"## {number}", "", f"`{found.name}`: {words}.", "", found.why, "", f"**What to do** {found.mend}", ""]
    return "\n".join(lines)


def overview() -> Iterator[tuple[str, str, str]]:
    """Id, name and meaning of each."""
    for number, found in PAGES.items():
        yield number, found.name, found.title
