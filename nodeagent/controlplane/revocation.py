# SPDX-License-Identifier: Apache-2.0
"""Certificates that must not be used any more, though they have not expired: the list of them (RFC 5280 §5).

    revoked.json   0644  serials, and when they were revoked; `nodeagent ca revoke` adds to it
    ca-crl.pem     0644  the list, for whoever verifies (ztunnel's CRL_PATH); made again within a second, and every day

Agents of ours are told what is listed, as an extension.

A list is for the certificates of its signer. That of a former intermediate stays in the file for as long as one of its
leaves may live, which is as long as it was valid for, and its root is trusted; nothing can be added to it any more.
Behind the lists stand the certificates of their signers, by which whoever trusts the roots alone can check them.
"""

import datetime as dt
import logging
from collections.abc import Callable
from typing import TypeVar

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from nodeagent.controlplane.ca import CRL_LIFE, CertificateAuthority
from nodeagent.controlplane.state import PUBLIC, StateDirectory
from nodeagent.errors import ConfigError, StateFileUnwritable
from nodeagent.tls.certificate_name import MOST_REVOKED
from nodeagent.tls.revocation_list import CERTIFICATE, LIST, ListSigners, blocks, read_lists

_log = logging.getLogger(__name__)

_Loaded = TypeVar("_Loaded")
REVOKED, CRL = "revoked.json", "ca-crl.pem"
_RENEWED = dt.timedelta(days=1)
_MAX_SERIAL = 1 << 160
"""RFC 5280 §4.1.2.2: 20 octets."""


class Revoked(msgspec.Struct, frozen=True):
    serial: str
    """Hexadecimal, lower case, as in the audit line."""
    at: int
    """Unix seconds."""


def revoke(state: StateDirectory, serial: str, now: dt.datetime) -> bool:
    """Notes it; False when it was noted already. The running control plane makes the list.

    Raises ConfigError, also when there would be too many.
    """
    try:
        number = int(serial, 16)
    except ValueError:
        number = 0
    if not 0 < number < _MAX_SERIAL:
        raise ConfigError(
            f"{serial[:64]!r} is not a serial number", check="As the audit line has it: hexadecimal, without 0x."
        )
    noted = _read(state)
    if f"{number:x}" in {entry.serial for entry in noted}:
        return False
    if sum(_is_current(entry, now) for entry in noted) >= MOST_REVOKED:
        raise _too_many()
    noted.append(Revoked(f"{number:x}", int(now.timestamp())))
    state.write(REVOKED, msgspec.json.encode(noted), PUBLIC)
    return True


class RevocationList:
    """Keeps ca-crl.pem true."""

    def __init__(self, state: StateDirectory) -> None:
        self._state = state
        self._made_of: tuple[object, ...] | None = None
        self._made_at: dt.datetime | None = None
        self._complaint = ""
        self.certificates: frozenset[bytes] = frozenset()
        """Names of all that ca-crl.pem lists, as agents are told them."""

    def refresh(self, authority: CertificateAuthority, now: dt.datetime) -> None:
        """Makes the list again if something of it has changed, or it is a day old. What prevents it is logged once."""
        try:
            noted = self._state.read(REVOKED)
            made_of = (noted, authority.chain[0], authority.roots)
            if made_of == self._made_of and self._made_at is not None and now - self._made_at < _RENEWED:
                return
            if not authority.may_sign_crls:
                self._complain("the authority's certificate has no key usage cRLSign: there is no revocation list")
                return
            try:
                self._make(authority, _read(self._state), now)
            except ConfigError:  # to try again costs seconds of long lists: only a change mends it, or a day
                self._made_of, self._made_at = made_of, now
                raise
        except (ConfigError, StateFileUnwritable) as error:
            self._complain(f"{error}. {error.check}")
        else:
            self._made_of, self._made_at, self._complaint = made_of, now, ""

    def _make(self, authority: CertificateAuthority, noted: list[Revoked], now: dt.datetime) -> None:
        current = [entry for entry in noted if _is_current(entry, now)]
        if len(current) > MOST_REVOKED:
            raise _too_many()
        times = {int(entry.serial, 16): dt.datetime.fromtimestamp(entry.at, dt.UTC) for entry in current}
        made, text = authority.sign_crl(times, now), self._state.read(CRL) or b""
        beside = self._readable(text, CERTIFICATE, x509.load_pem_x509_certificate)
        signers = ListSigners(authority.roots, [*authority.chain, *beside])
        written = self._readable(text, LIST, lambda block: read_lists(block).lists[0])
        # Of a signer that is known, and leads to no root any more, nothing is needed; of an unknown one it stays.
        former = [
            one.crl
            for one in written
            if not one.crl.is_signature_valid(authority.public_key)
            and (one.next_update or now) > now
            and (signers.refusal(one) == "" or ListSigners(beside).refusal(one) != "")
        ]
        above = [one for one in signers.known if one not in authority.roots and one.not_valid_after_utc > now]
        encoded = [crl.public_bytes(serialization.Encoding.PEM) for crl in (made, *former)]
        pem = b"".join([*encoded, *(one.public_bytes(serialization.Encoding.PEM) for one in above)])
        try:
            certificates = read_lists(pem).certificates  # before it is written: the former list stays in force
        except ValueError as error:
            raise ConfigError(
                f"the list of revoked certificates is not made again: {error}",
                check=f"See {REVOKED}; the lists of former intermediates, which {CRL} has too, count.",
            ) from error
        self._state.write(CRL, pem, PUBLIC)
        self.certificates = certificates

    def _readable(self, text: bytes, label: bytes, load: Callable[[bytes], _Loaded]) -> list[_Loaded]:
        found: list[_Loaded] = []
        for block in blocks(text, label):
            try:
                found.append(load(block))
            except ValueError as error:
                _log.warning("%s: something damaged is left out: %s", self._state.path / CRL, error)
        return found

    def _complain(self, words: str) -> None:
        if words != self._complaint:
            _log.warning("%s", words)
        self._complaint = words


def _is_current(entry: Revoked, now: dt.datetime) -> bool:
    """Whether the certificate could be in use still, if it were not for the list."""
    return entry.at + CRL_LIFE.total_seconds() > now.timestamp()


def _too_many() -> ConfigError:
    return ConfigError(
        f"more than {MOST_REVOKED} certificates are revoked, and agents would believe no list of so many",
        check="Each leaves the list when it must have expired. Sooner: replace the root, see `nodeagent ca --help`.",
    )


def _read(state: StateDirectory) -> list[Revoked]:
    data = state.read(REVOKED)
    try:
        return msgspec.json.decode(data, type=list[Revoked]) if data else []
    except msgspec.MsgspecError as error:
        raise ConfigError(
            f"{state.path / REVOKED} is damaged: {error}", check="Restore it: without it nothing is revoked."
        ) from error
