# SPDX-License-Identifier: Apache-2.0
"""What is read of the API's JSON: of pods and namespaces the few fields that decide, and the envelopes they come in.

Everything else is skipped unread, so a pod's size does not matter. Nulls and absent fields are the same.
"""

from collections.abc import Mapping
from typing import TypeVar

import msgspec

from nodeagent.errors import ControlPlaneError
from nodeagent.model.address import Ip, parse_ip


class BadAnswer(ControlPlaneError):
    check = "Is it a Kubernetes API server that answers there? Something in between may have changed its answer."


class Metadata(msgspec.Struct, frozen=True, rename="camel"):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    deletion_timestamp: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class _PodIp(msgspec.Struct, frozen=True, rename="camel"):
    ip: str = ""


class _Spec(msgspec.Struct, frozen=True, rename="camel"):
    node_name: str | None = None
    host_network: bool | None = None


class _Status(msgspec.Struct, frozen=True, rename="camel"):
    phase: str | None = None
    pod_ip: str | None = msgspec.field(default=None, name="podIP")
    pod_ips: tuple[_PodIp, ...] | None = msgspec.field(default=None, name="podIPs")


_NO_SPEC = _Spec()
_TERMINAL = frozenset({"Succeeded", "Failed"})


class KubeObject(msgspec.Struct, frozen=True, rename="camel"):
    """A Pod or a Namespace (which has no more than its metadata here)."""

    metadata: Metadata
    spec: _Spec | None = None
    status: msgspec.Raw = msgspec.Raw(b"null")
    """As it was sent: what the kubelet reports is the same as long as these bytes are."""

    @property
    def key(self) -> tuple[str, str]:
        """By which the API tells objects of one kind apart at one moment; over time, the uid does."""
        return self.metadata.namespace, self.metadata.name

    @property
    def labels(self) -> Mapping[str, str]:
        return self.metadata.labels or {}

    @property
    def annotations(self) -> Mapping[str, str]:
        return self.metadata.annotations or {}

    @property
    def node(self) -> str:
        return (self.spec or _NO_SPEC).node_name or ""

    @property
    def is_host_network(self) -> bool:
        return bool((self.spec or _NO_SPEC).host_network)

    @property
    def is_terminal(self) -> bool:
        """Its containers have ended for good: its address may be another pod's already."""
        return _status(self.status).phase in _TERMINAL

    @property
    def is_terminating(self) -> bool:
        return self.metadata.deletion_timestamp is not None

    @property
    def addresses(self) -> tuple[Ip, ...]:
        """In the API's order; one that is none is left out, as if the kubelet had not reported it."""
        status = _status(self.status)
        told = [one.ip for one in status.pod_ips or ()] or [status.pod_ip or ""]
        found: dict[Ip, None] = {}
        for text in told:
            try:
                found[parse_ip(text)] = None
            except ValueError:
                continue
        return tuple(found)


class _ListMetadata(msgspec.Struct, frozen=True, rename="camel"):
    resource_version: str = ""
    continue_: str | None = msgspec.field(default=None, name="continue")


class ListPage(msgspec.Struct, frozen=True, rename="camel"):
    metadata: _ListMetadata
    items: tuple[KubeObject, ...] | None = None


class Status(msgspec.Struct, frozen=True, rename="camel"):
    """How the API says no."""

    message: str = ""
    reason: str = ""
    code: int = 0


class _Event(msgspec.Struct, frozen=True, rename="camel"):
    type: str
    object: msgspec.Raw


_NO_STATUS = _Status()
_kubelets = msgspec.json.Decoder(_Status | None)


def _status(raw: msgspec.Raw) -> _Status:
    """One that is not as the API has it says nothing: the pod is not started yet."""
    try:
        return _kubelets.decode(raw) or _NO_STATUS
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _NO_STATUS


_T = TypeVar("_T")
_events = msgspec.json.Decoder(_Event)
_objects = msgspec.json.Decoder(KubeObject)
_pages = msgspec.json.Decoder(ListPage)
_statuses = msgspec.json.Decoder(Status)


def read_page(body: bytes) -> ListPage:
    """Raises BadAnswer."""
    return _decoded(_pages, body, "a list")


def read_object(body: bytes) -> KubeObject:
    """Raises BadAnswer."""
    return _decoded(_objects, body, "an object")


def read_event(line: bytes) -> tuple[str, KubeObject | Status]:
    """Its type (ADDED, MODIFIED, DELETED, BOOKMARK, ERROR) and what it is about. Raises BadAnswer."""
    event = _decoded(_events, line, "a watch event")
    if event.type == "ERROR":
        return event.type, _decoded(_statuses, bytes(event.object), "a Status")
    return event.type, _decoded(_objects, bytes(event.object), "an object")


def read_status(body: bytes) -> Status:
    """Of a refusal; an answer that is no Status, as a proxy's, says nothing."""
    try:
        return _statuses.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Status()


def _decoded(decoder: "msgspec.json.Decoder[_T]", text: bytes, what: str) -> _T:
    try:
        return decoder.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadAnswer(f"the Kubernetes API sent {what} that cannot be read: {error}") from error
