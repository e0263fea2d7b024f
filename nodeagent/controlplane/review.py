# SPDX-License-Identifier: Apache-2.0
"""Everything that is to be said of a directory: `nodeagent analyze` and the control plane both ask here.

What the parsers found, what shows when objects are seen together, each with the line of its field, and without what was
suppressed. Pure.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

import msgspec

from nodeagent.controlplane.analyze import analyze, analyze_written
from nodeagent.controlplane.catalog import Accepted, Catalog
from nodeagent.controlplane.documents import Mapping as Written
from nodeagent.controlplane.finding import Finding
from nodeagent.controlplane.locate import field_line, roots
from nodeagent.controlplane.objects import Key, MeshObject
from nodeagent.controlplane.parse import Parsed, key_of
from nodeagent.controlplane.suppress import Suppression, silenced_by, suppress
from nodeagent.controlplane.translate import Translation
from nodeagent.controlplane.view import View


def review(
    catalog: Catalog,
    objects: tuple[MeshObject, ...],
    translation: Translation,
    suppressions: Iterable[Suppression] = (),
) -> tuple[Finding, ...]:
    """In the order of files and lines. `objects` are those in force, which a flag may have changed."""
    findings = (*catalog.findings, *see_together(catalog, objects, translation))
    return tuple(sorted({*suppress(findings, silenced_by(objects), suppressions)}))


def see_together(
    catalog: Catalog,
    objects: tuple[MeshObject, ...],
    translation: Translation,
    between: Callable[[], object] = lambda: None,
) -> tuple[Finding, ...]:
    """What the objects say only all together, suppressed or not. It takes a look at each of them.

    That is a tenth of a second of a thread in a large mesh. `between` is called between parts of it, and may wait.
    """
    view = View(objects, translation)
    between()
    written = analyze_written(view, _written(catalog))
    # What does not exist at all needs no second word about not being there for a route.
    missing = {(one.subject, one.field) for one in written if one.code == "IST0101"}
    together = [
        one for one in analyze(view, between) if one.code != "MN0303" or (one.subject, one.field) not in missing
    ]
    return (*_placed(together, catalog.objects), *written)


def line_of(accepted: Accepted, field: str) -> int:
    """Of a field of an object in force, in the file that it stands in."""
    found = (root for root in roots(accepted.text) if key_of(root) == accepted.value.meta.key)
    return _line(accepted, next(found, None), field)


def _line(accepted: Accepted, root: Written | None, field: str) -> int:
    """The text begins somewhere in its file: the line of the object there tells where."""
    return accepted.line + field_line(root, field) - root.line if root is not None else accepted.line


def _placed(findings: Iterable[Finding], accepted: Mapping[Key, Accepted]) -> Iterator[Finding]:
    """Each with the line of its field instead of that of its object."""
    named = [finding for finding in findings if finding.field]
    yield from (finding for finding in findings if not finding.field)
    if not named:
        return
    by_subject = {str(key): (key, value) for key, value in accepted.items()}
    texts: dict[str, dict[Key | None, Written]] = {}
    for finding in named:
        found = by_subject.get(finding.subject)
        if found is None:
            yield finding
            continue
        key, version = found
        if version.text not in texts:
            texts[version.text] = {key_of(root): root for root in roots(version.text)}
        yield msgspec.structs.replace(finding, line=_line(version, texts[version.text].get(key), finding.field))


def _written(catalog: Catalog) -> dict[Key, tuple[Parsed, str]]:
    """Objects that are judged as they are written, whether they are used or not, with their files. The first counts."""
    found: dict[Key, tuple[Parsed, str]] = {}
    for file in catalog.files.values():
        for parsed in file.objects:
            if parsed.key is not None and parsed.root is not None:
                found.setdefault(parsed.key, (parsed, file.content.path))
    return found
