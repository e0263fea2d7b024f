# SPDX-License-Identifier: Apache-2.0
"""The outcomes of the kernel programs, read from bpf/reasons.h: number, name, verdict, words.

These are outcomes of packets; those of connections, which the proxy gives, have their own table, model/reason.py.
"""

import re
from dataclasses import dataclass
from functools import cache

from nodeagent.kernel.sources import read_source

_ROW = re.compile(r'^\s*ROW\((\w+), (\w+), "([^"]+)"\)', re.MULTILINE)


@dataclass(frozen=True)
class KernelReason:
    number: int
    """Row of the map reason_counts; 0 is UNDECIDED, which only a bug counts."""
    name: str
    verdict: str
    """UNSPEC and OK pass, SHOT drops, REDIRECT sends to the proxy, into a pod or into the node's stack."""
    words: str

    @property
    def is_drop(self) -> bool:
        return self.verdict == "SHOT"


def read_reasons(header: str) -> tuple[KernelReason, ...]:
    """In order of their numbers. UNDECIDED, which has no row in the table, comes first."""
    undecided = KernelReason(0, "UNDECIDED", "SHOT", "a defect of nodeagent: please report it")
    rows = (KernelReason(number, *row) for number, row in enumerate(_ROW.findall(header), start=1))
    return (undecided, *rows)


@cache
def reasons() -> tuple[KernelReason, ...]:
    return read_reasons(read_source("reasons.h"))
