# SPDX-License-Identifier: Apache-2.0
"""Where the authority's keys and certificates come from: made in the state directory, or given as files.

Made at the first start: a root and, below it, an intermediate, which alone signs. Files of the state directory:

    root-cert.pem          the roots that peers trust: one, or two while they are being exchanged
    root-key.pem           the key of the root in use. It may be taken away to a safe place: then intermediates
                           cannot be made, and the one in use signs until it expires
    intermediate-cert.pem, intermediate-key.pem
    next-root-key.pem      of the root that is trusted already and not used yet

The root in use is the one of `root-cert.pem` to which `root-key.pem` fits. Given as files (`--ca-dir`) they have the
names of Istio's Secret `cacerts`: ca-cert.pem, ca-key.pem, cert-chain.pem, root-cert.pem.

Changed files are read again while the control plane runs. What cannot be used then is reported, and the former
authority signs on; at the start it is an error.
"""

import datetime as dt
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from nodeagent.controlplane.ca import (
    INTERMEDIATE_LIFE,
    CertificateAuthority,
    PrivateKey,
    key_pem,
    make_intermediate,
    make_root,
    pem,
    root_name,
)
from nodeagent.controlplane.state import PUBLIC, SECRET, StateDirectory
from nodeagent.errors import ConfigError, NodeagentError

_log = logging.getLogger(__name__)

ROOTS, ROOT_KEY, NEXT_ROOT_KEY = "root-cert.pem", "root-key.pem", "next-root-key.pem"
INTERMEDIATE, INTERMEDIATE_KEY = "intermediate-cert.pem", "intermediate-key.pem"
GIVEN_CERTIFICATE, GIVEN_KEY, GIVEN_CHAIN, GIVEN_ROOTS = "ca-cert.pem", "ca-key.pem", "cert-chain.pem", "root-cert.pem"
_MAX_CHAIN = 10
_RENEWAL_TRIES = dt.timedelta(hours=1)
"""Between looks at an authority that is past the half of its life: it may be one that nobody can renew here."""


def open_authority(state: StateDirectory, trust_domain: str, now: dt.datetime) -> CertificateAuthority:
    """The authority of this state directory; what is missing is made.

    Raises ConfigError for half a root, a damaged one, one that has expired, or a key that others may read.
    """
    key_text, roots_text = state.read_secret(ROOT_KEY), state.read(ROOTS)
    if key_text is None and roots_text is None:
        key, root = make_root(root_name(trust_domain), now)
        state.write(ROOT_KEY, key_pem(key), SECRET)
        state.write(ROOTS, pem(root).encode(), PUBLIC)
        return _below(state, key, root, [root], now)
    if roots_text is None:
        raise _half(state, ROOTS)
    roots = _certificates(roots_text, state.path / ROOTS)
    if key_text is None:
        found = _find_intermediate(state, roots, now)
        if found is None:
            raise _half(state, ROOT_KEY)
        return _checked(*found, roots, state.path / INTERMEDIATE, now)
    key = _own_key(key_text, state.path / ROOT_KEY)
    root = root_of(key, roots, state.path)
    if root.not_valid_after_utc <= now:
        raise ConfigError(
            f"root in {state.path} expired {root.not_valid_after_utc:%Y-%m-%d}",
            check="Remove it with its key and the intermediate; every agent then needs the root that is made.",
        )
    return _below(state, key, root, roots, now)


