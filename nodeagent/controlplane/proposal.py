# SPDX-License-Identifier: Apache-2.0
"""Policies that are not applied, laid over the mesh as an agent knows it: what would be, if they were.

- Policies (AuthorizationPolicy, PeerAuthentication, ConnectionLimit, dry runs) are those of the directory alone: it
  stands for all that would be in force.
- Everything else is as it is in the mesh. Pods and Services of the directory that the mesh does not have are added; of
  a pod that both have, the directory's labels say which policies are about it.
- Nobody knows the labels of a pod that is not in the directory. A policy with a selector is about such a pod if it is
  about it in the mesh, and that is said.

Pure, but for `read`.
"""

from collections.abc import Iterator
from pathlib import Path

import msgspec

from nodeagent.controlplane.authorization import written_rules
from nodeagent.controlplane.catalog import Catalog, admit
from nodeagent.controlplane.files import read_directory
from nodeagent.controlplane.finding import Finding, Severity
from nodeagent.controlplane.objects import AuthorizationPolicy, Key, MeshObject, MtlsMode, PeerAuthentication
from nodeagent.controlplane.peer_authentication import GENERATED, STATIC_STRICT, PeerAuthentications
from nodeagent.controlplane.review import line_of
from nodeagent.controlplane.translate import select, translate
from nodeagent.model.mesh import Changes, Mesh
from nodeagent.model.policy import PolicyScope
from nodeagent.model.security import DryRun, PolicyOrigin
from nodeagent.model.traffic import Extension, WorkloadLabels, WorkloadLimits
from nodeagent.model.workload import Workload

_OF_POLICIES = (DryRun, WorkloadLimits, PolicyOrigin)


class Proposal:
    def __init__(self, directory: Path, catalog: Catalog) -> None:
        self._directory, self._catalog = directory, catalog
        self._translation = translate(catalog.values)
        self._peers = PeerAuthentications.sort(
            select(catalog.values, PeerAuthentication), self._translation.mesh.root_namespace
        )

    @classmethod
    def read(cls, directory: Path) -> "Proposal":
        """Raises ConfigError when it cannot be listed, and is content with what in it is valid: see `refused`."""
        return cls(directory, admit(Catalog(), read_directory(directory, {}, None)))

    @property
    def refused(self) -> tuple[Finding, ...]:
        """What would not be in force."""
        return tuple(finding for finding in self._catalog.findings if finding.severity is Severity.ERROR)

    def laid_over(self, mesh: Mesh) -> Mesh:
        told = self._translation
        proposed = Mesh()
        proposed.apply(
            Changes(
                policies=tuple(told.policies.values()),
                extensions=tuple(self._extensions(mesh)),
                services=tuple({**told.services, **mesh.services}.values()),
                workloads=(
                    *(
                        msgspec.structs.replace(workload, policies=self._listed_by(workload))
                        for workload in mesh.workloads.values()
                    ),
                    *(workload for uid, workload in told.workloads.items() if uid not in mesh.workloads),
                ),
            )
        )
        return proposed

    def _extensions(self, mesh: Mesh) -> Iterator[Extension]:
        for extension in mesh.extensions.values():
            if not isinstance(extension, _OF_POLICIES):
                yield extension
        for extension in self._translation.extensions.values():
            if isinstance(extension, WorkloadLabels):  # routes of the mesh may ask for others
                labels = mesh.labels(extension.uid) | extension.labels
                yield msgspec.structs.replace(extension, labels=labels)
            elif isinstance(extension, _OF_POLICIES):
                yield extension

    def _listed_by(self, workload: Workload) -> tuple[str, ...]:
        """Without its labels: what it lists in the mesh, and what needs no label."""
        if workload.uid in self._translation.workloads:
            return self._translation.workloads[workload.uid].policies
        policies = self._translation.policies
        still = (key for key in workload.policies if key in policies and not _is_generated(key))
        return (*still, *self._peers.listed_by(workload.namespace, {}))

    def doubts(self, workload: Workload) -> Iterator[str]:
        """Why policies about this workload may be others than they are taken for."""
        if workload.uid in self._translation.workloads:
            return
        reach = {workload.namespace, self._translation.mesh.root_namespace}
        listed = self._listed_by(workload)
        for key, policy in sorted(self._translation.policies.items()):
            is_selecting = policy.scope is PolicyScope.WORKLOAD_SELECTOR and policy.name != STATIC_STRICT
            if is_selecting and policy.namespace in reach:
                yield (
                    f"{self._directory} has no pod {workload.namespace}/{workload.name}, so its labels are not known: "
                    f"{key}, which has a selector, is taken as {'about it' if key in listed else 'not about it'}"
                )

    def place(self, policy: str, rule: int = 0) -> str:
        """`file:line` of the object, or objects, that a policy (`ns/name`) comes from; empty for one of elsewhere.

        With `rule`, its number among those that agents are told (from 1), the line of that one.
        """
        namespace, _, name = policy.partition("/")
        if name == STATIC_STRICT:
            strict = (peer for peer in select(self._catalog.values, PeerAuthentication) if _is_strict(peer))
            return ", ".join(_place(peer) for peer in strict)
        kind = "PeerAuthentication" if _is_generated(policy) else "AuthorizationPolicy"
        found = self._catalog.objects.get(Key(kind, namespace, name.removeprefix(GENERATED)))
        if found is None:
            return ""
        if rule and isinstance(found.value, AuthorizationPolicy):
            index = written_rules(found.value, self._translation.mesh)[rule - 1]
            return f"{found.value.meta.origin.file}:{line_of(found, f'spec.rules[{index}]')}"
        return _place(found.value)


def _place(value: MeshObject) -> str:
    return f"{value.meta.origin.file}:{value.meta.origin.line}"


def _is_generated(policy: str) -> bool:
    name = policy.partition("/")[2]
    return name == STATIC_STRICT or name.startswith(GENERATED)


def _is_strict(peer: PeerAuthentication) -> bool:
    return MtlsMode.STRICT in {peer.mode, *peer.port_modes.values()}
