# SPDX-License-Identifier: Apache-2.0
"""Which findings nobody wants to hear: by annotation of the object, as istioctl has it, or by the command line.

What rejects an object is always told: it is not in force as written, whoever has asked for silence. Pure.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import TypeAlias

from nodeagent.controlplane.finding import Finding
from nodeagent.controlplane.objects import MeshObject

ANNOTATION = "galley.istio.io/analyze-suppress"
"""Codes with commas between them, or * for all."""
Silence: TypeAlias = Mapping[str, frozenset[str]]
"""Codes, or *, by `Kind namespace/name`."""
_RULE = re.compile(r"(?P<code>[A-Z]{2,3}\d{4}|\*)(?:=(?P<subject>\S.*))?", re.ASCII)


@dataclasses.dataclass(frozen=True, slots=True)
class Suppression:
    code: str
    subject: str = "*"
    """`Kind namespace/name`, with wildcards."""

    @classmethod
    def parse(cls, text: str) -> "Suppression":
        """From `IST0118` or `MN0204=AuthorizationPolicy shop/*`. Raises ValueError."""
        found = _RULE.fullmatch(text.strip())
        if found is None:
            raise ValueError(f"{text!r} is not CODE or CODE=KIND NAMESPACE/NAME")
        return cls(found["code"], found["subject"] or "*")

    def covers(self, finding: Finding) -> bool:
        return self.code in {"*", finding.code} and fnmatchcase(finding.subject, self.subject)


def silenced_by(objects: Iterable[MeshObject]) -> Silence:
    """What the objects' annotations ask for."""
    return {
        str(value.meta.key): frozenset(code.strip() for code in value.meta.annotations[ANNOTATION].split(","))
        for value in objects
        if ANNOTATION in value.meta.annotations
    }


def suppress(
    findings: Iterable[Finding], silence: Silence, suppressions: Iterable[Suppression] = ()
) -> tuple[Finding, ...]:
    """Those that are to be told, in their order."""
    rules = list(suppressions)
    return tuple(
        finding
        for finding in findings
        if finding.is_rejected
        or not (
            silence.get(finding.subject, frozenset()) & {"*", finding.code}
            or any(rule.covers(finding) for rule in rules)
        )
    )