def open_given(directory: Path, now: dt.datetime) -> CertificateAuthority:
    """The authority of Istio's four files. Raises ConfigError or MissingPrivilege, and names the file."""
    files = StateDirectory(directory, is_made=False)
    texts = {name: files.read(name) for name in (GIVEN_CERTIFICATE, GIVEN_CHAIN, GIVEN_ROOTS)}
    key_text = files.read_secret(GIVEN_KEY)
    missing = [name for name, text in {**texts, GIVEN_KEY: key_text}.items() if text is None and name != GIVEN_CHAIN]
    if missing or key_text is None:
        raise ConfigError(
            f"{directory}: {', '.join(missing)} is missing", check="Expected are the files of Istio's Secret cacerts."
        )
    key = _key(key_text, directory / GIVEN_KEY)
    issuer, *others = _certificates(texts[GIVEN_CERTIFICATE] or b"", directory / GIVEN_CERTIFICATE)
    if texts[GIVEN_CHAIN]:
        others += _certificates(texts[GIVEN_CHAIN] or b"", directory / GIVEN_CHAIN)
    roots = _certificates(texts[GIVEN_ROOTS] or b"", directory / GIVEN_ROOTS)
    if key.public_key() != issuer.public_key():
        raise ConfigError(
            f"{GIVEN_KEY} is not the key of {GIVEN_CERTIFICATE} in {directory}", check="Are they of one Secret?"
        )
    return _checked(key, [issuer, *others], roots, directory / GIVEN_CERTIFICATE, now)


