# SPDX-License-Identifier: Apache-2.0
"""Exchanges the root in three steps, so that at each moment everybody trusts who signs: add, use, drop.

Between the steps agents renew their certificates and are told the roots of that moment with each; the root file that
verifies the control plane itself has to be brought to the nodes by whoever brought it before. How long to wait is known
from the ledger (`issued.json`): for each set of roots that was handed out, and for each root that signed, when the last
certificate ends. What would cut somebody off is refused, unless it is forced.
"""

import datetime as dt
from collections.abc import Sequence

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from nodeagent.controlplane.authority import NEXT_ROOT_KEY, ROOT_KEY, ROOTS, root_of
from nodeagent.controlplane.ca import CertificateAuthority, key_pem, make_root, pem
from nodeagent.controlplane.state import PUBLIC, SECRET, StateDirectory
from nodeagent.errors import ConfigError

_LEDGER = "issued.json"
_STEP_SECONDS = 300
"""Ends are rounded up to this, so that the file is written seldom."""


class Entry(msgspec.Struct, frozen=True):
    """Fingerprints (SHA-256) of the roots that came with certificates, and of the one above their issuer."""

    roots: tuple[str, ...]
    signer: str
    ends: int
    """Unix seconds: the last of them has expired by then."""


class Ledger:
    """Which certificates are out, as far as rotation has to know."""

    def __init__(self, state: StateDirectory) -> None:
        self._state = state
        self._ends: dict[tuple[tuple[str, ...], str], int] = {}
        data = state.read(_LEDGER)
        try:
            entries = msgspec.json.decode(data, type=list[Entry]) if data else []
        except msgspec.MsgspecError as error:
            raise ConfigError(
                f"{state.path / _LEDGER} is damaged: {error}",
                check="Remove it; then wait for the longest lifetime of a certificate between the steps of a rotation.",
            ) from error
        for entry in entries:
            self._ends[entry.roots, entry.signer] = entry.ends

    def issued(self, authority: CertificateAuthority, not_after: dt.datetime) -> None:
        """Raises StateFileUnwritable."""
        key = tuple(sorted(map(fingerprint, authority.roots))), fingerprint(authority.chain[-1])
        ends = int(not_after.timestamp()) // _STEP_SECONDS * _STEP_SECONDS + _STEP_SECONDS
        if ends > self._ends.get(key, 0):
            self._ends[key] = ends
            entries = [Entry(roots, signer, ends) for (roots, signer), ends in self._ends.items()]
            self._state.write(_LEDGER, msgspec.json.encode(entries), PUBLIC)

    def without(self, root: x509.Certificate) -> float:
        """When the last certificate ends whose holder was not told of this root; 0 if there is none."""
        wanted = fingerprint(root)
        return max((ends for (roots, _), ends in self._ends.items() if wanted not in roots), default=0)

    def not_by(self, root: x509.Certificate) -> float:
        """When the last certificate ends that another root stands behind; 0 if there is none."""
        wanted = fingerprint(root)
        return max((ends for (_, signer), ends in self._ends.items() if signer != wanted), default=0)


def add_root(state: StateDirectory, now: dt.datetime) -> x509.Certificate:
    """Step 1: another root of the same name is trusted and signs nothing yet. Raises ConfigError."""
    used, roots = _read(state)
    text = state.read_secret(NEXT_ROOT_KEY)
    # A key whose root is not trusted is what a crash has left between the two files below: it is written over.
    if text is not None and _load(text).public_key() in [root.public_key() for root in roots]:
        raise ConfigError(
            f"{state.path / NEXT_ROOT_KEY}: a root was added already", check="Go on with `nodeagent ca use-root`."
        )
    key, root = make_root(used.subject, now)
    # The key first: a root that is trusted and lost would have to be taken away from everybody again.
    state.write(NEXT_ROOT_KEY, key_pem(key), SECRET)
    state.write(ROOTS, "".join(map(pem, [*roots, root])).encode(), PUBLIC)
    return root


def use_root(state: StateDirectory, now: dt.datetime, *, is_forced: bool = False) -> x509.Certificate:
    """Step 2: the added root signs. The former root's key is gone then. Raises ConfigError."""
    _, roots = _read(state)
    text = state.read_secret(NEXT_ROOT_KEY)
    if text is None:
        raise ConfigError(f"{state.path / NEXT_ROOT_KEY} is missing", check="Begin with `nodeagent ca add-root`.")
    root = root_of(_load(text), roots, state.path)
    _refuse_before(Ledger(state).without(root), now, "certificates are in use whose holders do not trust it", is_forced)
    (state.path / NEXT_ROOT_KEY).replace(state.path / ROOT_KEY)
    return root


def drop_roots(state: StateDirectory, now: dt.datetime, *, is_forced: bool = False) -> list[x509.Certificate]:
    """Step 3: only the root in use is trusted; returns the others. Raises ConfigError."""
    root, roots = _read(state)
    if state.read_secret(NEXT_ROOT_KEY) is not None:
        raise ConfigError(
            f"{state.path / NEXT_ROOT_KEY}: the added root is not in use yet", check="First `nodeagent ca use-root`."
        )
    _refuse_before(Ledger(state).not_by(root), now, "certificates of another root are in use", is_forced)
    state.write(ROOTS, pem(root).encode(), PUBLIC)
    return [other for other in roots if other != root]


def read_roots(state: StateDirectory) -> tuple[x509.Certificate, Sequence[x509.Certificate]]:
    """The root in use, and all that are trusted. Raises ConfigError."""
    return _read(state)


def fingerprint(certificate: x509.Certificate) -> str:
    return certificate.fingerprint(hashes.SHA256()).hex()


def _read(state: StateDirectory) -> tuple[x509.Certificate, list[x509.Certificate]]:
    text, key_text = state.read(ROOTS), state.read_secret(ROOT_KEY)
    if text is None or key_text is None:
        raise ConfigError(
            f"no root with its key in {state.path}",
            check="Is --state-dir right, and is the root's key there? Files of --ca-dir are yours to rotate.",
        )
    try:
        roots = x509.load_pem_x509_certificates(text)
    except ValueError as error:
        raise ConfigError(f"{state.path / ROOTS} is damaged: {error}", check="Restore it from a backup.") from error
    return root_of(_load(key_text), roots, state.path), roots


def _load(text: bytes) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(text, None)
    except (ValueError, TypeError) as error:
        raise ConfigError("a root's key is damaged", check="Restore it from a backup.") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError("a root's key was not made here", check="Keys made elsewhere are given by --ca-dir.")
    return key


def _refuse_before(ends: float, now: dt.datetime, why: str, is_forced: bool) -> None:  # noqa: FBT001 - handed through
    if not is_forced and ends > now.timestamp():
        until = dt.datetime.fromtimestamp(ends, dt.UTC)
        raise ConfigError(
            f"{why}, until {until:%Y-%m-%dT%H:%M:%SZ}",
            check="Wait, or renew them now: `nodeagent certs --renew` on every node, and then --force here.",
        )
