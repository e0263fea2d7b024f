# SPDX-License-Identifier: Apache-2.0
"""What is wrong or doubtful in the mesh directory, with file and line.

Codes: `IST…` mean what Istio's analyzers mean by them; `MN…` are ours (`CODES` lists them). A finding may reject its
object, which then keeps its last good version; everything else is applied as it stands.
"""

import enum

import msgspec

CODES = {
    "IST0101": "a referenced object does not exist",
    "IST0106": "a field is missing, of the wrong type or has an impossible value",
    "IST0127": "a selector matches no workload",
    "MN0001": "a file cannot be read",
    "MN0002": "not YAML",
    "MN0003": "a key occurs twice",
    "MN0004": "an object occurs twice",
    "MN0005": "a document that is not an object with kind and name",
    "MN0006": "a kind that is not used",
    "MN0007": "the directory cannot be read",
    "MN0008": "state cannot be written",
    "MN0201": "a rule of a DENY policy never fires, because it needs layer 7",
    "MN0202": "a rule of an ALLOW policy is left out, because it needs layer 7",
    "MN0203": "a principal is written with spiffe://",
    "MN0204": "an ALLOW rule by exclusion only admits clients without identity",
    "MN0205": "trust domain conditions are not supported at layer 4",
    "MN0206": "a principal of another trust domain",
    "MN0212": "a field that the API does not have",
    "MN0213": "an empty selector",
    "MN0214": "two pods have one address",
    "MN0215": "a Service without clusterIP",
    "MN0216": "a policy that is not for this agent",
    "MN0217": "two objects where only the oldest counts",
    "MN0218": "a rule of a DENY policy denies more than written, because it needs layer 7",
    "MN0301": "a routing object, or a part of it, that is not applied at layer 4",
    "MN0302": "a route for a Service of another namespace",
    "MN0303": "a route to what does not exist",
}


class Severity(enum.StrEnum):
    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


class Finding(msgspec.Struct, frozen=True, order=True):
    file: str
    """Path as the operator named the directory, such as `mesh.d/db.yaml`."""
    line: int
    """1-based; 0 when the whole file is meant."""
    severity: Severity
    code: str
    subject: str
    """`Kind namespace/name`, or empty."""
    message: str
    check: str
    is_rejected: bool = False
    """The object (or, without a subject, the whole file) keeps its last good version."""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        subject = f" {self.subject}" if self.subject else ""
        kept = " The last good version, if any, stays in force." if self.is_rejected else ""
        return f"{place}: {self.severity} {self.code}{subject}: {self.message}. {self.check}{kept}"


class Report:
    """Gathers the findings about one object while it is parsed."""

    def __init__(self, file: str, subject: str) -> None:
        self.file = file
        self.subject = subject
        self.findings: list[Finding] = []

    @property
    def is_rejected(self) -> bool:
        return any(finding.is_rejected for finding in self.findings)

    def reject(self, line: int, message: str, check: str, code: str = "IST0106") -> None:
        """The object cannot be applied as written."""
        self._add(line, Severity.ERROR, code, message, check, is_rejected=True)

    def error(self, line: int, message: str, check: str, code: str) -> None:
        """Applied, but it does not do what it seems to do."""
        self._add(line, Severity.ERROR, code, message, check)

    def warn(self, line: int, message: str, check: str, code: str) -> None:
        self._add(line, Severity.WARNING, code, message, check)

    def inform(self, line: int, message: str, check: str, code: str) -> None:
        self._add(line, Severity.INFO, code, message, check)

    def _add(
        self, line: int, severity: Severity, code: str, message: str, check: str, *, is_rejected: bool = False
    ) -> None:
        finding = Finding(self.file, line, severity, code, self.subject, message, check, is_rejected)
        if finding not in self.findings:  # a field may be read twice
            self.findings.append(finding)
