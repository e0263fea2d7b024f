# SPDX-License-Identifier: Apache-2.0
"""Objects as they are written, for findings that need more of them than the mesh does; and which hosts they name.

They are read forgivingly: what is of a wrong type is told by whoever uses the object. Pure.
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

from nodeagent.controlplane.documents import Mapping as Tree
from nodeagent.controlplane.documents import Scalar
from nodeagent.controlplane.fields import Fields
from nodeagent.controlplane.finding import Report
from nodeagent.controlplane.objects import Key
from nodeagent.controlplane.parse import Parsed


class WrittenObject(NamedTuple):
    key: Key
    root: Fields
    spec: Fields
    report: Report
    """Of this object; its findings are to be told."""
    labels: Mapping[str, str]


class Host(NamedTuple):
    """What a Service or ServiceEntry says of its host."""

    ports: tuple[int, ...]
    selector: Mapping[str, str]
    namespace: str


def read_written(written: Mapping[Key, tuple[Parsed, str]]) -> dict[str, list[WrittenObject]]:
    """By kind. `written` are the objects that were kept as trees, with their files."""
    by_kind: dict[str, list[WrittenObject]] = defaultdict(list)
    for key, (parsed, file) in written.items():
        assert parsed.root is not None
        root = Fields(parsed.root, "", Report("", ""))
        spec = root.within("spec") or Fields(Tree({}, {}, parsed.line), "spec", Report("", ""))
        metadata = root.within("metadata")
        labels = metadata.texts("labels") if metadata is not None else {}
        by_kind[key.kind].append(WrittenObject(key, root, spec, Report(file, str(key)), labels))
    return by_kind


def number_of(fields: Fields, name: str) -> int:
    """0 when it is not written, or no number."""
    value = fields.mapping.entries.get(name)
    return value.value if isinstance(value, Scalar) and isinstance(value.value, int) else 0


class Hosts:
    """Hosts of the Services and ServiceEntries that are written."""

    def __init__(self, by_kind: Mapping[str, list[WrittenObject]], cluster_domain: str) -> None:
        self._domain = cluster_domain
        self._hosts: dict[str, Host] = {}
        for one in by_kind.get("Service", ()):
            ports = tuple(number_of(port, "port") for port in one.spec.each("ports"))
            host = Host(ports, one.spec.texts("selector"), one.key.namespace)
            self._hosts[self.full(one.key.name, one.key.namespace)] = host
        for one in by_kind.get("ServiceEntry", ()):
            ports = tuple(number_of(port, "number") for port in one.spec.each("ports"))
            selector = one.spec.within("workloadSelector")
            labels = selector.texts("labels") if selector is not None else {}
            for name in one.spec.parsed("hosts", str):
                self._hosts.setdefault(name, Host(ports, labels, one.key.namespace))

    def full(self, name: str, namespace: str) -> str:
        """A short name is of the namespace where it is written."""
        return name if "." in name or "*" in name else f"{name}.{namespace}.svc.{self._domain}"

    def find(self, name: str, namespace: str) -> Host | None:
        full = self.full(name, namespace)
        if full in self._hosts:
            return self._hosts[full]
        wildcards = (host for known, host in self._hosts.items() if known.startswith("*.") and full.endswith(known[1:]))
        return next(wildcards, None)
