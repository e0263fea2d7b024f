# SPDX-License-Identifier: Apache-2.0
"""The objects of a mesh as the analyzers look at them: pods by label, namespaces by name, who is captured. Pure.

An analysis runs at every edit, so that selecting pods costs what is selected and not what there is.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property

from nodeagent.controlplane.entry_workloads import entry_uid, is_tunnelled
from nodeagent.controlplane.finding import Finding, Severity
from nodeagent.controlplane.objects import (
    AuthorizationPolicy,
    DestinationRule,
    Key,
    MeshConfig,
    MeshObject,
    Meta,
    Namespace,
    Node,
    PeerAuthentication,
    Pod,
    PodPhase,
    Service,
    ServiceEntry,
    Sidecar,
    VirtualService,
    WorkloadEntry,
)
from nodeagent.controlplane.translate import Translation, mesh_config, select
from nodeagent.controlplane.workloads import labels_of
from nodeagent.model.identity import Identity
from nodeagent.model.policy import Policy
from nodeagent.model.workload import TunnelProtocol, Workload

_ENDED = frozenset({PodPhase.SUCCEEDED, PodPhase.FAILED})


class View:
    """`translation` is what agents are told of the same objects: it says who is captured."""

    def __init__(self, objects: Iterable[MeshObject], translation: Translation) -> None:
        by_kind: dict[type[MeshObject], list[MeshObject]] = defaultdict(list)
        for value in objects:  # once: nearly all of them are pods, which none of the other kinds need go through
            by_kind[type(value)].append(value)
        self.mesh_configs = select(by_kind[MeshConfig], MeshConfig)
        self.mesh: MeshConfig = mesh_config(self.mesh_configs)
        self.pods = [pod for pod in select(by_kind[Pod], Pod) if pod.phase not in _ENDED]
        self.namespaces: Mapping[str, Namespace] = {
            value.meta.name: value for value in select(by_kind[Namespace], Namespace)
        }
        self.services = select(by_kind[Service], Service)
        self.entries = select(by_kind[WorkloadEntry], WorkloadEntry)
        self._service_entries = select(by_kind[ServiceEntry], ServiceEntry)
        self._nodes: Mapping[str, Node] = {value.meta.name: value for value in select(by_kind[Node], Node)}
        self.policies = select(by_kind[AuthorizationPolicy], AuthorizationPolicy)
        self.peers = select(by_kind[PeerAuthentication], PeerAuthentication)
        self.routing = [one for kind in (VirtualService, DestinationRule, Sidecar) for one in by_kind[kind]]
        self.service_keys = translation.services.keys()
        """`namespace/hostname`, those of ServiceEntries too."""
        self.told: Mapping[str, Policy] = translation.policies
        """By `namespace/name`: policies as agents are told them."""
        self._workloads = translation.workloads
        self._reached: dict[tuple[str | None, tuple[tuple[str, str], ...]], list[Pod]] = {}
        self._by_namespace: dict[str, list[Pod]] = defaultdict(list)
        self._by_label: dict[tuple[str, str], list[Pod]] = defaultdict(list)
        for pod in self.pods:
            self._by_namespace[pod.meta.namespace].append(pod)
            for label in pod.meta.labels.items():
                self._by_label[label].append(pod)

    def select(self, namespace: str | None, labels: Mapping[str, str]) -> list[Pod]:
        """Pods with all of these labels, in one namespace or (None) in any."""
        groups = [self._by_label.get(label, []) for label in labels.items()]
        if namespace is not None:
            groups.append(self._by_namespace.get(namespace, []))
        fewest = min(groups, key=len, default=self.pods)
        return [
            pod
            for pod in fewest
            if (namespace is None or pod.meta.namespace == namespace) and labels.items() <= pod.meta.labels.items()
        ]

    def selects_entry(self, namespace: str | None, labels: Mapping[str, str]) -> bool:
        """Whether there is a WorkloadEntry with all of these labels, as `select` looks for pods."""
        return any(
            namespace in {None, entry.meta.namespace} and labels.items() <= entry.labels.items()
            for entry in self.entries
        )

    def scope(self, policy: AuthorizationPolicy) -> str | None:
        """The namespace that a policy is about; None: all."""
        return None if policy.meta.namespace == self.mesh.root_namespace else policy.meta.namespace

    def reached(self, policy: AuthorizationPolicy) -> list[Pod]:
        """The pods that a policy is about."""
        namespace, labels = self.scope(policy), policy.selector or {}
        scope = namespace, tuple(sorted(labels.items()))
        if scope not in self._reached:  # many policies are about the same pods
            self._reached[scope] = self.select(namespace, labels)
        return self._reached[scope]

    def is_captured(self, pod: Pod) -> bool:
        return self._captured(pod) is not None

    def is_outside(self, pod: Pod) -> bool:
        """It is known that it is not captured; of a pod without address nothing is known yet."""
        return pod.is_host_network or (self._workload(pod) is not None and not self.is_captured(pod))

    def _workload(self, pod: Pod) -> Workload | None:
        return self._workloads.get(f"{self.mesh.cluster}//Pod/{pod.meta.namespace}/{pod.meta.name}")

    def _captured(self, pod: Pod) -> Workload | None:
        found = self._workload(pod)
        is_judged = found is not None and found.protocol is TunnelProtocol.HBONE and not found.is_host_network
        return found if is_judged else None

    def unlabelled(self) -> Iterator[tuple[Key, Workload]]:
        """Workloads without any label to select them by, where policies are enforced; with the objects that lack it."""
        for pod in self.pods:
            if (
                not pod.meta.labels
                and not labels_of(pod, self._nodes)
                and (captured := self._captured(pod)) is not None
            ):
                yield pod.meta.key, captured
        for key, address in self._unlabelled_entries():
            workload = self._workloads.get(entry_uid(key, self.mesh.cluster, address))
            if workload is not None:
                yield key, workload

    def _unlabelled_entries(self) -> Iterator[tuple[Key, str]]:
        """Those behind which policies are enforced, ServiceEntries with each of their endpoints' addresses."""
        for entry in self.entries:
            if not entry.labels and is_tunnelled(entry.meta, {}):
                yield entry.meta.key, ""
        for service in self._service_entries:
            # An endpoint's own labels are not those that it is selected by.
            if not service.meta.labels and is_tunnelled(service.meta, {}):
                for address in {spec.address for spec in service.endpoints} or service.hosts:
                    yield service.meta.key, address

    @cached_property
    def outside(self) -> frozenset[Identity]:
        """Identities of pods here of which all are outside of the mesh."""
        inside: dict[tuple[str, str], bool] = {}
        for pod in self.pods:
            account = pod.meta.namespace, pod.service_account
            if not inside.get(account):
                inside[account] = not self.is_outside(pod)
        domain = self.mesh.trust_domain
        return frozenset(Identity(domain, *account) for account, is_inside in inside.items() if not is_inside)


def about(meta: Meta, severity: Severity, code: str, message: str, check: str, field: str = "") -> Finding:
    """A finding about an object; `review.py` finds the line of the field."""
    origin = meta.origin
    return Finding(origin.file, origin.line, severity, code, str(meta.key), message, check, field=field)


def warn(meta: Meta, code: str, message: str, check: str, field: str = "") -> Finding:
    return about(meta, Severity.WARNING, code, message, check, field)
