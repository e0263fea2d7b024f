# SPDX-License-Identifier: Apache-2.0
"""What the CA answered -> a bundle, or the reason why it is not used. Pure: the time is an argument.

The rules: the first element is the leaf, the last one the trust bundle (one or more roots), what lies between are
intermediates. The leaf must certify our key for exactly the identity we asked for, be valid now, and lead to a root of
that same bundle. A CA that answers anything else is broken or somebody else; the old certificate stays in use.
"""

from collections.abc import Sequence
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from nodeagent.certs.bundle import CertificateBundle
from nodeagent.certs.csr import SigningRequest
from nodeagent.errors import ControlPlaneError

NOT_YET = "is valid from"
"""Of a refusal that tells of clocks: `nodeagent check --proxy` looks for it in the last error of each."""


class BadCertificate(ControlPlaneError):
    """The CA's answer cannot be used."""

    check = "Is the CA the one of this mesh, and do its clock and this node's agree?"


def read_answer(request: SigningRequest, elements: Sequence[str], now: datetime) -> CertificateBundle:
    """Raises BadCertificate, which names the rule that is broken."""
    if len(elements) < 2:
        raise BadCertificate(
            f"{request.identity}: the CA answered {len(elements)} elements instead of a chain and roots"
        )
    try:
        (leaf, *intermediates), roots = _certificates(elements[:-1]), _certificates(elements[-1:])
    except ValueError as error:
        raise BadCertificate(f"{request.identity}: the CA answered something that is no certificate") from error
    roots = sorted(set(roots), key=lambda root: root.public_bytes(Encoding.DER))
    intermediates = [certificate for certificate in intermediates if certificate not in roots]
    why = _refusal(request, leaf, now)
    if not why and not _leads_to(leaf, intermediates, roots, now):
        why = "does not lead to any root that came with it and is valid now"
    if why:
        raise BadCertificate(f"{request.identity}: the CA's certificate {why}")
    return CertificateBundle(
        key_pem=request.key_pem,
        chain_pem=_pem([leaf, *intermediates]),
        roots_pem=_pem(roots),
        serial=f"{leaf.serial_number:x}",
        not_before=leaf.not_valid_before_utc,
        not_after=leaf.not_valid_after_utc,
    )


def is_trusted(bundle: CertificateBundle, roots_pem: bytes, now: datetime) -> bool:
    """Whether peers that trust these roots accept this bundle's chain."""
    leaf, *intermediates = x509.load_pem_x509_certificates(bundle.chain_pem)
    return _leads_to(leaf, intermediates, x509.load_pem_x509_certificates(roots_pem), now)


def _refusal(request: SigningRequest, leaf: x509.Certificate, now: datetime) -> str:
    """Why this leaf is not what was asked for; empty if it is."""
    names = _names(leaf)
    if names != [str(request.identity)]:
        return f"is for {', '.join(names)[:200] or 'nobody'}"
    if leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) != request.public_key:
        return "is for another key"
    if now < leaf.not_valid_before_utc:
        return f"{NOT_YET} {leaf.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ} only"
    if now >= leaf.not_valid_after_utc:
        return f"has expired at {leaf.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}"
    return ""


def _names(leaf: x509.Certificate) -> list[str]:
    """Every alternative name, as peers may read any of them; printable, for the message that quotes them."""
    try:
        extension = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    except ValueError:  # duplicate or malformed extensions
        return ["something unreadable"]
    return [
        name.value if isinstance(name, x509.UniformResourceIdentifier) and name.value.isprintable() else repr(name)
        for name in extension.value
    ]


def _leads_to(
    leaf: x509.Certificate,
    intermediates: Sequence[x509.Certificate],
    roots: Sequence[x509.Certificate],
    now: datetime,
) -> bool:
    """Follows the signatures. Peers check more (extensions, path lengths); this finds a CA that is half replaced."""
    current = leaf
    for _ in range(len(intermediates) + 1):  # each step uses one up, or it is a circle
        if any(_is_issued_by(current, root, now) for root in roots):
            return True
        issuer = next((one for one in intermediates if one != current and _is_issued_by(current, one, now)), None)
        if issuer is None:
            return False
        current = issuer
    return False


def _is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate, now: datetime) -> bool:
    if not issuer.not_valid_before_utc <= now < issuer.not_valid_after_utc:
        return False
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):  # another name, a key that cannot sign, another key
        return False
    return True


def _certificates(elements: Sequence[str]) -> list[x509.Certificate]:
    """Raises ValueError for an element without a certificate."""
    return [one for element in elements for one in x509.load_pem_x509_certificates(element.encode())]


def _pem(certificates: Sequence[x509.Certificate]) -> bytes:
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)