class AuthoritySource:
    """The authority in use. `open_now` reads or makes it; `files` say when it is to be asked again."""

    def __init__(
        self, open_now: Callable[[dt.datetime], CertificateAuthority], files: Sequence[Path], now: dt.datetime
    ) -> None:
        """Raises what `open_now` raises."""
        self._open, self._files = open_now, files
        self._seen = self._look()
        self._complaint = ""
        self.current = open_now(now)
        self._seen, self._opened_at = self._look(), now

    def refresh(self, now: dt.datetime) -> None:
        """Takes up files that have changed, and makes another intermediate when it is time."""
        seen = self._look()
        due = max(self.current.not_after - INTERMEDIATE_LIFE / 2, self._opened_at + _RENEWAL_TRIES)
        if seen == self._seen and now < due:
            return
        self._opened_at = now
        try:
            opened = self._open(now)
        except (NodeagentError, OSError) as error:
            if str(error) != self._complaint:
                _log.error("%s. %s The former authority signs on.", error, getattr(error, "check", ""))
            self._complaint = str(error)
            return
        self._complaint = ""
        if (opened.chain, opened.roots) != (self.current.chain, self.current.roots):
            self.current = opened
            _log.info("signing by another authority: %s", describe(opened))
        self._seen = self._look()

    def _look(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(map(_signature, self._files))


def files_of(directory: Path, *, is_given: bool) -> list[Path]:
    own = (ROOTS, ROOT_KEY, INTERMEDIATE, INTERMEDIATE_KEY)
    given = (GIVEN_CERTIFICATE, GIVEN_KEY, GIVEN_CHAIN, GIVEN_ROOTS)
    return [directory / name for name in (given if is_given else own)]


def describe(authority: CertificateAuthority) -> str:
    issuer = authority.chain[0]
    count = len(authority.roots)
    return (
        f"{issuer.subject.rfc4514_string()} until {authority.not_after:%Y-%m-%d}, "
        f"{count} root{'' if count == 1 else 's'} trusted"
    )


def root_of(key: PrivateKey, roots: Sequence[x509.Certificate], path: Path) -> x509.Certificate:
    """Raises ConfigError when the key is of none of them."""
    for root in roots:
        if root.public_key() == key.public_key():
            return root
    raise ConfigError(f"{ROOT_KEY} is not the key of {ROOTS} in {path}", check="Restore both.")


def _below(
    state: StateDirectory,
    key: ec.EllipticCurvePrivateKey,
    root: x509.Certificate,
    roots: list[x509.Certificate],
    now: dt.datetime,
) -> CertificateAuthority:
    """By the intermediate that is there, or by another one if it is not of this root or has passed half of its life."""
    found = _find_intermediate(state, [root], now)
    if found is not None:
        certificate = found[1][0]
        half = certificate.not_valid_after_utc - INTERMEDIATE_LIFE / 2
        if now < half or certificate.not_valid_after_utc >= root.not_valid_after_utc:
            return CertificateAuthority(*found, roots)
    made, certificate = make_intermediate(key, root, now)
    state.write(INTERMEDIATE_KEY, key_pem(made), SECRET)
    state.write(INTERMEDIATE, pem(certificate).encode(), PUBLIC)
    return CertificateAuthority(made, [certificate, root], roots)


def _find_intermediate(
    state: StateDirectory, roots: Sequence[x509.Certificate], now: dt.datetime
) -> tuple[PrivateKey, list[x509.Certificate]] | None:
    """Key and chain. None when there is none that is whole, valid and of one of these roots: another can be made."""
    key_text, text = state.read_secret(INTERMEDIATE_KEY), state.read(INTERMEDIATE)
    if key_text is None or text is None:
        return None
    key = _own_key(key_text, state.path / INTERMEDIATE_KEY)
    certificate = _certificates(text, state.path / INTERMEDIATE)[0]
    if key.public_key() != certificate.public_key() or certificate.not_valid_after_utc <= now:
        return None
    issuer = next((root for root in roots if _is_issued_by(certificate, root)), None)
    return None if issuer is None else (key, [certificate, issuer])


def _checked(
    key: PrivateKey,
    certificates: Sequence[x509.Certificate],
    roots: Sequence[x509.Certificate],
    path: Path,
    now: dt.datetime,
) -> CertificateAuthority:
    chain = _chain(certificates, roots)
    if chain is None:
        raise ConfigError(f"{path} does not lead to any root of {ROOTS}", check="Is cert-chain.pem complete?")
    for certificate in chain:
        if not _may_sign(certificate):
            raise ConfigError(
                f"{path}: {certificate.subject.rfc4514_string()} is not a CA certificate",
                check="It needs the basic constraint CA:TRUE and, if it has key usages, keyCertSign.",
            )
    authority = CertificateAuthority(key, chain, roots)
    if not authority.not_before <= now < authority.not_after:
        raise ConfigError(
            f"{path} and its chain are valid from {authority.not_before:%Y-%m-%d} to {authority.not_after:%Y-%m-%d}",
            check="Is this machine's clock right? If it is, renew them.",
        )
    return authority


def _chain(
    certificates: Sequence[x509.Certificate], roots: Sequence[x509.Certificate]
) -> list[x509.Certificate] | None:
    """From the first certificate to a root, the root included; None when none is reached."""
    chain = [certificates[0]]
    while len(chain) < _MAX_CHAIN:
        if chain[-1] in roots:
            return chain
        last = chain[-1]
        issuers = (one for one in [*roots, *certificates] if one not in chain and _is_issued_by(last, one))
        issuer = next(issuers, None)
        if issuer is None:
            return None
        chain.append(issuer)
    return None


def _is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _may_sign(certificate: x509.Certificate) -> bool:
    found = {type(extension.value): extension.value for extension in certificate.extensions}
    constraints, usages = found.get(x509.BasicConstraints), found.get(x509.KeyUsage)
    if not isinstance(constraints, x509.BasicConstraints) or not constraints.ca:
        return False
    return not isinstance(usages, x509.KeyUsage) or usages.key_cert_sign


def _half(state: StateDirectory, name: str) -> ConfigError:
    return ConfigError(
        f"{state.path / name} is missing, its other half is there",
        check="Restore it; or remove the other half too, and give every agent the root that is made then.",
    )


def _own_key(text: bytes, path: Path) -> ec.EllipticCurvePrivateKey:
    key = _key(text, path)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{path}: not a key that was made here", check="Keys made elsewhere are given by --ca-dir.")
    return key


def _key(text: bytes, path: Path) -> PrivateKey:
    try:
        key = serialization.load_pem_private_key(text, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        # Never with what the library says of it: that could quote the file.
        raise ConfigError(
            f"{path}: damaged, encrypted, or no private key in PEM", check="Restore it from a backup."
        ) from error
    is_curve = isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1)
    if is_curve or (isinstance(key, rsa.RSAPrivateKey) and key.key_size >= 2048):
        assert isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey)
        return key
    raise ConfigError(f"{path}: its kind is not supported", check="P-256, P-384 or RSA of 2048 bits and more.")


def _certificates(text: bytes, path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(text)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(
            f"{path}: damaged, or no certificate in PEM: {error}", check="Restore it from a backup."
        ) from error


def _signature(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
