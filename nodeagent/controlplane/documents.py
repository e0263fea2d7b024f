# SPDX-License-Identifier: Apache-2.0
"""YAML text -> documents, in which every value knows its line.

Built from the parser's events and not by yaml's own constructors, because these forget lines, keep the last of two
equal keys, recurse (a deep file would end the process) and make dates out of strings. Plain scalars and keys are read
as kubectl and istiod read them: sigs.k8s.io/yaml over go-yaml v2, which is YAML 1.1 without base 60 and dates, made
JSON, in which 1e3 is 1000. So `y`, `n`, `on` and `off` are booleans, and as keys "true" and "false". Pure: whatever the
text, the answer is documents or one YamlError, nothing else.
"""

import dataclasses
import math
import re
from collections.abc import Iterator
from typing import TypeAlias

import yaml

_Loader: type[yaml.CSafeLoader] | type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

MAX_DEPTH = 64
"""Kubernetes objects nest about fifteen deep."""
_MOST_QUOTED = 256
"""Scalars of one file, which is read again for each."""
_CORE_TAG = "tag:yaml.org,2002:"
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLEANS = {
    spelling: value
    for words, value in ((("true", "yes", "on", "y"), True), (("false", "no", "off", "n"), False))
    for word in words
    for spelling in (word, word.capitalize(), word.upper())
}
# As Go's strconv.ParseInt reads them with base 0, underscores left out. Base 60 is none: 12:30 is a text to Kubernetes.
_INTEGER = re.compile(r"[-+]?(?:0[bB][01]+|0[oO]?[0-7]+|0[xX][0-9a-fA-F]+|0|[1-9][0-9]*)", re.ASCII)
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", re.ASCII)
_NO_JSON = frozenset({f"{sign}{word}" for sign in ("", "+", "-") for word in (".inf", ".Inf", ".INF")})
_NO_JSON |= {".nan", ".NaN", ".NAN"}
"""Numbers that JSON does not have."""
_EXPONENT_FROM = 1e21
"""JSON of Go writes whole numbers below it without an exponent, so that they are integers for whoever reads them."""
_MAX_DIGITS = 40
"""Longer numbers stay text: int() of a million digits takes a minute, and no field is that large."""
_INT64, _UINT64 = 1 << 63, 1 << 64


