# SPDX-License-Identifier: Apache-2.0
"""The mesh's certificate authority: signs leaves as istiod does. Pure; where its keys come from says `authority.py`.

What a CSR asks for beyond its key is ignored: the identity in the certificate is the one that was authorized. Keys of
workloads never come here, and the authority's own is in no `repr`.

Clocks: a leaf is valid from two minutes before it was signed (a quarter of its life, if that is less), for clocks that
are behind, and never beyond the authority itself. When our own clock says that the authority is not valid yet, or no
longer, nothing is signed.
"""

import dataclasses
import datetime as dt
import ipaddress
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from nodeagent.model.identity import Identity

PrivateKey: TypeAlias = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
PublicKey: TypeAlias = ec.EllipticCurvePublicKey | rsa.RSAPublicKey

DEFAULT_SECONDS = 24 * 3600
MIN_SECONDS = 10
"""Shorter ones would be renewed without a pause."""
MAX_SECONDS = 90 * 24 * 3600
MAX_CSR_CHARACTERS = 16_384
"""A CSR for RSA of 8192 bits has 4,000."""
_BACKDATED = dt.timedelta(minutes=2)
"""For clocks that are behind; a leaf therefore lives two minutes longer than was asked, as istiod's do."""
_BACKDATED_SHARE = 4
"""But by a quarter of its life at most: a ztunnel renews at half of a certificate's whole time, and one for 20 seconds
that was dated back by two minutes was past its half when it came. It asked 300 times a second."""
_AUTHORITY_BACKDATED = dt.timedelta(hours=1)
"""Roots come once in years, so more is given: what peers think of the clock at that moment must not matter."""
ROOT_LIFE = dt.timedelta(days=3650)
INTERMEDIATE_LIFE = dt.timedelta(days=365)
"""Made again at half of it, so that it always outlives the longest leaf."""
SERVING_LIFE = dt.timedelta(days=30)
"""The server makes itself another before half of it has passed."""
CRL_LIFE = dt.timedelta(seconds=MAX_SECONDS) + dt.timedelta(days=1)
"""As long as any leaf lives: the last list of an authority is good until nobody needs it."""
_MIN_RSA_BITS = 2048


class UnusableRequest(ValueError):
    """The CSR or its lifetime cannot be served, whoever asks."""


class AuthorityNotValid(ValueError):
    """By our clock the authority has expired or is not valid yet."""


@dataclasses.dataclass(frozen=True, slots=True)
class Issued:
    chain: tuple[str, ...]
    """PEM: leaf, intermediates one each, then all roots together."""
    serial: int
    not_before: dt.datetime
    not_after: dt.datetime
    key: str
    """Kind and size of what was certified: `EC 256`, `RSA 2048`."""


