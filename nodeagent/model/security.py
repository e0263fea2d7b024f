# SPDX-License-Identifier: Apache-2.0
"""What an agent is told of security beyond Istio's resources, as nodeagent/proto/extension.proto describes it.

Nothing of it is needed: without these values an agent judges as a ztunnel does.
"""

from collections.abc import Iterator
from typing import ClassVar

import msgspec

from nodeagent.model.policy import Policy
from nodeagent.model.workload import Workload


class DryRun(msgspec.Struct, frozen=True, kw_only=True, tag="dry-run", gc=False):
    """A policy that decides nothing, and whose verdict is told."""

    PREFIX: ClassVar[str] = "dry-run/"

    policy: Policy
    namespace: str = ""
    """Whose workloads it is about; empty: everybody's."""
    selector: dict[str, str] = {}
    """Labels of those of them that it is about; empty: all."""

    @property
    def name(self) -> str:
        return self.PREFIX + self.policy.key


class TrustDomains(msgspec.Struct, frozen=True, kw_only=True, tag="trust-domains", gc=False):
    """The mesh's trust domain and its aliases: an identity of one is as good as the same of another."""

    NAME: ClassVar[str] = "trust-domains"

    domains: frozenset[str]

    @property
    def name(self) -> str:
        return self.NAME


class Revocations(msgspec.Struct, frozen=True, kw_only=True, tag="revocations", gc=False):
    """Certificates that nobody is to be believed by, according to one source."""

    PREFIX: ClassVar[str] = "revocations/"

    source: str
    """Who says so; lists of several sources hold together."""
    certificates: frozenset[bytes]
    """Names as nodeagent/tls/certificate_name.py makes them."""

    @property
    def name(self) -> str:
        return self.PREFIX + self.source


class PolicyOrigin(msgspec.Struct, frozen=True, kw_only=True, tag="policy-origin", gc=False):
    """Where a policy is written. Nothing is decided by it: it is for who has to change the policy."""

    PREFIX: ClassVar[str] = "origin/"

    policy: str
    """`ns/name`."""
    file: str
    line: int

    @property
    def name(self) -> str:
        return self.PREFIX + self.policy

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


SecurityExtension = DryRun | TrustDomains | Revocations


class Security:
    """All that is known of it, found by what is asked."""

    def __init__(self) -> None:
        self.trust_domains: frozenset[str] = frozenset()
        """Empty: only the domain that an identity has itself."""
        self.revoked: frozenset[bytes] = frozenset()
        self._dry_runs: dict[str, dict[str, DryRun]] = {}
        """By namespace, then name; those about everybody under the empty one."""
        self._lists: dict[str, Revocations] = {}

    def __bool__(self) -> bool:
        """Whether anything is said."""
        return bool(self._dry_runs or self._lists or self.trust_domains)

    @property
    def has_dry_runs(self) -> bool:
        return bool(self._dry_runs)

    def dry_runs(self, workload: Workload, labels: dict[str, str]) -> Iterator[Policy]:
        """Those that are about this workload, which has these labels."""
        for namespace in ("", workload.namespace):
            for dry_run in self._dry_runs.get(namespace, {}).values():
                if dry_run.selector.items() <= labels.items():
                    yield dry_run.policy

    @property
    def every_dry_run(self) -> dict[str, Policy]:
        """By `ns/name`."""
        return {one.policy.key: one.policy for about in self._dry_runs.values() for one in about.values()}

    def add(self, extension: SecurityExtension) -> None:
        match extension:
            case DryRun():
                self._dry_runs.setdefault(extension.namespace, {})[extension.name] = extension
            case TrustDomains():
                self.trust_domains = extension.domains
            case Revocations():
                self._lists[extension.name] = extension
                self._unite()

    def remove(self, extension: SecurityExtension) -> None:
        match extension:
            case DryRun():
                about = self._dry_runs.get(extension.namespace, {})
                about.pop(extension.name, None)
                if not about:
                    self._dry_runs.pop(extension.namespace, None)
            case TrustDomains():
                self.trust_domains = frozenset()
            case Revocations():
                self._lists.pop(extension.name, None)
                self._unite()

    def _unite(self) -> None:
        self.revoked = frozenset[bytes]().union(*(one.certificates for one in self._lists.values()))
