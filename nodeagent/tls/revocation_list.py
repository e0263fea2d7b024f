# SPDX-License-Identifier: Apache-2.0
"""Lists of revoked certificates (RFC 5280 §5) -> the names of what they list.

A list is believed for where it comes from: a file that only the node's administrator may write, or the control plane,
which says who may connect to whom anyway. Its signature is not looked at, since the certificate of its signer need not
be known here. One that has expired still holds: nothing becomes trustworthy by waiting. What is not a whole list of its
own signer's certificates is refused, and whoever asks keeps what he had.
"""

import datetime as dt
from dataclasses import dataclass

from cryptography import x509

from nodeagent.tls.certificate_name import MOST_REVOKED, certificate_name

_BEGIN = b"-----BEGIN X509 CRL-----"
_END = b"-----END X509 CRL-----"


@dataclass(frozen=True, slots=True)
class RevocationLists:
    certificates: frozenset[bytes] = frozenset()
    """Names, as of certificate_name.py."""
    next_update: dt.datetime | None = None
    """When the first of the lists should have been replaced; None if none says so."""


def read_lists(text: bytes) -> RevocationLists:
    """One list as DER, or any number of them as PEM. Raises ValueError, also for none at all."""
    lists = [_load(pem=one) for one in _blocks(text)] if b"-----BEGIN" in text else [_load(der=text)]
    if not lists:
        raise ValueError("there is no revocation list in it")
    names: set[bytes] = set()
    for one in lists:
        issuer = one.issuer.public_bytes()
        names.update(certificate_name(issuer, entry.serial_number) for entry in one)
        if len(names) > MOST_REVOKED:
            raise ValueError(f"more than {MOST_REVOKED} certificates are revoked")
    times = [one.next_update_utc for one in lists if one.next_update_utc is not None]
    return RevocationLists(frozenset(names), min(times, default=None))


def _blocks(text: bytes) -> list[bytes]:
    """What else stands in the file, such as certificates, is no list."""
    blocks = [block.partition(_END) for block in text.split(_BEGIN)[1:]]
    if any(not end for _, end, _ in blocks):
        raise ValueError("a list is cut short")
    return [_BEGIN + body + end for body, end, _ in blocks]


def _load(*, der: bytes = b"", pem: bytes = b"") -> x509.CertificateRevocationList:
    loaded = x509.load_pem_x509_crl(pem) if pem else x509.load_der_x509_crl(der)
    for extension in loaded.extensions:
        match extension.value:
            case x509.DeltaCRLIndicator():
                raise ValueError("it is a list of changes only (a delta CRL)")
            case x509.IssuingDistributionPoint(indirect_crl=True):
                raise ValueError("it lists certificates of others (an indirect CRL)")
            case _:
                pass
    return loaded
