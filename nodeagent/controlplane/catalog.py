# SPDX-License-Identifier: Apache-2.0
"""Which version of which object is in force: the rules of "keep the last good version". Pure.

- A valid document is in force. An invalid one leaves the version of its object that was in force before.
- A file that cannot be read or is no YAML leaves everything that came from it in force.
- A document that cannot be named may be any object of its file, so none that came from it is removed.
- An object that occurs twice: the first counts (files by name, then lines), the others are reported.
- Whatever is in no file any more is gone.
"""

import dataclasses
from collections.abc import Iterator, Mapping

from nodeagent.controlplane.documents import YamlError, parse_documents
from nodeagent.controlplane.finding import Finding, Severity
from nodeagent.controlplane.objects import Key, MeshObject
from nodeagent.controlplane.parse import Parsed, parse_document


@dataclasses.dataclass(frozen=True, slots=True)
class Content:
    """One file as it was read: its text, or why there is none."""

    path: str
    """As the operator named the directory, for findings."""
    text: str = ""
    problem: Finding | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class ParsedFile:
    content: Content
    objects: tuple[Parsed, ...] = ()
    problem: Finding | None = None
    """The whole file is unusable."""


@dataclasses.dataclass(frozen=True, slots=True)
class Accepted:
    """An object in force, and the document it came from, which may be older than the file of today."""

    value: MeshObject
    file: str
    line: int
    text: str


@dataclasses.dataclass(frozen=True, slots=True)
class Catalog:
    files: Mapping[str, ParsedFile] = dataclasses.field(default_factory=dict)
    """By file name within the directory."""
    objects: Mapping[Key, Accepted] = dataclasses.field(default_factory=dict)
    findings: tuple[Finding, ...] = ()

    @property
    def values(self) -> tuple[MeshObject, ...]:
        return tuple(accepted.value for accepted in self.objects.values())


def admit(previous: Catalog, contents: Mapping[str, Content], *, refuses_unknown: bool = True) -> Catalog:
    """The catalog after the directory was read. Files whose text is the same are not parsed again.

    `refuses_unknown` as in `parse_document`; the same for all catalogs of a process.
    """
    files = {
        name: _parsed(previous.files.get(name), contents[name], refuses_unknown=refuses_unknown)
        for name in sorted(contents)
    }
    objects: dict[Key, Accepted] = {}
    claimed: dict[Key, Parsed] = {}
    findings: list[Finding] = []
    keeping: set[str] = set()
    for name, file in files.items():
        if file.problem is not None:
            findings.append(file.problem)
            keeping.add(name)
        for parsed in file.objects:
            findings.extend(parsed.findings)
            if parsed.key is None:
                keeping.add(name)
            elif parsed.is_ignored:
                continue
            elif parsed.key in claimed:
                findings.append(_duplicate(file.content.path, parsed, claimed[parsed.key], objects))
            else:
                claimed[parsed.key] = parsed
                objects.update(_in_force(parsed.key, parsed, name, previous))
    objects.update(
        {key: accepted for key, accepted in previous.objects.items() if accepted.file in keeping and key not in claimed}
    )
    return Catalog(files, objects, tuple(findings))


def _in_force(key: Key, parsed: Parsed, name: str, previous: Catalog) -> Iterator[tuple[Key, Accepted]]:
    if parsed.value is not None:
        yield key, Accepted(parsed.value, name, parsed.line, parsed.text)
    elif key in previous.objects:
        yield key, previous.objects[key]


def _parsed(known: ParsedFile | None, content: Content, *, refuses_unknown: bool) -> ParsedFile:
    if known is not None and known.content == content:
        return known
    if content.problem is not None:
        return ParsedFile(content, problem=content.problem)
    try:
        documents = parse_documents(content.text)
    except YamlError as error:
        problem = Finding(
            content.path,
            error.line,
            Severity.ERROR,
            "MN0002",
            "",
            f"not YAML: {error}",
            "All objects of this file stay as they were.",
            is_rejected=True,
        )
        return ParsedFile(content, problem=problem)
    objects = [
        parsed
        for document in documents
        for parsed in parse_document(document, content.path, refuses_unknown=refuses_unknown)
    ]
    return ParsedFile(content, tuple(objects))


def _duplicate(path: str, parsed: Parsed, first: Parsed, objects: Mapping[Key, Accepted]) -> Finding:
    assert parsed.key is not None
    at = objects.get(parsed.key)
    place = f"{at.file}:{first.line}" if at is not None else f"line {first.line} of an earlier document"
    return Finding(
        path,
        parsed.line,
        Severity.ERROR,
        "MN0004",
        str(parsed.key),
        f"occurs twice; the one in {place} counts",
        "Remove one of the two.",
    )
