# SPDX-License-Identifier: Apache-2.0
"""What agents would be told of a mesh's YAML, and then after each change of it, without a control plane that runs.

Objects are read as the control plane reads them: a document that it would refuse is a finding, and the version of its
object that was there before, if any, counts on. Objects without a creationTimestamp are as old as the step in which
they first came.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from nodeagent.controlplane.catalog import Catalog, Content, admit
from nodeagent.controlplane.encode import Resource
from nodeagent.controlplane.files import read_directory, read_file
from nodeagent.controlplane.finding import Finding
from nodeagent.controlplane.objects import Enrolment, Key, MeshObject
from nodeagent.controlplane.snapshot import ADDRESS, AUTHORIZATION, Snapshot, advance
from nodeagent.controlplane.translate import enrolled_by, translate
from nodeagent.errors import ConfigError

_BORN = "9999-{:06}"
"""Sorts behind every written timestamp."""


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    """Of one step. `name` is that of its file; empty for the beginning."""

    name: str
    snapshot: Snapshot
    """As it is afterwards."""
    changed: tuple[tuple[str, Resource], ...]
    """Type url and resource, by type and name."""
    removed: tuple[str, ...]
    findings: tuple[Finding, ...]


def rehearse(
    path: Path, steps: tuple[Path, ...], enrolment: Enrolment | None, types: Sequence[str] = (ADDRESS, AUTHORIZATION)
) -> Iterator[Change]:
    """The beginning, then one change for each step, of these types; what istiod has no words for is not among them.

    Raises ConfigError for what cannot be read as YAML objects.
    """
    objects: dict[Key, MeshObject] = {}
    snapshot = Snapshot()
    for number, (source, catalog) in enumerate(_catalogs(path, steps)):
        is_step = number > 0
        if is_step and "delete" in source.name:
            for key in _keys(catalog):
                objects.pop(key, None)
        else:
            objects.update(_aged(catalog, objects, number))
        told = enrolled_by(enrolment, tuple(objects.values()))
        following, _ = advance(snapshot, translate(told, snapshot.translation.allocated))
        yield _change(source.name if is_step else "", (snapshot, following), types, catalog.findings)
        snapshot = following


def _catalogs(path: Path, steps: tuple[Path, ...]) -> Iterator[tuple[Path, Catalog]]:
    """Everything is read before the first is told, so that a wrong name of the last step is not found out late."""
    beginning = read_directory(path, {}, None) if path.is_dir() else {path.name: _file(path)}
    contents: list[tuple[Path, Mapping[str, Content]]] = [
        (path, beginning),
        *((step, {step.name: _file(step)}) for step in steps),
    ]
    catalogs = [(source, admit(Catalog(), of_source)) for source, of_source in contents]
    for _, catalog in catalogs:
        for file in catalog.files.values():
            if file.problem is not None:
                place = f"{file.content.path}:{file.problem.line}" if file.problem.line else file.content.path
                raise ConfigError(f"{place}: {file.problem.message}", check="Is it the right file?")
    yield from catalogs


def _file(path: Path) -> Content:
    content = read_file(path)
    if content is None:
        raise ConfigError(f"{path}: no such file or directory", check="Is the path right?")
    return content


def _keys(catalog: Catalog) -> Iterator[Key]:
    """Of everything that has a name, be it valid or not."""
    return (one.key for file in catalog.files.values() for one in file.objects if one.key is not None)


def _aged(catalog: Catalog, before: Mapping[Key, MeshObject], number: int) -> Iterator[tuple[Key, MeshObject]]:
    for key, accepted in catalog.objects.items():
        meta, older = accepted.value.meta, before.get(key)
        created = meta.created or (older.meta.created if older is not None else _BORN.format(number))
        yield key, msgspec.structs.replace(accepted.value, meta=msgspec.structs.replace(meta, created=created))


def _change(
    name: str, snapshots: tuple[Snapshot, Snapshot], types: Sequence[str], findings: tuple[Finding, ...]
) -> Change:
    before, after = snapshots
    changed: list[tuple[str, Resource]] = []
    removed: list[str] = []
    for type_url in types:
        old, new = before.of_type(type_url), after.of_type(type_url)
        changed.extend((type_url, new[key]) for key in sorted(new) if key not in old or old[key] != new[key])
        removed.extend(sorted(old.keys() - new.keys()))
    return Change(name, after, tuple(changed), tuple(removed), findings)
