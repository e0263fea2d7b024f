# SPDX-License-Identifier: Apache-2.0
"""The file of `--crl`: certificates that peers are not believed by, beside those that the control plane names.

What it says goes the way of everything that workers must know. Its rules fail towards refusing: a file that has gone,
is empty or damaged leaves the last good lists in force, and one that is too old holds. Only a whole list takes back an
entry. At the agent's start a damaged file is an error; one that is not there yet may come.

Each list is checked by the roots that peers are checked by: they come with this node's first certificate, and with it
the authorities above that. Until then there is nothing to check by, and what is written holds. A list that is not its
signer's word changes nothing: what was believed of that signer stays, and so do lists of others.
"""

import asyncio
import datetime as dt
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from cryptography import x509

from nodeagent.certs.bundle import CertificateBundle
from nodeagent.errors import ConfigError
from nodeagent.model.mesh import Changes
from nodeagent.model.security import Revocations
from nodeagent.tls.revocation_list import ListFile, ListSigners, SignedList, read_lists

_log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
SOURCE = "file"
_MAX_BYTES = 16 << 20
_CHECK = "Expected are revocation lists (X509 CRL) as PEM, or one as DER."


def read_crl(path: str) -> ListFile | None:
    """None without a file, and for one with nothing in it. Raises ConfigError for anything that is no list."""
    try:
        with Path(path).open("rb") as file:
            text = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"--crl: {path}: {error.strerror}", check="Is the file readable for the agent?") from error
    if len(text) > _MAX_BYTES:
        raise ConfigError(f"--crl: {path}: larger than {_MAX_BYTES >> 20} MiB", check=_CHECK)
    try:
        return read_lists(text) if text.strip() else None
    except ValueError as error:
        raise ConfigError(f"--crl: {path}: {' '.join(str(error).split())}", check=_CHECK) from error


class _Believed(NamedTuple):
    """Of one signer, or of all."""

    certificates: frozenset[bytes]
    next_update: dt.datetime | None
    """When the first of the lists should have been replaced; None if none says so."""


def _together(lists: Iterable[SignedList | _Believed]) -> _Believed:
    found = tuple(lists)
    times = [one.next_update for one in found if one.next_update is not None]
    return _Believed(frozenset[bytes]().union(*(one.certificates for one in found)), min(times, default=None))


class RevocationFile:
    """Tells `apply` what the file says, whenever that is another thing."""

    def __init__(self, path: str, apply: Callable[[Changes], object]) -> None:
        """Reads it for the first time. Raises ConfigError."""
        self._path, self._apply = path, apply
        self._complaint = ""
        self._refused = ""
        """Why not everything in the file is believed."""
        self._found = ListFile()
        """What the file had when it was readable last."""
        self._signers: ListSigners | None = None
        self._believed: dict[x509.Name, _Believed] = {}
        """By signer; of what was found before anybody could check it, nothing stays behind."""
        self._in_force = _together(())
        self._overdue: dt.datetime | None = None
        """The time that has been told of already."""
        self._stamp = _stamp(path)
        if path:
            self._take(read_crl(path))

    def fault(self, now: dt.datetime) -> str:
        """Why what is in force may be less than it should be; empty if it is not."""
        return self._complaint or self._refused or self._age(now)

    async def run(self) -> None:
        """Ends only by cancellation."""
        while self._path:
            await asyncio.sleep(LOOK_SECONDS)
            await self.look(dt.datetime.now(dt.UTC))

    async def look(self, now: dt.datetime) -> None:
        stamp = _stamp(self._path)
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                found = await asyncio.to_thread(read_crl, self._path)
            except ConfigError as error:
                self._complain(f"{error}; the last good list stays in force. {error.check}")
            else:
                self._take(found)
        if self._in_force.next_update != self._overdue and self._age(now):
            self._overdue = self._in_force.next_update
            _log.warning("--crl: %s. Does whoever makes the list still do it?", self._age(now))

    def trust(self, bundle: CertificateBundle) -> None:
        """A certificate of this node has come: by its roots lists are checked, and peers are from now on."""
        if not self._path:
            return
        roots = x509.load_pem_x509_certificates(bundle.roots_pem)
        above = x509.load_pem_x509_certificates(bundle.chain_pem)[1:]
        # Former authorities stay known for as long as they lead to a root: their last lists do not come again.
        former = self._signers.known if self._signers is not None else ()
        signers = ListSigners(roots, [*above, *former])
        if self._signers is None or signers.known != self._signers.known:
            self._signers = signers
            self._judge()

    def _age(self, now: dt.datetime) -> str:
        due = self._in_force.next_update
        if due is None or due > now:
            return ""
        return f"{self._path} should have been replaced by {due:%Y-%m-%dT%H:%M:%SZ}; it holds all the same"

    def _take(self, found: ListFile | None) -> None:
        if found is None:
            self._complain(f"--crl: {self._path} is not there, or empty; the last good list stays in force")
            return
        self._complaint, self._found = "", found
        self._judge()

    def _judge(self) -> None:
        signers = self._signers.with_others(self._found.beside) if self._signers is not None else None
        believed, refused = defaultdict[x509.Name, list[SignedList | _Believed]](list), dict[x509.Name, str]()
        for one in self._found.lists:
            why = signers.refusal(one) if signers is not None else ""
            if why:
                refused[one.issuer] = why
            else:
                believed[one.issuer].append(one)
        for issuer in refused.keys() & self._believed.keys():
            believed[issuer].append(self._believed[issuer])
        summed = {issuer: _together(lists) for issuer, lists in believed.items()}
        self._believed = summed if signers is not None else {}
        self._note_refused([f"{issuer.rfc4514_string()!r}: {why}" for issuer, why in refused.items()])
        self._put_in_force(_together(summed.values()))

    def _put_in_force(self, found: _Believed) -> None:
        former, self._in_force = self._in_force, found
        if found.certificates != former.certificates:
            _log.info("%s: %d certificates are revoked", self._path, len(found.certificates))
            self._apply(Changes(extensions=(Revocations(source=SOURCE, certificates=found.certificates),)))

    def _note_refused(self, lists: list[str]) -> None:
        words = ""
        if lists:
            words = f"--crl: {self._path}: a list is not believed, what was believed of its signer stays: "
            words += "; ".join(sorted(lists))
        if words and words != self._refused:
            _log.warning("%s. The signer's certificate may stand in the same file.", words)
        self._refused = words

    def _complain(self, words: str) -> None:
        if words != self._complaint:
            _log.warning("%s", words)
        self._complaint = words


def _stamp(path: str) -> tuple[int, ...]:
    """Changes whenever the file does, also when a link leads to another one; empty when it cannot be looked at."""
    try:
        status = Path(path).stat()
    except OSError:
        return ()
    return status.st_ino, status.st_size, status.st_mtime_ns
