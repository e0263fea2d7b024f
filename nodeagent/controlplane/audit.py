# SPDX-License-Identifier: Apache-2.0
"""One line for each request for a certificate: who asked, for which identity, and what became of it.

Fields are `name=value` as in the access log; what a caller chose is quoted, escaped and bounded. The lines come
whatever the log level is. There is never a key, a token or a CSR in them.
"""

import logging
from collections.abc import Mapping

from nodeagent.controlplane.ca import Issued
from nodeagent.logs.escape import bare, quoted

_log = logging.getLogger(__name__)
_log.setLevel(logging.INFO)


def issued(*, node: str, peer: str, identity: str, certificate: Issued) -> None:
    fields = {
        "node": bare(node),
        "peer": bare(peer),
        "identity": quoted(identity),
        "serial": f"{certificate.serial:x}",
        "not_before": f"{certificate.not_before:%Y-%m-%dT%H:%M:%SZ}",
        "not_after": f"{certificate.not_after:%Y-%m-%dT%H:%M:%SZ}",
        "key": quoted(certificate.key),
    }
    _log.info("certificate issued %s", _line(fields))


def refused(*, node: str, peer: str, identity: str, reason: str, why: str) -> None:
    """`node` is empty for a caller without a good token."""
    fields = {
        "node": bare(node),
        "peer": bare(peer),
        "identity": quoted(identity),
        "reason": bare(reason),
        "why": quoted(why),
    }
    _log.warning("certificate refused %s", _line(fields))


def _line(fields: Mapping[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in fields.items())
