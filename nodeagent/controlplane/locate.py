# SPDX-License-Identifier: Apache-2.0
"""In which line a field of an object stands.

Objects do not carry the lines of their fields: there may be ten thousand of them, and only what is found wrong needs
one. So the document is parsed once more, the few times that an analysis has something to say. Pure.
"""

import re
from collections.abc import Iterator

from nodeagent.controlplane.documents import Mapping, Sequence, Value, YamlError, parse_documents

_STEP = re.compile(r"\[(?P<index>\d+)\]|\[(?P<key>[^\]]+)\]|\.?(?P<name>[^.\[\]]+)")
"""`spec.rules[0].to`, `metadata.annotations[istio.io/dry-run]`: what has dots stands in brackets."""


def roots(text: str) -> Iterator[Mapping]:
    """The objects of a text: those of its documents, and of their lists."""
    try:
        documents = parse_documents(text)
    except YamlError:  # it was YAML when it was taken; a piece of a file need not be, such as one that names an anchor
        return
    for document in documents:
        root = document.root
        entries = root.entries.get("items") if isinstance(root, Mapping) else None
        if isinstance(entries, Sequence):
            yield from (value for value in entries.items if isinstance(value, Mapping))
        elif isinstance(root, Mapping):
            yield root


def field_line(root: Mapping, path: str) -> int:
    """Line of the field, or of the last one on the way to it that is written."""
    value: Value | None = root
    line = root.line
    for step in _STEP.finditer(path):
        if step["index"] is not None:
            at = int(step["index"])
            value = value.items[at] if isinstance(value, Sequence) and at < len(value.items) else None
            line = value.line if value is not None else line
        else:
            name = step["key"] or step["name"]
            if not isinstance(value, Mapping) or name not in value.entries:
                return line
            line, value = value.lines[name], value.entries[name]
    return line