class YamlError(ValueError):
    """The text is not YAML. `line` is 1-based."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


@dataclasses.dataclass(frozen=True, slots=True)
class Scalar:
    value: str | int | float | bool | None
    text: str
    line: int
    is_plain: bool = False
    """Written without quotes and tag: only then is `<<` a merge key (YAML 1.1, https://yaml.org/type/merge.html)."""


@dataclasses.dataclass(frozen=True, slots=True)
class Sequence:
    items: list["Value"]
    line: int


@dataclasses.dataclass(frozen=True, slots=True)
class Mapping:
    entries: dict[str, "Value"]
    lines: dict[str, int]
    """Line of each key."""
    line: int


Value: TypeAlias = Scalar | Sequence | Mapping


@dataclasses.dataclass(frozen=True, slots=True)
class Document:
    root: Value
    line: int
    text: str
    problems: "list[Problem]"
    """What YAML allows and we do not: a key twice, a key that is no text, an unknown tag."""


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    line: int
    message: str
    path: str
    """Of the field where it is, such as `spec.rules[0]`; empty for the document."""


def parse_documents(text: str) -> list[Document]:
    """Empty documents are left out. Raises YamlError."""
    lines = text.splitlines(keepends=True)
    found = _found(text.removeprefix("\ufeff"))  # libyaml skips it and does not count it
    starts = [start for start, _, _ in found] + [len(lines)]
    return [
        Document(root, root.line, "".join(lines[start:following]), problems)
        for (start, root, problems), following in zip(found, starts[1:], strict=True)
        if not (isinstance(root, Scalar) and root.value is None)
    ]


_Found: TypeAlias = list[tuple[int, Value, list[Problem]]]
"""Of each document the number of lines before it, and what is in it."""


def _found(text: str) -> _Found:
    quotes_left = _MOST_QUOTED
    while True:
        try:
            return _read(text)
        except yaml.YAMLError as error:
            quoted = _quoted(text, error) if quotes_left else None
            if quoted is None:
                raise _mapped(error) from error
            text, quotes_left = quoted, quotes_left - 1


def _read(text: str) -> _Found:
    found: _Found = []
    events = yaml.parse(text, Loader=_Loader)
    for event in events:
        if isinstance(event, yaml.DocumentStartEvent):
            problems: list[Problem] = []
            found.append((_line(event) - 1, _Builder(problems).build(events), problems))
    return found


def _quoted(text: str, error: yaml.YAMLError) -> str | None:
    """The text with quotes around the plain scalar at which libyaml gave up; None where that is not why it did.

    It refuses one that ends in a colon before a bracket or comma, such as the last of `[10.0.0.1, 2001:db8::]`. To
    go-yaml the colon belongs to it. Where a line begins stays the same.
    """
    start, colon = getattr(error, "context_mark", None), getattr(error, "problem_mark", None)
    if getattr(error, "problem", None) != "found unexpected ':'" or start is None or colon is None:
        return None
    end = colon.index + 1
    scalar = text[start.index : end].replace("'", "''")
    return f"{text[: start.index]}'{scalar}'{text[end:]}"


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1


def _mapped(error: yaml.YAMLError) -> YamlError:
    mark = getattr(error, "problem_mark", None)
    what = getattr(error, "problem", None) or getattr(error, "reason", None) or "cannot be read"
    around = getattr(error, "context", None)
    return YamlError(f"{what} ({around})" if around else str(what), mark.line + 1 if mark else 1)


@dataclasses.dataclass(slots=True)
class _Open:
    """A collection whose end has not come. `key` is the pending key of a mapping."""

    value: Sequence | Mapping
    anchor: str | None
    key: Scalar | None = None
    merged: list[Value] = dataclasses.field(default_factory=list)


class _Builder:
    """One document's tree, with a stack of its own instead of recursion."""

    def __init__(self, problems: list[Problem]) -> None:
        self._problems = problems
        self._open: list[_Open] = []
        self._anchors: dict[str, Value] = {}
        self._root: Value | None = None

    def build(self, events: Iterator[yaml.Event]) -> Value:
        for event in events:
            if isinstance(event, yaml.DocumentEndEvent):
                break
            self._took(event)
        return self._root or Scalar(None, "", 1)

    def _took(self, event: yaml.Event) -> None:
        line = _line(event)
        match event:
            case yaml.ScalarEvent():
                scalar = Scalar(self._resolve(event, line), event.value, line, is_plain=event.implicit[0])
                self._named(event.anchor, scalar)
                self._add(scalar)
            case yaml.AliasEvent():
                # An anchor is known from its end on, so that nothing can contain itself.
                if event.anchor not in self._anchors:
                    raise YamlError(f"alias *{event.anchor} has no anchor before it, or is inside of it", line)
                self._add(self._anchors[event.anchor])
            case yaml.SequenceStartEvent():
                self._begin(_Open(Sequence([], line), event.anchor), event.tag, line)
            case yaml.MappingStartEvent():
                self._begin(_Open(Mapping({}, {}, line), event.anchor), event.tag, line)
            case yaml.CollectionEndEvent():
                closed = self._open.pop()
                _merge(closed)
                self._named(closed.anchor, closed.value)
                self._add(closed.value)
            case _:
                pass

    def _begin(self, collection: _Open, tag: str | None, line: int) -> None:
        if len(self._open) >= MAX_DEPTH:
            raise YamlError(f"nested more than {MAX_DEPTH} deep", line)
        if tag is not None and not tag.startswith(_CORE_TAG):
            self._object_to(line, f"tag {tag} means nothing here")
        self._open.append(collection)

    def _named(self, anchor: str | None, value: Value) -> None:
        if anchor is not None:
            self._anchors[anchor] = value

    def _add(self, value: Value) -> None:
        if not self._open:
            self._root = value
            return
        into = self._open[-1]
        if isinstance(into.value, Sequence):
            into.value.items.append(value)
        elif into.key is None:
            into.key = self._key(value)
        else:
            key, into.key = into.key, None
            self._enter(into, into.value, key, value)

    def _key(self, value: Value) -> Scalar:
        if isinstance(value, Scalar) and value.value is not None:
            return dataclasses.replace(value, text=_key_text(value))
        self._object_to(value.line, "a key has to be a text")
        return Scalar("", "", value.line)

    def _enter(self, into: _Open, mapping: Mapping, name: Scalar, value: Value) -> None:
        key, line = name.text, name.line
        if key == "<<" and name.is_plain:
            into.merged.extend(value.items if isinstance(value, Sequence) else [value])
        elif key in mapping.entries:
            self._object_to(line, f"key {key!r} occurs twice, first in line {mapping.lines[key]}", key)
        else:
            mapping.entries[key] = value
            mapping.lines[key] = line

    def _object_to(self, line: int, message: str, key: str = "") -> None:
        """At the value that comes next, or at `key` of the mapping that is open."""
        path = ""
        for one in self._open:
            if isinstance(one.value, Sequence):
                path += f"[{len(one.value.items)}]"
            elif one.key is not None:
                path += f".{one.key.text}"
        self._problems.append(Problem(line, message, f"{path}.{key}".strip(".")))

    def _resolve(self, event: yaml.ScalarEvent, line: int) -> str | int | float | bool | None:
        if event.value in _NO_JSON and (event.implicit[0] or event.tag == _CORE_TAG + "float"):
            self._object_to(line, f"{event.value} is no number that Kubernetes takes")
        if event.implicit[0] or event.tag in {_CORE_TAG + "int", _CORE_TAG + "bool", _CORE_TAG + "float"}:
            return _plain(event.value)
        if event.tag is not None and not event.implicit[1] and not event.tag.startswith(_CORE_TAG):
            self._object_to(line, f"tag {event.tag} means nothing here")
        return None if event.tag == _CORE_TAG + "null" else str(event.value)


def _merge(closed: _Open) -> None:
    """`<<: *defaults`: keys that the mapping does not have itself."""
    if not isinstance(closed.value, Mapping):
        return
    for source in closed.merged:
        if isinstance(source, Mapping):
            for key, value in source.entries.items():
                closed.value.entries.setdefault(key, value)
                closed.value.lines.setdefault(key, source.lines[key])


def _plain(text: str) -> str | int | float | bool | None:
    if text in _NULLS:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if len(text) > _MAX_DIGITS or text[:1] == "_":
        return text
    digits = text if text.startswith(".") else text.replace("_", "")
    if _INTEGER.fullmatch(digits):
        number = _integer(digits)
        if -_INT64 <= number < _UINT64:
            return number
    if _FLOAT.fullmatch(digits):
        found = float(digits)
        if math.isfinite(found):
            return int(found) if found.is_integer() and abs(found) < _EXPONENT_FROM else found
    return text


def _integer(digits: str) -> int:
    unsigned = digits.lstrip("+-")
    if unsigned.startswith("0") and unsigned[1:].isdigit():
        digits = digits.replace("0", "0o", 1)  # YAML 1.1 writes octal as 010
    return int(digits, 0)


def _key_text(key: Scalar) -> str:
    """As it stands in JSON. A fraction stays as it is written."""
    match key.value:
        case bool():
            return "true" if key.value else "false"
        case int():
            return str(key.value)
        case str():
            return key.value
        case _:
            return key.text
