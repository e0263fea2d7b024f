# SPDX-License-Identifier: Apache-2.0
"""Which pods of this node are enrolled: those that xDS places here, that are in the mesh, whose namespace we can enter.

The list of network namespaces comes from the file of `--pods-file`, and then a pod is in the mesh when xDS says HBONE;
or from Kubernetes, and then it is when it has opted in: istiod says HBONE only after the pod was annotated as captured.
Pure but for `read_pods`, which parses the file.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import msgspec
import yaml

from nodeagent.errors import ConfigError
from nodeagent.model.address import Ip
from nodeagent.model.identity import Identity
from nodeagent.model.mesh import Mesh
from nodeagent.model.pod import CaptureReason, LocalPod
from nodeagent.model.workload import TunnelProtocol, Workload


@dataclasses.dataclass(frozen=True)
class EnrolledPod:
    pod: LocalPod
    workload: Workload


@dataclasses.dataclass(frozen=True)
class NotEnrolled:
    namespace: str
    name: str
    reason: str
    """A CaptureReason."""


@dataclasses.dataclass(frozen=True)
class Claim:
    """What Kubernetes says of a local pod."""

    addresses: frozenset[Ip]
    is_wanted: bool
    """Whatever the mesh says; else only as long as the mesh says that it speaks HBONE."""
    is_held: bool = False
    """Captured since before it started, so these are its addresses whatever the mesh has heard of it."""


@dataclasses.dataclass(frozen=True)
class LocalPods:
    pods: tuple[LocalPod, ...] = ()
    claims: Mapping[LocalPod, Claim] = dataclasses.field(default_factory=dict)
    """Of pods that Kubernetes has named."""
    left_out: Mapping[tuple[str, str], str] = dataclasses.field(default_factory=dict)
    """Namespace and name of other pods of this node, with the reason."""


@dataclasses.dataclass(frozen=True)
class Enrolment:
    enrolled: tuple[EnrolledPod, ...] = ()
    others: tuple[NotEnrolled, ...] = ()
    held: Mapping[LocalPod, tuple[Ip, ...]] = dataclasses.field(default_factory=dict)
    """Of `others` those that the kernel captures all the same, by these addresses: what they send waits."""

    @property
    def captured(self) -> dict[LocalPod, tuple[Ip, ...]]:
        """What the kernel is told of."""
        return {**self.held, **{one.pod: one.workload.addresses for one in self.enrolled}}

    @property
    def addresses(self) -> frozenset[Ip]:
        return frozenset(ip for pod in self.enrolled for ip in pod.workload.addresses)

    @property
    def identities(self) -> frozenset[Identity]:
        return frozenset(pod.workload.identity for pod in self.enrolled)


def decide_enrolment(mesh: Mesh, node: str, local: LocalPods) -> Enrolment:
    """Pure. Every local pod and every HBONE workload of this node appears once, enrolled or with the reason why not."""
    here = {(workload.namespace, workload.name): workload for workload in mesh.workloads_on(node)}
    enrolled: list[EnrolledPod] = []
    others: list[NotEnrolled] = []
    held: dict[LocalPod, tuple[Ip, ...]] = {}
    for pod in sorted(set(local.pods)):
        workload = here.pop((pod.namespace, pod.name), None)
        obstacle = _obstacle(workload, local.claims.get(pod))
        if workload is not None and not obstacle:
            enrolled.append(EnrolledPod(pod, workload))
        else:
            others.append(NotEnrolled(pod.namespace, pod.name, obstacle))
            claim = local.claims.get(pod)
            if claim is not None and claim.is_held and obstacle in _NOT_HEARD_OF:
                held[pod] = tuple(sorted(claim.addresses))
    for (namespace, name), reason in sorted(local.left_out.items()):
        here.pop((namespace, name), None)
        others.append(NotEnrolled(namespace, name, reason))
    others += [
        NotEnrolled(workload.namespace, workload.name, CaptureReason.NO_NETNS)
        for workload in here.values()
        if not _obstacle(workload)
    ]
    return Enrolment(tuple(enrolled), tuple(others), held)


_NOT_HEARD_OF = frozenset({CaptureReason.UNKNOWN_WORKLOAD, CaptureReason.NO_ADDRESS, CaptureReason.ADDRESS_DIFFERS})
"""What the control plane says of a pod before it knows that it has started."""


def _obstacle(workload: Workload | None, claim: Claim | None = None) -> str:
    if workload is None:
        return CaptureReason.UNKNOWN_WORKLOAD
    if workload.is_host_network:
        return CaptureReason.HOST_NETWORK
    if workload.protocol is not TunnelProtocol.HBONE and not (claim is not None and claim.is_wanted):
        return CaptureReason.NOT_IN_MESH
    if not workload.addresses:
        return CaptureReason.NO_ADDRESS
    # xDS knows a pod by name, so what it says may still be about a former one, whose address is another pod's by now.
    is_former = claim is not None and not claim.addresses.issuperset(workload.addresses)
    return CaptureReason.ADDRESS_DIFFERS if is_former else ""


def read_pods(path: str) -> tuple[LocalPod, ...]:
    """The file of `--pods-file`: a YAML list of `{namespace, name, netns}`; no pods without a file.

    Raises ConfigError naming the file and, for a bad entry, its place; the caller keeps the list it had. An empty file
    is refused too: it is how a file looks that is being written, and believing it would let go every pod.
    """
    if not path:
        return ()
    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        pods = tuple(msgspec.convert(found, list[LocalPod], strict=True))
    except OSError as error:
        words = f"--pods-file: {path}: {error.strerror}"
        raise ConfigError(words, check="Is the path right and the file readable?") from error
    except (yaml.YAMLError, msgspec.ValidationError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"--pods-file: {path}: {' '.join(str(error).split())}",
            check="Expected: a YAML list of entries with namespace, name and netns; `[]` for none.",
        ) from error
    twice = [names for names, times in Counter((pod.namespace, pod.name) for pod in set(pods)).items() if times > 1]
    if twice:
        raise ConfigError(
            f"--pods-file: {path}: {'/'.join(twice[0])} is listed with two network namespaces",
            check="A pod has one; the entry of its former sandbox must go.",
        )
    return pods
