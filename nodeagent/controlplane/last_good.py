# SPDX-License-Identifier: Apache-2.0
"""The documents in force, on disk, so that a restart with an invalid file keeps their last good version.

A file of JSON lines: the first is all of them, each that follows is what changed later, so a change costs what it is
worth and not what the mesh is worth. A writer that is killed leaves the beginning of a line behind, which is left out:
then the state is the one before. The file is made anew when the changes in it are longer than the rest.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from nodeagent.controlplane.catalog import Accepted, Catalog
from nodeagent.controlplane.documents import YamlError, parse_documents
from nodeagent.controlplane.objects import Key
from nodeagent.controlplane.parse import parse_document
from nodeagent.controlplane.state import SCHEMA, SECRET, StateDirectory
from nodeagent.errors import StateFileUnwritable

_log = logging.getLogger(__name__)

FILE = "last-good.jsonl"
_LEAST_CHANGES_BYTES = 64 << 10
"""So much is appended to a small mesh, too, before its file is made anew."""


class _Document(msgspec.Struct, frozen=True):
    file: str
    line: int
    text: str
    objects: tuple[str, ...]


class _Line(msgspec.Struct, frozen=True, omit_defaults=True):
    schema: str
    documents: tuple[_Document, ...]
    gone: tuple[str, ...] = ()


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(_Line)


class _Damaged(Exception):
    """Why the file is ignored."""


class LastGood:
    """Of one state directory."""

    def __init__(self, state: StateDirectory) -> None:
        self._state = state
        self._written: Mapping[Key, Accepted] = {}
        """What the file says, if this process has made it."""
        self._whole_bytes = 0
        """Of its first line; 0 when this process has not made it, or could not go on with it."""
        self._appended_bytes = 0

    def save(self, objects: Mapping[Key, Accepted]) -> None:
        """What differs from what was saved before; nothing when nothing does. Raises StateFileUnwritable."""
        if objects is self._written:
            return
        if not (self._whole_bytes and self._append(_change(self._written, objects))):
            whole, self._whole_bytes, self._written = _line(objects), 0, {}
            self._state.write(FILE, whole, SECRET)
            self._whole_bytes, self._appended_bytes = len(whole), 0
        self._written = objects

    def load(self) -> Catalog:
        """What was in force when it was last saved; empty when there is nothing usable.

        Starting empty is right then: the mesh directory is read next, and is complete unless something is invalid.
        """
        data = self._state.read(FILE)
        if data is None:
            return Catalog()
        try:
            return Catalog(objects=_restored(data))
        except _Damaged as error:
            _log.warning("%s %s: starting from the mesh directory alone", self._state.path / FILE, error)
            return Catalog()

    def _append(self, line: bytes) -> bool:
        """False when all has to be written: there is enough behind the first line, or the file is not what it was."""
        if self._appended_bytes + len(line) > max(_LEAST_CHANGES_BYTES, self._whole_bytes):
            return False
        try:
            self._state.append(FILE, line)
        except StateFileUnwritable:
            return False  # writing all heals it, or says why not
        self._appended_bytes += len(line)
        return True


def _line(objects: Mapping[Key, Accepted], gone: Iterable[Key] = ()) -> bytes:
    documents: dict[tuple[str, int, str], list[str]] = {}
    for key, accepted in objects.items():
        documents.setdefault((accepted.file, accepted.line, accepted.text), []).append(str(key))
    found = tuple(_Document(*place, tuple(keys)) for place, keys in documents.items())
    return _encoder.encode(_Line(SCHEMA, found, tuple(map(str, gone)))) + b"\n"


def _change(before: Mapping[Key, Accepted], after: Mapping[Key, Accepted]) -> bytes:
    changed = {key: accepted for key, accepted in after.items() if before.get(key) is not accepted}
    return _line(changed, before.keys() - after.keys())


def _restored(data: bytes) -> dict[Key, Accepted]:
    """Raises _Damaged."""
    *lines, rest = data.split(b"\n")
    if not lines:
        raise _Damaged("is damaged (no whole line)")
    objects: dict[str, tuple[Key, Accepted]] = {}
    for line in lines:
        try:
            said = _decoder.decode(line)
        except msgspec.MsgspecError as error:
            raise _Damaged(f"is damaged ({error})") from error
        if said.schema != SCHEMA:
            raise _Damaged(f"is of another program or version ({said.schema!r})")
        for name in said.gone:
            objects.pop(name, None)
        for saved in said.documents:
            for name in saved.objects:
                objects.pop(name, None)  # a version that is no longer understood does not bring an older one back
            objects.update((str(key), (key, accepted)) for key, accepted in _read(saved))
    if rest:
        _log.info("%s ends in the middle of a change, which is left out", FILE)
    return dict(objects.values())


def _read(saved: _Document) -> Iterator[tuple[Key, Accepted]]:
    """A document that this version reads differently is left out: then it is as if it had never been in force."""
    try:
        parsed = [
            found
            for document in parse_documents(saved.text)
            for found in parse_document(document, saved.file, refuses_unknown=False)  # it was in force
        ]
    except YamlError:
        return
    for found in parsed:
        if found.key is not None and found.value is not None and str(found.key) in saved.objects:
            yield found.key, Accepted(found.value, saved.file, saved.line, saved.text)
