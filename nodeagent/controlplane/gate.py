# SPDX-License-Identifier: Apache-2.0
"""Which node a call comes from: the bearer token in its metadata says so. Pure but for the clock it is given."""

import dataclasses
import time
from collections.abc import Callable, Iterable

from nodeagent.controlplane.token import TokenRefused, verify_token

Metadata = Iterable[tuple[str, str | bytes]] | None


@dataclasses.dataclass(frozen=True, slots=True)
class Gate:
    token_key: bytes
    clock: Callable[[], float] = time.time

    def node_of(self, metadata: Metadata) -> str:
        """Raises TokenRefused."""
        text = _value(metadata, "authorization")
        scheme, _, token = text.partition(" ")
        if not text:
            raise TokenRefused("no token")
        if scheme.lower() != "bearer":
            raise TokenRefused("no bearer token")
        return verify_token(self.token_key, token.strip(), now=self.clock())


def cluster_of(metadata: Metadata) -> str:
    """The cluster that the caller says it is of; empty when it does not."""
    return _value(metadata, "clusterid")


def _value(metadata: Metadata, name: str) -> str:
    for key, value in metadata or ():
        if key.lower() == name:
            return value.decode("latin-1") if isinstance(value, bytes) else value
    return ""
