# SPDX-License-Identifier: Apache-2.0
"""What is wrong or doubtful in the mesh directory, with file and line.

Codes: `IST…` mean what Istio's analyzers mean by them; `MN…` are ours (`CODES` lists them). A finding may reject its
object, which then keeps its last good version; everything else is applied as it stands.
"""

import enum

import msgspec

CODES = {
    "IST0101": "a referenced object does not exist",
    "IST0103": "a pod without the sidecar that its namespace asks for",
    "IST0106": "a field is missing, of the wrong type or has an impossible value",
    "IST0107": "an annotation on an object of another kind",
    "IST0108": "an annotation that Istio does not have",
    "IST0110": "two Sidecars select one pod",
    "IST0111": "two Sidecars of one namespace without selector",
    "IST0112": "a destination with several ports, and none is named",
    "IST0116": "two Services have one port with different protocols",
    "IST0118": "a port whose name does not begin with a protocol",
    "IST0127": "a selector matches no workload",
    "IST0130": "a routing rule that is never reached",
    "IST0131": "a match that is never reached",
    "IST0133": "what is possible and hardly meant",
    "IST0134": "a ServiceEntry without addresses",
    "IST0137": "two Services send to one port of the same pods",
    "IST0166": "a selector where a Gateway asks for targetRefs",
    "IST0167": "a policy that nothing reads",
    "IST0171": "a condition of the object's status is negative",
    "IST0173": "a subset that selects no pod",
    "IST0174": "a DestinationRule of an unknown host",
    "IST0177": "two ServiceEntries give one port two protocols",
    "MN0001": "a file cannot be read",
    "MN0002": "not YAML",
    "MN0003": "a key occurs twice",
    "MN0004": "an object occurs twice",
    "MN0005": "a document that is not an object with kind and name",
    "MN0006": "a kind that is not used",
    "MN0201": "a rule of a DENY policy never fires, because it needs layer 7",
    "MN0202": "a rule of an ALLOW policy is left out, because it needs layer 7",
    "MN0203": "a principal is written with spiffe://",
    "MN0204": "an ALLOW rule by exclusion only admits clients without identity",
    "MN0205": "a trust domain condition that cannot be told to agents",
    "MN0206": "a principal of another trust domain",
    "MN0207": "a port that none of the selected pods has",
    "MN0208": "a policy about pods that are not captured",
    "MN0209": "a policy names clients that have no identity",
    "MN0210": "a policy or rule that changes nothing",
    "MN0211": "address blocks of one family for pods that have two",
    "MN0212": "a field that the API does not have",
    "MN0213": "an empty selector",
    "MN0214": "two pods have one address",
    "MN0215": "a Service without clusterIP",
    "MN0216": "a policy that is not for this agent",
    "MN0217": "two objects where only the oldest counts",
    "MN0218": "a rule of a DENY policy denies more than written, because it needs layer 7",
    "MN0219": "an ALLOW policy opens workloads without labels, for which it was not written",
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
    field: str = ""
    """Path in the object, such as `spec.rules[0].to[1].operation.ports[0]`; empty when the whole object is meant."""

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file

    def __str__(self) -> str:
        subject = f" {self.subject}" if self.subject else ""
        field = f" {self.field}" if self.field else ""
        kept = " The last good version, if any, stays in force." if self.is_rejected else ""
        return f"{self.place}: {self.severity} {self.code}{subject}{field}: {self.message}. {self.check}{kept}"


class Report:
    """Gathers the findings about one object while it is parsed."""

    def __init__(self, file: str, subject: str) -> None:
        self.file = file
        self.subject = subject
        self.findings: list[Finding] = []

    @property
    def is_rejected(self) -> bool:
        return any(finding.is_rejected for finding in self.findings)

    def reject(self, line: int, message: str, check: str, code: str = "IST0106", *, field: str = "") -> None:
        """The object cannot be applied as written."""
        self._add(Finding(self.file, line, Severity.ERROR, code, self.subject, message, check, True, field))  # noqa: FBT003

    def error(self, line: int, message: str, check: str, code: str, *, field: str = "") -> None:
        """Applied, but it does not do what it seems to do."""
        self._add(Finding(self.file, line, Severity.ERROR, code, self.subject, message, check, field=field))

    def warn(self, line: int, message: str, check: str, code: str, *, field: str = "") -> None:
        self._add(Finding(self.file, line, Severity.WARNING, code, self.subject, message, check, field=field))

    def inform(self, line: int, message: str, check: str, code: str, *, field: str = "") -> None:
        self._add(Finding(self.file, line, Severity.INFO, code, self.subject, message, check, field=field))

    def _add(self, finding: Finding) -> None:
        if not any(_says(one, finding) for one in self.findings):
            self.findings.append(finding)


def _says(one: Finding, other: Finding) -> bool:
    """A field may be read twice; and one that is refused needs no word about not being used."""
    is_there = (one.code, one.line, one.field) == (other.code, other.line, other.field)
    is_refused_already = one.is_rejected and not other.is_rejected
    return is_there and (one.message == other.message or is_refused_already)
