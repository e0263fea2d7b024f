# SPDX-License-Identifier: Apache-2.0
"""Makes text that others chose safe to stand in one line of a log. Pure.

Names and errors come from peers, pods and the control plane: a newline would forge a line, a quote a field, a control
character would talk to the reader's terminal, and a long value would bury the rest.
"""

import re
from functools import lru_cache

MAX_CHARACTERS = 512
"""Longer than any valid name (253) or SPIFFE id of this mesh (about 400)."""

_BARE = re.compile(r"[0-9A-Za-z.:\[\]/_-]+")
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t", '"': '\\"', "\\": "\\\\"}


def bounded(text: str) -> str:
    return text if len(text) <= MAX_CHARACTERS else text[: MAX_CHARACTERS - 1] + "…"


@lru_cache(maxsize=1024)  # names of workloads and identities stand in each line again
def quoted(text: str) -> str:
    """In double quotes as Rust's Debug writes a string, which is what readers of ztunnel's log expect."""
    return f'"{_escaped(bounded(text), quotes=True)}"'


def bare(text: str) -> str:
    """Without quotes if nothing in it needs them, as addresses and ports do not."""
    return text if len(text) <= MAX_CHARACTERS and _BARE.fullmatch(text) else quoted(text)


def one_line(text: str) -> str:
    """For a message: quotes stay, everything that is not printable is escaped; not shortened."""
    return _escaped(text, quotes=False)


def _escaped(text: str, *, quotes: bool) -> str:
    if text.isprintable() and not (quotes and ('"' in text or "\\" in text)):
        return text
    return "".join(_character(character, quotes=quotes) for character in text)


def _character(character: str, *, quotes: bool) -> str:
    if character.isprintable() and not (quotes and character in _SHORT):
        return character
    return _SHORT.get(character) or f"\\u{{{ord(character):x}}}"
