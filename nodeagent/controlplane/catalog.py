# SPDX-License-Identifier: Apache-2.0
"""Which version of which object is in force: the rules of "keep the last good version". Pure.

- A valid document is in force. An invalid one leaves the version of its object that was in force before.
- A file that cannot be read or is no YAML leaves everything that came from it in force.
- A document that cannot be named may be any object of its file, so none that came from it is removed.
- An object that occurs twice: the first counts (files by name, then lines), the others are reported.
- Whatever is in no file any more is gone.

A change of some files is admitted without looking at the others, unless an object occurs twice somewhere.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from itertools import chain
from typing import NamedTuple

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


@dataclasses.dataclass(frozen=True)
class ParsedFile:
    content: Content
    objects: tuple[Parsed, ...] = ()
    problem: Finding | None = None
    """The whole file is unusable."""

    @cached_property
    def findings(self) -> tuple[Finding, ...]:
        """Of this file alone."""
        whole = () if self.problem is None else (self.problem,)
        return (*whole, *(finding for parsed in self.objects for finding in parsed.findings))

    @cached_property
    def named(self) -> tuple[tuple[Key, Parsed], ...]:
        """The objects that the mesh may use."""
        return tuple(
            (parsed.key, parsed) for parsed in self.objects if parsed.key is not None and not parsed.is_ignored
        )

    @cached_property
    def is_keeping(self) -> bool:
        """What came from it and is not in it may be what cannot be read."""
        return self.problem is not None or any(parsed.key is None for parsed in self.objects)


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
    claims: Mapping[Key, str] = dataclasses.field(default_factory=dict)
    """The file in which an object stands now, whatever is in force."""
    from_file: Mapping[str, frozenset[Key]] = dataclasses.field(default_factory=dict)
    """What is in force and came from it, also from an older version."""
    has_twins: bool = False
    """An object occurs twice."""
    changed: frozenset[Key] | None = None
    """No other object differs from the catalog before; None: any may."""

    @property
    def values(self) -> tuple[MeshObject, ...]:
        return tuple(accepted.value for accepted in self.objects.values())


def admit(previous: Catalog, contents: Mapping[str, Content], *, refuses_unknown: bool = True) -> Catalog:
    """The catalog after the directory was read. Files whose text is the same are not parsed again.

    `refuses_unknown` as in `parse_document`; the same for all catalogs of a process.
    """
    files = {
        name: known
        if (known := previous.files.get(name)) is not None and known.content is contents[name]
        else _parsed(known, contents[name], refuses_unknown=refuses_unknown)
        for name in sorted(contents)
    }
    if previous.files and not previous.has_twins:
        patched = _patch(previous, files)
        if patched is not None:
            return patched
    return _admit_all(previous, files)


def _admit_all(previous: Catalog, files: Mapping[str, ParsedFile]) -> Catalog:
    objects: dict[Key, Accepted] = {}
    claimed: dict[Key, Parsed] = {}
    claims: dict[Key, str] = {}
    twins: list[Finding] = []
    for name, file in files.items():
        for key, parsed in file.named:
            if key in claimed:
                twins.append(_twin(file.content.path, parsed, claimed[key], objects))
            else:
                claimed[key], claims[key] = parsed, name
                objects.update(_in_force(key, parsed, name, previous))
    keeping = {name for name, file in files.items() if file.is_keeping}
    objects.update(
        {key: accepted for key, accepted in previous.objects.items() if accepted.file in keeping and key not in claimed}
    )
    from_file: defaultdict[str, set[Key]] = defaultdict(set)
    for key, accepted in objects.items():
        from_file[accepted.file].add(key)
    return Catalog(
        files,
        objects,
        (*_findings(files), *twins),
        claims,
        {name: frozenset(keys) for name, keys in from_file.items()},
        has_twins=bool(twins),
    )


class _Changed(NamedTuple):
    """Files that differ; one that has gone has no content."""

    former: Mapping[str, ParsedFile]
    latter: Mapping[str, ParsedFile]


def _patch(previous: Catalog, files: Mapping[str, ParsedFile]) -> Catalog | None:
    """As _admit_all, from what has changed. None when an object occurs twice."""
    changed = _changed(previous.files, files)
    claims = _claim(previous, changed)
    if claims is None:
        return None
    touched, in_force = set(_out_of_question(previous, files, changed.former)), dict[Key, Accepted]()
    for name, file in changed.latter.items():
        for key, parsed in file.named:
            touched.add(key)
            in_force.update(_in_force(key, parsed, name, previous))
    for name, file in changed.latter.items():
        if file.is_keeping:
            kept = [key for key in previous.from_file.get(name, ()) if key not in claims]
            in_force.update((key, previous.objects[key]) for key in kept)
    # Only what goes is deleted: a dict with gaps is copied one by one at the next change, and not as it lies.
    objects = dict(previous.objects)
    for key in touched - in_force.keys():
        objects.pop(key, None)
    objects.update(in_force)
    return Catalog(
        files,
        objects,
        _findings(files),
        claims,
        _moved(previous, objects, touched),
        changed=frozenset(key for key in touched if objects.get(key) is not previous.objects.get(key)),
    )


def _claim(previous: Catalog, changed: _Changed) -> Mapping[Key, str] | None:
    """In which file each object stands now; most changes change nothing of it. None when one occurs twice."""
    stood = {key for file in changed.former.values() for key, _ in file.named}
    claimed: dict[Key, str] = {}
    for name, file in changed.latter.items():
        for key, _ in file.named:
            if key in claimed or (key in previous.claims and key not in stood):
                return None
            claimed[key] = name
    if stood == claimed.keys() and all(previous.claims[key] == name for key, name in claimed.items()):
        return previous.claims
    claims = dict(previous.claims)
    for key in stood - claimed.keys():
        claims.pop(key, None)
    claims.update(claimed)
    return claims


def _out_of_question(
    previous: Catalog, files: Mapping[str, ParsedFile], changed: Mapping[str, ParsedFile]
) -> Iterator[Key]:
    """What was in force by these files, once each. It is again if they, as they are now, say so."""
    stood = {key for name, file in changed.items() for key, _ in file.named} | {
        key for name in changed for key in previous.from_file.get(name, ())
    }
    for key in stood & previous.objects.keys():
        origin = previous.objects[key].file
        if previous.claims.get(key, origin) not in changed:
            continue  # it stands in another file, whose own version is invalid
        if origin not in changed and origin in files and files[origin].is_keeping:
            continue  # it stood elsewhere for a while, and where it came from cannot be read
        yield key


def _changed(former: Mapping[str, ParsedFile], latter: Mapping[str, ParsedFile]) -> _Changed:
    names = [name for name in former.keys() | latter.keys() if former.get(name) is not latter.get(name)]
    return _Changed(
        {name: former[name] for name in names if name in former},
        {name: latter[name] for name in sorted(names) if name in latter},
    )


def _moved(previous: Catalog, objects: Mapping[Key, Accepted], touched: Iterable[Key]) -> Mapping[str, frozenset[Key]]:
    """from_file, after these keys have changed."""
    from_file = dict(previous.from_file)
    for key in touched:
        before, after = previous.objects.get(key), objects.get(key)
        if before is not None:
            from_file[before.file] -= {key}
        if after is not None:
            from_file[after.file] = from_file.get(after.file, frozenset()) | {key}
    return {name: keys for name, keys in from_file.items() if keys}


def _findings(files: Mapping[str, ParsedFile]) -> tuple[Finding, ...]:
    return tuple(chain.from_iterable(file.findings for file in files.values()))


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


def _twin(path: str, parsed: Parsed, first: Parsed, objects: Mapping[Key, Accepted]) -> Finding:
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