class CertificateAuthority:
    def __init__(self, key: PrivateKey, chain: Sequence[x509.Certificate], roots: Sequence[x509.Certificate]) -> None:
        """`chain` begins with the certificate of `key` and leads to one of `roots`, which peers are told to trust."""
        self._key = key
        self._issuer = chain[0]
        self._intermediates = [certificate for certificate in chain if certificate not in roots]
        self.chain, self.roots = tuple(chain), tuple(roots)
        self.root_pem = "".join(map(pem, roots))
        self.not_before = max(certificate.not_valid_before_utc for certificate in chain)
        self.not_after = min(certificate.not_valid_after_utc for certificate in chain)

    def sign(self, csr_pem: str, identity: Identity, *, seconds: int, now: dt.datetime) -> Issued:
        """`seconds` of 0 or less means a day. Raises UnusableRequest or AuthorityNotValid."""
        if seconds > MAX_SECONDS:
            raise UnusableRequest(f"a lifetime of {seconds} s is more than {MAX_SECONDS}")
        if 0 < seconds < MIN_SECONDS:
            raise UnusableRequest(f"a lifetime of {seconds} s is less than {MIN_SECONDS}")
        key = _read_request(csr_pem)
        life = dt.timedelta(seconds=seconds if seconds > 0 else DEFAULT_SECONDS)
        leaf = self._leaf(key, [x509.UniformResourceIdentifier(str(identity))], now, life)
        return Issued(
            chain=(pem(leaf), *map(pem, self._intermediates), self.root_pem),
            serial=leaf.serial_number,
            not_before=leaf.not_valid_before_utc,
            not_after=leaf.not_valid_after_utc,
            key=f"{'RSA' if isinstance(key, rsa.RSAPublicKey) else 'EC'} {key.key_size}",
        )

    @property
    def public_key(self) -> PublicKey:
        return self._key.public_key()

    @property
    def may_sign_crls(self) -> bool:
        """One that was made elsewhere may not."""
        try:
            return self._issuer.extensions.get_extension_for_class(x509.KeyUsage).value.crl_sign
        except x509.ExtensionNotFound:
            return True

    def sign_crl(self, serials: Mapping[int, dt.datetime], now: dt.datetime) -> x509.CertificateRevocationList:
        """The list of these certificates of its own, each with the time of its revocation."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._issuer.subject)
            .last_update(now - _BACKDATED)
            .next_update(now + CRL_LIFE)
            .add_extension(x509.CRLNumber(int(now.timestamp())), critical=False)
            .add_extension(_authority_key_identifier(self._issuer), critical=False)
        )
        for serial, at in serials.items():
            revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(at).build()
            builder = builder.add_revoked_certificate(revoked)
        return builder.sign(self._key, hashes.SHA256())

    def serving_certificate(self, names: Sequence[str], now: dt.datetime) -> tuple[bytes, bytes]:
        """Key and chain for the control plane's own server, as PEM; `names` are DNS names and addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = self._leaf(key.public_key(), [_general_name(name) for name in names], now, SERVING_LIFE)
        return key_pem(key), "".join(map(pem, [leaf, *self._intermediates])).encode()

    def _leaf(
        self, key: PublicKey, names: Sequence[x509.GeneralName], now: dt.datetime, life: dt.timedelta
    ) -> x509.Certificate:
        if now < self.not_before:
            raise AuthorityNotValid(f"the authority is valid from {self.not_before:%Y-%m-%dT%H:%M:%SZ} only")
        if now >= self.not_after:
            raise AuthorityNotValid(f"the authority has expired at {self.not_after:%Y-%m-%dT%H:%M:%SZ}")
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self._issuer.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(max(now - min(_BACKDATED, life / _BACKDATED_SHARE), self.not_before))
            .not_valid_after(min(now + life, self.not_after))
            .add_extension(_key_usage(is_authority=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_authority_key_identifier(self._issuer), critical=False)
            # Critical, because there is no subject (RFC 5280 §4.2.1.6).
            .add_extension(x509.SubjectAlternativeName(names), critical=True)
        )
        return builder.sign(self._key, hashes.SHA256())


def root_name(trust_domain: str) -> x509.Name:
    """As istiod names its own; 64 characters are X.520's limit."""
    return x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, trust_domain[:64])])


def make_root(name: x509.Name, now: dt.datetime) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    """P-256, ten years."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _authority(name, key.public_key(), now, ROOT_LIFE).issuer_name(name)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    return key, builder.sign(key, hashes.SHA256())


def make_intermediate(
    root_key: ec.EllipticCurvePrivateKey, root: x509.Certificate, now: dt.datetime
) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    """P-256, a year at most; below it are leaves only."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([*root.subject, x509.NameAttribute(NameOID.COMMON_NAME, "Intermediate")])
    life = min(INTERMEDIATE_LIFE, root.not_valid_after_utc - now)
    builder = (
        _authority(
            name,
            key.public_key(),
            max(now, root.not_valid_before_utc + _AUTHORITY_BACKDATED),
            life,
            signs_crls=True,
        )
        .issuer_name(root.subject)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_authority_key_identifier(root), critical=False)
    )
    return key, builder.sign(root_key, hashes.SHA256())


def _authority(
    name: x509.Name, key: ec.EllipticCurvePublicKey, now: dt.datetime, life: dt.timedelta, *, signs_crls: bool = False
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _AUTHORITY_BACKDATED)
        .not_valid_after(now + life)
        .add_extension(_key_usage(is_authority=True, signs_crls=signs_crls), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _authority_key_identifier(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """By the issuer's own name for its key; one that was made elsewhere may have none."""
    try:
        found = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        key = issuer.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey)  # an authority's, see authority.py
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(key)
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(found)


def _read_request(csr_pem: str) -> PublicKey:
    if len(csr_pem) > MAX_CSR_CHARACTERS:
        raise UnusableRequest(f"the CSR has {len(csr_pem)} characters, more than {MAX_CSR_CHARACTERS}")
    try:
        csr = x509.load_pem_x509_csr(csr_pem.encode())
        is_valid = csr.is_signature_valid
        key = csr.public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature) as error:
        raise UnusableRequest(f"the CSR cannot be read: {error}") from error
    if not is_valid:
        raise UnusableRequest("the CSR is not signed with its own key")
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1):
        return key
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= _MIN_RSA_BITS:
        return key
    raise UnusableRequest("the CSR's key is neither P-256, P-384 nor RSA of 2048 bits")


def _key_usage(*, is_authority: bool, signs_crls: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_authority,
        content_commitment=False,
        key_encipherment=not is_authority,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_authority,
        crl_sign=signs_crls,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def key_pem(key: PrivateKey) -> bytes:
    """PKCS#8, not encrypted."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
