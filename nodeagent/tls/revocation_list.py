# SPDX-License-Identifier: Apache-2.0
"""Lists of revoked certificates (RFC 5280 §5): what they name, and whether they are their issuer's word.

A list is believed when the certificate of its signer is known, may sign lists, and leads to a root that this mesh
trusts. The certificate may stand beside the list, in its file; a root never does. How long it is valid does not matter,
nor does how old the list is: nothing becomes trustworthy by waiting, and a list can only refuse. What is not a whole
list of its own signer's certificates is no list.
"""

import datetime as dt
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from nodeagent.tls.certificate_name import MOST_REVOKED, certificate_name

LIST, CERTIFICATE = b"X509 CRL", b"CERTIFICATE"
"""Labels of PEM blocks."""
_MOST_BESIDE = 64
"""Certificates in one file: each is compared with all that are known."""


@dataclass(frozen=True, slots=True)
class SignedList:
    """As it was read: whether it is its issuer's word, `ListSigners` can say."""

    issuer: x509.Name
    certificates: frozenset[bytes]
    """Names, as of certificate_name.py."""
    next_update: dt.datetime | None
    """When it should have been replaced; None if it does not say."""
    crl: x509.CertificateRevocationList = field(repr=False)


@dataclass(frozen=True, slots=True)
class ListFile:
    lists: tuple[SignedList, ...] = ()
    beside: tuple[x509.Certificate, ...] = ()
    """Certificates that stand in the same file; nobody's word either."""

    @property
    def certificates(self) -> frozenset[bytes]:
        """All that the lists name."""
        return frozenset[bytes]().union(*(one.certificates for one in self.lists))


def read_lists(text: bytes) -> ListFile:
    """One list as DER, or any number of lists and certificates as PEM. Raises ValueError, also without a list."""
    if b"-----BEGIN" not in text:
        return ListFile((_read(x509.load_der_x509_crl(text)),))
    lists, beside = list(blocks(text, LIST)), list(blocks(text, CERTIFICATE))
    if not lists:
        raise ValueError("there is no revocation list in it")
    if len(beside) > _MOST_BESIDE:
        raise ValueError(f"more than {_MOST_BESIDE} certificates stand beside the lists")
    if not all(block.endswith(_end(LIST)) for block in lists):
        raise ValueError("a list is cut short")
    found = ListFile(
        tuple(_read(x509.load_pem_x509_crl(block)) for block in lists),
        tuple(x509.load_pem_x509_certificate(block) for block in beside),
    )
    if len(found.certificates) > MOST_REVOKED:
        raise ValueError(f"more than {MOST_REVOKED} certificates are revoked")
    return found


def blocks(text: bytes, label: bytes) -> Iterator[bytes]:
    """The PEM blocks of this kind; one without an end as it is."""
    begin = b"-----BEGIN " + label + b"-----"
    for part in text.split(begin)[1:]:
        body, end, _ = part.partition(_end(label))
        yield begin + body + end


def _end(label: bytes) -> bytes:
    return b"-----END " + label + b"-----"


def _read(crl: x509.CertificateRevocationList) -> SignedList:
    for extension in crl.extensions:
        match extension.value:
            case x509.DeltaCRLIndicator():
                raise ValueError("it is a list of changes only (a delta CRL)")
            case x509.IssuingDistributionPoint(indirect_crl=True):
                raise ValueError("it lists certificates of others (an indirect CRL)")
            case _:
                pass
    if len(crl) > MOST_REVOKED:
        raise ValueError(f"more than {MOST_REVOKED} certificates are revoked")
    issuer = crl.issuer.public_bytes()
    names = frozenset(certificate_name(issuer, entry.serial_number) for entry in crl)
    return SignedList(crl.issuer, names, crl.next_update_utc, crl)


class ListSigners:
    """Who may sign lists: the roots, and what leads to them."""

    def __init__(self, roots: Iterable[x509.Certificate], others: Iterable[x509.Certificate] = ()) -> None:
        self.roots = tuple(roots)
        self.known = _leading_to(self.roots, others)
        """Certificates of authorities, the roots among them."""

    def with_others(self, others: Iterable[x509.Certificate]) -> "ListSigners":
        return ListSigners(self.roots, [*self.known, *others])

    def refusal(self, one: SignedList) -> str:
        """Why the list is not believed; empty if it is."""
        named = [certificate for certificate in self.known if certificate.subject == one.issuer]
        if not named:
            return "its signer's certificate is not known, or does not lead to a root that this mesh trusts"
        allowed = [certificate for certificate in named if _may_sign_lists(certificate)]
        if not allowed:
            return "its signer's certificate has no key usage cRLSign"
        return "" if any(_is_signed_by(one.crl, certificate) for certificate in allowed) else "its signature is wrong"


def _leading_to(
    roots: tuple[x509.Certificate, ...], others: Iterable[x509.Certificate]
) -> tuple[x509.Certificate, ...]:
    known, left = list(dict.fromkeys(roots)), [one for one in dict.fromkeys(others) if _is_authority(one)]
    for issuer in known:  # grows while it is gone through
        issued = [one for one in left if one not in known and _is_issued_by(one, issuer)]
        known += issued
    return tuple(known)


def _is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):  # another name, or key, or a strange one
        return False
    return True


def _is_authority(certificate: x509.Certificate) -> bool:
    """A workload must not sign lists, though its certificate leads to a root too."""
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):  # ValueError: extensions that cannot be read
        return False


def _may_sign_lists(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.KeyUsage).value.crl_sign
    except x509.ExtensionNotFound:
        return True  # RFC 5280 §6.3.3 (f): only if it is there it must say so
    except ValueError:
        return False


def _is_signed_by(crl: x509.CertificateRevocationList, certificate: x509.Certificate) -> bool:
    try:
        return crl.is_signature_valid(certificate.public_key())  # type: ignore[arg-type]  # TypeError for what cannot
    except (TypeError, ValueError, UnsupportedAlgorithm):
        return False
