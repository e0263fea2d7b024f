# SPDX-License-Identifier: Apache-2.0
"""The ConfigMap istio-system/istio, in which Istio keeps MeshConfig as a text of YAML. Pure.

Its other members (meshNetworks, values) say nothing that is used here.
"""

import msgspec

from nodeagent.controlplane.documents import Mapping, Scalar, Value, YamlError, parse_documents
from nodeagent.controlplane.fields import Fields, join_field
from nodeagent.controlplane.finding import Report
from nodeagent.controlplane.networks import SYSTEM_NAMESPACE
from nodeagent.controlplane.objects import Key, MeshConfig, Meta, Origin
from nodeagent.controlplane.parse_mesh import parse_mesh_config

_NAME = "istio"
_KEY = Key("MeshConfig", "", "default")


def is_mesh_config_map(root: Mapping) -> bool:
    metadata = root.entries.get("metadata")
    if _text(root.entries.get("kind")) != "ConfigMap" or not isinstance(metadata, Mapping):
        return False
    named = _text(metadata.entries.get("namespace")), _text(metadata.entries.get("name"))
    return named == (SYSTEM_NAMESPACE, _NAME)


def read_config_map(root: Mapping, report: Report, origin: Origin) -> MeshConfig:
    """Findings are at the line of the file in which the text within stands, if it is written as a block."""
    metadata = Fields(root, "", report).within("metadata")
    created = metadata.text("creationTimestamp") if metadata is not None else ""
    meta = Meta(key=_KEY, origin=origin, created=created)
    data = root.entries.get("data")
    text = data.entries.get("mesh") if isinstance(data, Mapping) else None
    if text is None:
        return MeshConfig(meta=meta)
    inner = Report(report.file, report.subject)
    mesh = _read(_text(text), inner, meta)
    for finding in inner.findings:
        report.findings.append(msgspec.structs.replace(finding, line=finding.line + text.line))
    return mesh


def _read(text: str, report: Report, meta: Meta) -> MeshConfig:
    try:
        documents = parse_documents(text)
    except YamlError as error:
        report.reject(error.line, f"not YAML: {error}", "What is in force stays so.", "MN0002", field="data.mesh")
        return MeshConfig(meta=meta)
    if not documents:
        return MeshConfig(meta=meta)
    root = documents[0].root
    if len(documents) > 1 or not isinstance(root, Mapping):
        report.reject(root.line, "one object with fields is expected", "See Istio's MeshConfig.", field="data.mesh")
        return MeshConfig(meta=meta)
    for problem in documents[0].problems:
        words = "Which one counts is a guess that nobody should make."
        report.reject(problem.line, problem.message, words, "MN0003", field=join_field("data.mesh", problem.path))
    return parse_mesh_config(Fields(root, "data.mesh", report), meta)


def _text(value: Value | None) -> str:
    return value.value if isinstance(value, Scalar) and isinstance(value.value, str) else ""
