# SPDX-License-Identifier: Apache-2.0
"""Documents -> objects with findings: which kind it is, what it is called, and who reads the rest.

A document whose kind or name cannot be told is a finding of its own; one of a kind that the mesh does not use is
ignored with a warning. `kind: List`, as kubectl writes it, is opened. Pure.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator

import msgspec

from nodeagent.controlplane.documents import Document, Mapping, Sequence, Value
from nodeagent.controlplane.fields import Fields
from nodeagent.controlplane.finding import Finding, Report
from nodeagent.controlplane.objects import GatewayClass, Key, MeshObject, Meta, Namespace, Node, Origin
from nodeagent.controlplane.parse_config_map import is_mesh_config_map, read_config_map
from nodeagent.controlplane.parse_entry import parse_service_entry, parse_workload_entry, parse_workload_group
from nodeagent.controlplane.parse_gateway import parse_gateway
from nodeagent.controlplane.parse_limit import parse_connection_limit
from nodeagent.controlplane.parse_mesh import parse_mesh_config
from nodeagent.controlplane.parse_pod import parse_pod
from nodeagent.controlplane.parse_policy import parse_authorization_policy, parse_peer_authentication
from nodeagent.controlplane.parse_service import parse_endpoint_slice, parse_service
from nodeagent.controlplane.parse_traffic import parse_destination_rule, parse_sidecar, parse_virtual_service
from nodeagent.controlplane.schema import check_fields

_Reader = Callable[[Fields, Meta], MeshObject]


@dataclasses.dataclass(frozen=True, slots=True)
class Parsed:
    """One object of a file. Without `value` it was rejected, or (`is_ignored`) is of a kind that is not used."""

    key: Key | None
    """None when the object could not be named."""
    value: MeshObject | None
    findings: tuple[Finding, ...]
    line: int
    text: str
    """The whole document it stands in, kept so that a restart can return to it."""
    is_ignored: bool = False
    root: Mapping | None = None
    """What is written, for the kinds that are also judged by it (`JUDGED_AS_WRITTEN`)."""


JUDGED_AS_WRITTEN = frozenset({"VirtualService", "DestinationRule", "Sidecar", "ServiceEntry", "Gateway", "Service"})
"""Kinds whose findings need more than the mesh does (`analyze_routing.py`); for these alone, since trees are large."""
JUDGED_BY_STATUS = frozenset({"WorkloadEntry", "AuthorizationPolicy", "HTTPRoute", "GRPCRoute"})
"""Kinds whose conditions are looked at, where they are written: in what was taken from a cluster."""


def _parse_namespace(_fields: Fields, meta: Meta) -> Namespace:
    """With the label that an API server gives every namespace; selectors ask for it."""
    return Namespace(
        meta=msgspec.structs.replace(meta, labels=meta.labels | {"kubernetes.io/metadata.name": meta.name})
    )


_READERS: dict[str, tuple[str, _Reader]] = {
    "Namespace": ("", _parse_namespace),
    "Node": ("", lambda _fields, meta: Node(meta=meta)),
    "Pod": ("", parse_pod),
    "Service": ("", parse_service),
    "EndpointSlice": ("discovery.k8s.io", parse_endpoint_slice),
    "WorkloadEntry": ("networking.istio.io", parse_workload_entry),
    "WorkloadGroup": ("networking.istio.io", parse_workload_group),
    "ServiceEntry": ("networking.istio.io", parse_service_entry),
    "Gateway": ("gateway.networking.k8s.io", parse_gateway),
    "GatewayClass": ("gateway.networking.k8s.io", lambda _fields, meta: GatewayClass(meta=meta)),
    "AuthorizationPolicy": ("security.istio.io", parse_authorization_policy),
    "PeerAuthentication": ("security.istio.io", parse_peer_authentication),
    "VirtualService": ("networking.istio.io", parse_virtual_service),
    "DestinationRule": ("networking.istio.io", parse_destination_rule),
    "ConnectionLimit": ("nodeagent", parse_connection_limit),
    "Sidecar": ("networking.istio.io", parse_sidecar),
}
"""Kind -> API group and reader. A kind of another group (Knative's Service) is another kind."""
_POLICIES = frozenset({"AuthorizationPolicy", "PeerAuthentication"})
_CLUSTER_WIDE = frozenset({"Namespace", "Node", "GatewayClass", "MeshConfig"})
_LABEL = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)
_NAME = re.compile(r"[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?", re.ASCII)
_WRITE = "An object has apiVersion, kind and metadata.name."


def parse_document(document: Document, file: str, *, refuses_unknown: bool = True) -> list[Parsed]:
    """The objects of one document: one, or those of a List.

    `refuses_unknown`: a field that the API does not have rejects the object; else it is a warning, but in policies,
    where it could be a condition that would not be enforced.
    """
    if not isinstance(document.root, Mapping):
        return [_unnamed(document, file, document.line, "an object is expected")]
    kind = Fields(document.root, "", Report(file, "")).text("kind")
    items = document.root.entries.get("items")
    if kind.endswith("List") and isinstance(items, Sequence):
        return list(_each(items, document, file, refuses_unknown=refuses_unknown))
    return [_parse(document.root, document, file, refuses_unknown=refuses_unknown)]


