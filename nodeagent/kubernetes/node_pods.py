# SPDX-License-Identifier: Apache-2.0
"""This node's pods as the API has them: which are to be captured, why not the others, what is written on whom. Pure.

    opted in, running       a candidate
    opted out, was captured a candidate on its way out: told to the mesh first (the annotation goes), captured until the
                            mesh has heard, so that no peer meets a pod that does not speak HBONE any more
    ended, or without uid   nobody: its address may be another pod's
    of an unknown namespace stays as it is: the two kinds are followed apart, so one may be known later than the other
    captured, opted in      annotated `enabled`; not before, since peers tunnel to it from then on
    annotated, not opted in the annotation is removed

A pod is its uid. A namesake has another one: what is said of the former pod is not heard any more, and what was meant
for it is not written on the latter (the API refuses a patch whose uid is not the object's).
"""

import json
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field

import msgspec

from nodeagent.kubernetes.objects import KubeObject
from nodeagent.kubernetes.reflector import Change, Changed, Removed, Replaced
from nodeagent.model.address import Ip
from nodeagent.model.opt_in import ENABLED, REDIRECTION, Standing, is_redirected, standing
from nodeagent.model.pod import CaptureReason

Name = tuple[str, str]
"""Namespace and name of a pod."""


@dataclass(frozen=True)
class Candidate:
    """A pod to be captured, if its network namespace is found."""

    uid: str
    status: bytes = field(repr=False)
    """Of the API, other bytes whenever the kubelet has reported anything; an annotation does not change them."""
    namespace: str
    name: str
    addresses: tuple[Ip, ...]
    is_opted_in: bool
    is_announced: bool
    """It is annotated as captured."""
    is_terminating: bool


@dataclass(frozen=True)
class Patch:
    """A change of one annotation of one pod."""

    namespace: str
    name: str
    uid: str
    value: str | None
    """None: the annotation is removed."""

    @property
    def target(self) -> str:
        """The status subresource: who may patch it alone cannot change what a pod runs."""
        return f"/api/v1/namespaces/{self.namespace}/pods/{self.name}/status"

    @property
    def body(self) -> bytes:
        """A JSON merge patch (RFC 7386). Its uid makes the API refuse it for a namesake."""
        return json.dumps({"metadata": {"uid": self.uid, "annotations": {REDIRECTION: self.value}}}).encode("ascii")


