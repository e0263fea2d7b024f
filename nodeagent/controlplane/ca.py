# SPDX-License-Identifier: Apache-2.0
"""The mesh's certificate authority: a root of its own (P-256, ten years), and leaves as istiod signs them.

What a CSR asks for beyond its key is ignored: the identity in the certificate is the one that was authorized. Keys of
workloads never come here. The root's key lies in the state directory, readable by its owner alone.
"""

import datetime as dt
import ipaddress
from collections.abc import Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from nodeagent.controlplane.state import PUBLIC, SECRET, StateDirectory
from nodeagent.errors import ConfigError
from nodeagent.model.identity import Identity

_KEY_FILE, _CERTIFICATE_FILE = "root-key.pem", "root-cert.pem"
DEFAULT_SECONDS = 24 * 3600
MAX_SECONDS = 90 * 24 * 3600
_BACKDATED = dt.timedelta(minutes=2)
"""For clocks that are behind; a leaf therefore lives two minutes longer than was asked, as istiod's do."""
_ROOT_LIFE = dt.timedelta(days=3650)
SERVING_LIFE = dt.timedelta(days=30)
"""The server makes itself another before half of it has passed."""
_MIN_RSA_BITS = 2048


class UnusableRequest(ValueError):
    """The CSR or its lifetime cannot be served, whoever asks."""


class CertificateAuthority:
    def __init__(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self._key = key
        self._certificate = certificate
        self.root_pem = _pem(certificate)

    def sign(self, csr_pem: str, identity: Identity, *, seconds: int, now: dt.datetime) -> list[str]:
        """Leaf and root, as PEM. `seconds` of 0 or less means a day. Raises UnusableRequest."""
        if seconds > MAX_SECONDS:
            raise UnusableRequest(f"a lifetime of {seconds} s is more than {MAX_SECONDS}")
        key = _public_key(csr_pem)
        life = dt.timedelta(seconds=seconds if seconds > 0 else DEFAULT_SECONDS)
        name = x509.UniformResourceIdentifier(str(identity))
        return [_pem(self._leaf(key, [name], now, life)), self.root_pem]

    def serving_certificate(self, names: Sequence[str], now: dt.datetime) -> tuple[bytes, bytes]:
        """Key and chain for the control plane's own server, as PEM; `names` are DNS names and addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = self._leaf(key.public_key(), [_general_name(name) for name in names], now, SERVING_LIFE)
        return _key_pem(key), (_pem(leaf) + self.root_pem).encode()

    def _leaf(
        self,
        key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey,
        names: Sequence[x509.GeneralName],
        now: dt.datetime,
        life: dt.timedelta,
    ) -> x509.Certificate:
        not_after = min(now + life, self._certificate.not_valid_after_utc)
        issuer = self._certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self._certificate.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _BACKDATED)
            .not_valid_after(not_after)
            .add_extension(_key_usage(is_authority=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer), critical=False)
            # Critical, because there is no subject (RFC 5280 §4.2.1.6).
            .add_extension(x509.SubjectAlternativeName(names), critical=True)
        )
        return builder.sign(self._key, hashes.SHA256())


def open_authority(state: StateDirectory, trust_domain: str, now: dt.datetime) -> CertificateAuthority:
    """The authority of this state directory, made when there is none yet.

    Raises ConfigError for half a root, a damaged one, one that has expired, or a key that others may read.
    """
    key_pem, certificate_pem = state.read_secret(_KEY_FILE), state.read(_CERTIFICATE_FILE)
    if key_pem is None and certificate_pem is None:
        return _make_authority(state, trust_domain, now)
    if key_pem is None or certificate_pem is None:
        missing = _KEY_FILE if key_pem is None else _CERTIFICATE_FILE
        raise ConfigError(
            f"{state.path / missing} is missing, its other half is there",
            check="Restore it; or remove the other half too, and give every agent the root that is made then.",
        )
    try:
        key = serialization.load_pem_private_key(key_pem, None)
        certificate = x509.load_pem_x509_certificate(certificate_pem)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"root in {state.path} is damaged: {error}", check="Restore it from a backup.") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise ConfigError(f"{_KEY_FILE} is not the key of {_CERTIFICATE_FILE} in {state.path}", check="Restore both.")
    if certificate.not_valid_after_utc <= now:
        raise ConfigError(
            f"root in {state.path} expired {certificate.not_valid_after_utc:%Y-%m-%d}",
            check="Remove both halves; every agent then needs the root that is made.",
        )
    return CertificateAuthority(key, certificate)


def _make_authority(state: StateDirectory, trust_domain: str, now: dt.datetime) -> CertificateAuthority:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, trust_domain[:64])])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + _ROOT_LIFE)
        .add_extension(_key_usage(is_authority=True), critical=True)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    state.write(_KEY_FILE, _key_pem(key), SECRET)
    state.write(_CERTIFICATE_FILE, _pem(certificate).encode(), PUBLIC)
    return CertificateAuthority(key, certificate)


def _public_key(csr_pem: str) -> ec.EllipticCurvePublicKey | rsa.RSAPublicKey:
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


def _key_usage(*, is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_authority,
        content_commitment=False,
        key_encipherment=not is_authority,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_authority,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