def _each(items: Sequence, document: Document, file: str, *, refuses_unknown: bool) -> Iterator[Parsed]:
    for at, value in enumerate(items.items):
        if isinstance(value, Mapping):
            yield _parse(value, document, file, refuses_unknown=refuses_unknown, within=f"items[{at}]")
        else:
            yield _unnamed(document, file, value.line, "an object is expected")


def _parse(root: Mapping, document: Document, file: str, *, refuses_unknown: bool, within: str = "") -> Parsed:
    """`within` is where the object stands in a list, such as `items[0]`."""
    if is_mesh_config_map(root):
        return _parse_config_map(root, document, file)
    return _parse_object(root, document, file, refuses_unknown=refuses_unknown, within=within)


def _parse_config_map(root: Mapping, document: Document, file: str) -> Parsed:
    """Istio's own place of MeshConfig."""
    key = Key("MeshConfig", "", "default")
    report = Report(file, str(key))
    value = read_config_map(root, report, Origin(file, root.line))
    return Parsed(key, None if report.is_rejected else value, tuple(report.findings), root.line, document.text)


def _parse_object(root: Mapping, document: Document, file: str, *, refuses_unknown: bool, within: str) -> Parsed:
    # Before the object has a name nothing is said: a finding without one would be about the whole file.
    unnamed = Fields(root, "", Report(file, ""))
    version, kind = unnamed.text("apiVersion"), unnamed.text("kind")
    if kind == "MeshConfig":
        reader: _Reader | None = parse_mesh_config
    else:
        group, reader = _READERS.get(kind, ("", None))
        if version.rpartition("/")[0] != group:
            reader = None
    if not kind or not (version or kind == "MeshConfig"):
        return _unnamed(document, file, root.line, "kind or apiVersion is missing", "apiVersion" if kind else "kind")
    key = _name(root, kind)
    if key is None:
        name = "/".join(filter(None, (version, kind)))
        return _unnamed(document, file, root.line, f"{name} has no valid name", "metadata.name")
    report = Report(file, str(key))
    fields = Fields(root, "", report)
    fields.text("apiVersion"), fields.text("kind")
    is_judged = kind in JUDGED_AS_WRITTEN or (kind in JUDGED_BY_STATUS and "status" in root.entries)
    kept = root if is_judged else None
    if reader is None:
        _ignore(report, root.line, version, kind)
        return Parsed(key, None, tuple(report.findings), root.line, document.text, is_ignored=True, root=kept)
    for problem in document.problems:
        path = problem.path.removeprefix(within)
        if path != problem.path or not within:
            words = "Which one counts is a guess that nobody should make."
            report.reject(problem.line, problem.message, words, "MN0003", field=path.removeprefix("."))
    check_fields(root, kind, report, is_refused=refuses_unknown or kind in _POLICIES)
    value = reader(fields, _meta(fields, key, Origin(file, root.line)))
    taken = None if report.is_rejected else value
    return Parsed(key, taken, tuple(report.findings), root.line, document.text, root=kept)


def key_of(root: Mapping) -> Key | None:
    """What an object is called; None when it has no valid name."""
    return _name(root, Fields(root, "", Report("", "")).text("kind"))


def _name(root: Mapping, kind: str) -> Key | None:
    """Findings on the way are dropped: the caller writes one."""
    metadata = _below(root, "metadata")
    if metadata is None:
        return Key(kind, "", "default") if kind == "MeshConfig" else None
    named = Fields(metadata, "metadata", Report("", ""))
    name, namespace = named.text("name"), named.text("namespace")
    if kind in _CLUSTER_WIDE:
        namespace = ""
    elif kind in _READERS or namespace:
        namespace = namespace or "default"
    if kind == "MeshConfig":
        name = name or "default"
    is_valid = _NAME.fullmatch(name) and (not namespace or _LABEL.fullmatch(namespace)) and not named.report.findings
    return Key(kind, namespace, name) if is_valid else None


def _below(mapping: Mapping, name: str) -> Mapping | None:
    value: Value | None = mapping.entries.get(name)
    return value if isinstance(value, Mapping) else None


def _meta(fields: Fields, key: Key, origin: Origin) -> Meta:
    metadata = fields.within("metadata")
    if metadata is None:
        return Meta(key=key, origin=origin)
    return Meta(
        key=key,
        origin=origin,
        labels=metadata.texts("labels"),
        annotations=metadata.free_texts("annotations"),
        created=metadata.text("creationTimestamp"),
    )


def _ignore(report: Report, line: int, version: str, kind: str) -> None:
    if kind == "ServiceAccount":
        report.inform(line, "not needed here: a pod's serviceAccountName is enough", "Nothing to do.", "MN0006")
        return
    report.warn(
        line,
        f"{version} {kind} is not used by this control plane and is ignored",
        f"Used are {', '.join(_READERS)} and MeshConfig.",
        "MN0006",
    )


def _unnamed(document: Document, file: str, line: int, message: str, field: str = "") -> Parsed:
    report = Report(file, "")
    report.reject(line, message, _WRITE, "MN0005", field=field)
    return Parsed(None, None, tuple(report.findings), line, document.text)
