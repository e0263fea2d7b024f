# SPDX-License-Identifier: Apache-2.0
"""What a worker needs to be an identity."""

from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, slots=True)
class CertificateBundle:
    """A key, its certificate, and whom to trust. PEM bytes; the key does not appear in `repr`."""

    key_pem: bytes = field(repr=False)
    """PKCS#8, not encrypted."""
    chain_pem: bytes = field(repr=False)
    """Leaf first, then intermediates; no root."""
    roots_pem: bytes = field(repr=False)
    """The trust bundle of the mesh, in a canonical order, so that equal bundles are equal bytes."""
    serial: str
    """Hexadecimal, lower case."""
    not_before: datetime
    """With time zone, as is `not_after`."""
    not_after: datetime
