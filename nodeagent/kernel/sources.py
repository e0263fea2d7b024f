# SPDX-License-Identifier: Apache-2.0
"""Where the C of the kernel programs lies, and the one text that bcc compiles.

bcc rewrites map accesses in its main file only, so our own `#include "…"` lines are expanded here; `#line` keeps the
compiler's messages naming the file and line that an editor shows. Nothing here needs bcc or root.
"""

import hashlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

FILTERS = ("from_pod", "to_pod", "from_proxy", "at_proxy")
"""On devices."""
SERVICES = ("connect4", "connect6", "getpeername4", "getpeername6")
"""On the pods' cgroup, for Service addresses; attached only when that is wanted."""
PROGRAMS = (*FILTERS, "sockops", *SERVICES)
TRACE_FLAG = "-DTRACE"
"""With it the filters tell of packets (bpf/trace.h)."""

_INCLUDE = re.compile(r'^#include "([\w/.]+)"$')
_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)


@cache
def bpf_folder() -> Path:
    """Beside the package in a checkout, inside it in an installed wheel."""
    package = Path(__file__).resolve().parent.parent
    checkout = package.parent / "bpf"
    return checkout if (checkout / "maps.h").is_file() else package / "bpf"


def read_source(name: str) -> str:
    return (bpf_folder() / name).read_text(encoding="utf-8")


@cache
def program_text(programs: tuple[str, ...] = PROGRAMS) -> str:
    """These programs as one translation unit; each header once, before its first use."""
    seen: set[str] = set()
    return "\n".join(line for program in programs for line in _expand(f"{program}.c", seen)) + "\n"


@cache
def source_hash(flags: tuple[str, ...] = ()) -> str:
    """Of everything the compiler is given: names the pinned programs."""
    headers = sorted((bpf_folder() / "include").rglob("*.h"))
    parts = [*flags, program_text(), *(path.read_text(encoding="utf-8") for path in headers)]
    return _short_hash("\0".join(parts))


@cache
def layout_text() -> str:
    """What declares the shapes of maps, for who has to read them later: nodeagent/kernel/layout.py understands it."""
    return read_source("layout.h") + read_source("maps.h").partition("static __always_inline")[0]


@cache
def layout_hash() -> str:
    """Of the shapes of maps, without comments and spacing: names the directory of pinned maps."""
    return _short_hash(" ".join(_COMMENT.sub(" ", layout_text()).split()))


def programs_hash() -> str:
    """Of both, as `nodeagent version` tells them; without the marks, which are the agent's setting."""
    return f"{layout_hash()}/{source_hash()}"


def _expand(name: str, seen: set[str]) -> Iterator[str]:
    yield f'#line 1 "{name}"'
    for number, line in enumerate(read_source(name).splitlines(), start=1):
        included = _INCLUDE.match(line)
        if included and included[1] not in seen:
            seen.add(included[1])
            yield from _expand(included[1], seen)
            yield f'#line {number + 1} "{name}"'
        else:
            yield "" if included or line == "#pragma once" else line


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