class NodePods:
    """Fed with changes of two kinds of objects; nothing is decided before both have been listed."""

    def __init__(self, node: str, excluded: Container[str]) -> None:
        """`excluded`: names of namespaces without captured pods."""
        self._node, self._excluded = node, excluded
        self._pods: dict[Name, KubeObject] | None = None
        self._namespaces: dict[str, Mapping[str, str]] | None = None
        """Labels by name."""
        self._held: dict[str, tuple[Ip, ...]] = {}
        """Addresses of pods that were captured before they started, by uid: the kubelet has not reported them yet."""

    @property
    def is_known(self) -> bool:
        return self._pods is not None and self._namespaces is not None

    def pods_changed(self, change: Change) -> None:
        match change:
            case Replaced(objects):
                self._pods = {one.key: _kept(one) for one in objects if self._is_here(one)}
                living = {one.metadata.uid for one in self._pods.values()}
                self._held = {uid: addresses for uid, addresses in self._held.items() if uid in living}
            case Changed(one) if self._pods is not None:
                if self._is_here(one):
                    self._pods[one.key] = _kept(one)
            case Removed(one) if self._pods is not None:
                known = self._pods.get(one.key)
                if known is not None and known.metadata.uid == one.metadata.uid:
                    del self._pods[one.key]
                    self.release(one.metadata.uid)

    def namespaces_changed(self, change: Change) -> None:
        match change:
            case Replaced(objects):
                self._namespaces = {one.metadata.name: one.labels for one in objects}
            case Changed(one) if self._namespaces is not None:
                self._namespaces[one.metadata.name] = one.labels
            case Removed(one) if self._namespaces is not None:
                self._namespaces.pop(one.metadata.name, None)

    def find(self, namespace: str, name: str, uid: str) -> tuple[str, Standing] | None:
        """Uid and standing of a pod, by its uid where that is told; None: it is not known, or not yet.

        Nor is one whose namespace decides and is not known.

        Of a static pod the kubelet, and so the runtime, has another uid than the API: that of its manifest.
        """
        for pod, found in self._judged() if self.is_known else ():
            if pod.key == (namespace, name) and uid in {"", pod.metadata.uid, pod.annotations.get(_MIRROR)}:
                return None if found is Standing.NAMESPACE_UNKNOWN else (pod.metadata.uid, found)
        return None

    def hold(self, uid: str, addresses: tuple[Ip, ...]) -> None:
        """Its addresses, whatever the kubelet reports: they were read where it starts."""
        self._held[uid] = addresses

    def release(self, uid: str) -> None:
        """What was read is not so any more."""
        self._held.pop(uid, None)

    def is_held(self, uid: str) -> bool:
        return uid in self._held

    def candidates(self, captured: Container[str]) -> tuple[Candidate, ...]:
        """`captured`: uids of the pods whose traffic is captured at this moment."""
        return tuple(
            Candidate(
                uid=pod.metadata.uid,
                status=bytes(pod.status),
                namespace=pod.metadata.namespace,
                name=pod.metadata.name,
                addresses=self._addresses(pod),
                is_opted_in=found in _STAYING,
                is_announced=is_redirected(pod.annotations),
                is_terminating=pod.is_terminating,
            )
            for pod, found in self._judged()
            if self._is_candidate(pod, found, captured)
        )

    def bystanders(self, captured: Container[str]) -> dict[str, tuple[Ip, ...]]:
        """Addresses of those that live in namespaces of their own and are no candidates, by uid."""
        return {
            pod.metadata.uid: pod.addresses
            for pod, found in self._judged()
            if not (pod.is_terminal or pod.is_host_network or self._is_candidate(pod, found, captured))
        }

    def left_out(self, captured: Container[str]) -> dict[Name, str]:
        """Everybody else, with the reason."""
        return {
            pod.key: _reason(pod, found)
            for pod, found in self._judged()
            if not self._is_candidate(pod, found, captured)
        }

    def patches(self, captured: Container[str]) -> tuple[Patch, ...]:
        """What is not written yet as it should be.

        A pod that is opted in and not captured keeps what it has: an agent that has just begun does not know yet, and
        peers that tunnel to one whose programs are missing fail, which is better than plain text.
        """
        found = []
        for pod, how in self._judged():
            uid = pod.metadata.uid
            if how is Standing.OPTED_IN:
                if uid in captured and not is_redirected(pod.annotations) and not pod.is_terminal:
                    found.append(Patch(*pod.key, uid, ENABLED))
            elif REDIRECTION in pod.annotations and how in _OURS:
                found.append(Patch(*pod.key, uid, None))
        return tuple(found)

    def _is_here(self, pod: KubeObject) -> bool:
        """The API was asked for this node's pods only; one without uid cannot be told from its namesakes."""
        return pod.node == self._node and bool(pod.metadata.uid)

    def _addresses(self, pod: KubeObject) -> tuple[Ip, ...]:
        return self._held.get(pod.metadata.uid) or pod.addresses

    def _is_candidate(self, pod: KubeObject, found: Standing, captured: Container[str]) -> bool:
        if pod.is_terminal or not self._addresses(pod):
            return False
        was_captured = is_redirected(pod.annotations) or pod.metadata.uid in captured
        return found is Standing.OPTED_IN or (found in _OURS | _STAYING and was_captured)

    def _judged(self) -> Iterator[tuple[KubeObject, Standing]]:
        for pod in (self._pods or {}).values():
            namespace = pod.metadata.namespace
            yield (
                pod,
                standing(
                    namespace,
                    pod.labels,
                    pod.annotations,
                    (self._namespaces or {}).get(namespace),
                    is_host_network=pod.is_host_network,
                    excluded=self._excluded,
                ),
            )


_MIRROR = "kubernetes.io/config.mirror"
_OURS = frozenset({Standing.EXCLUDED_NS, Standing.SIDECAR, Standing.OPTED_OUT, Standing.NOT_LABELLED})
"""Who may have been captured by this agent or a predecessor. A pod of the host network never was."""
_STAYING = frozenset({Standing.OPTED_IN, Standing.NAMESPACE_UNKNOWN})
"""Who is captured and goes on to be."""


def _kept(pod: KubeObject) -> KubeObject:
    """By itself: `status` is a view of the whole answer that it came in."""
    return msgspec.structs.replace(pod, status=pod.status.copy())


def _reason(pod: KubeObject, found: Standing) -> str:
    if found is not Standing.OPTED_IN:
        return found
    return CaptureReason.ENDED if pod.is_terminal else CaptureReason.NO_ADDRESS
