# SPDX-License-Identifier: Apache-2.0
"""The SPIFFE identity of a workload."""

from typing import Self

import msgspec


class Identity(msgspec.Struct, frozen=True, array_like=True, order=True, gc=False):
    """`spiffe://<trust domain>/ns/<namespace>/sa/<service account>`. Code that holds one never checks it again."""

    trust_domain: str
    namespace: str
    service_account: str

    @classmethod
    def parse(cls, uri: str) -> Self:
        """Raises ValueError unless `uri` has exactly the five parts of an Istio SPIFFE id, none empty or odd."""
        match uri.split("/"):
            case ["spiffe:", "", domain, "ns", namespace, "sa", account] if (
                domain and namespace and account and uri.isascii() and uri.isprintable() and " " not in uri
            ):
                return cls(domain, namespace, account)
            case _:
                raise ValueError(f"{uri!r} is not spiffe://<trust domain>/ns/<namespace>/sa/<service account>")

    @property
    def principal(self) -> str:
        """As policies name it: without the scheme."""
        return f"{self.trust_domain}/ns/{self.namespace}/sa/{self.service_account}"

    def __str__(self) -> str:
        return f"spiffe://{self.principal}"
