# SPDX-License-Identifier: Apache-2.0
"""The root's exchange: that everybody trusts everybody at each step, and that a step which would not is refused."""

import datetime as dt
import os
import ssl
from collections.abc import Iterator

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from nodeagent.controlplane.authority import NEXT_ROOT_KEY, ROOT_KEY, ROOTS, open_authority
from nodeagent.controlplane.ca import CertificateAuthority
from nodeagent.controlplane.rotation import Ledger, add_root, drop_roots, fingerprint, read_roots, use_root
from nodeagent.controlplane.state import StateDirectory
from nodeagent.errors import ConfigError
from nodeagent.model.identity import Identity
from nodeagent.proxy.tls import make_context

WEB = Identity("cluster.local", "shop", "web")
HOUR = dt.timedelta(hours=1)


@pytest.fixture
def now() -> dt.datetime:
    """The real one, since OpenSSL has no other."""
    return dt.datetime.now(dt.UTC)


@pytest.fixture
def authority(state: StateDirectory, now: dt.datetime) -> CertificateAuthority:
    return open_authority(state, "cluster.local", now)


class Agents:
    """Workers with the certificates that they got at different moments."""

    def __init__(self) -> None:
        self._fds: list[int] = []

    def memfd(self, text: str) -> str:
        self._fds.append(os.memfd_create("pem"))
        os.write(self._fds[-1], text.encode())
        return f"/proc/self/fd/{self._fds[-1]}"

    def fetch(self, authority: CertificateAuthority, now: dt.datetime) -> tuple[str, str]:
        """Key with chain, and roots, as an agent hands them to its workers."""
        key = ec.generate_private_key(ec.SECP256R1())
        request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
        csr = request.public_bytes(serialization.Encoding.PEM).decode()
        *chain, roots = authority.sign(csr, WEB, seconds=3600, now=now).chain
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return self.memfd(private.decode() + "".join(chain)), self.memfd(roots)

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)


@pytest.fixture
def agents() -> Iterator[Agents]:
    made = Agents()
    yield made
    made.close()


def talk(client: tuple[str, str], server: tuple[str, str]) -> bool:
    """Whether a tunnel between the two can be opened: both ends verify the other's chain."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        make_context(*client, is_server=False).wrap_bio(to_client, to_server, server_side=False),
        make_context(*server, is_server=True).wrap_bio(to_server, to_client, server_side=True),
    )
    is_done = [False, False]
    for _ in range(10):
        for number, end in enumerate(ends):
            try:
                end.do_handshake()
                is_done[number] = True
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError:
                return False
    return all(is_done)


def test_at_each_step_everybody_can_talk_to_everybody(
    state: StateDirectory, authority: CertificateAuthority, agents: Agents, now: dt.datetime
) -> None:
    """An agent has what it got at this step, or still what it got at the step before."""

    def fetched() -> tuple[str, str]:
        return agents.fetch(open_authority(state, "cluster.local", now), now)

    before = agents.fetch(authority, now)
    add_root(state, now)
    added = fetched()
    use_root(state, now, is_forced=True)
    used = fetched()
    drop_roots(state, now, is_forced=True)
    dropped = fetched()
    for earlier, later in ((before, added), (added, used), (used, dropped)):
        for client in (earlier, later):
            for server in (earlier, later):
                assert talk(client, server)
    # Why the steps are three, and why it is waited between them.
    assert not talk(before, used)
    assert not talk(added, dropped)


def test_the_steps_change_what_they_say(
    state: StateDirectory, authority: CertificateAuthority, now: dt.datetime
) -> None:
    (former,) = authority.roots
    added = add_root(state, now)
    opened = open_authority(state, "cluster.local", now)
    assert (opened.chain, opened.roots) == (authority.chain, (former, added))
    assert (state.path / NEXT_ROOT_KEY).stat().st_mode & 0o777 == 0o600
    former_key = (state.path / ROOT_KEY).read_bytes()

    assert use_root(state, now) == added
    opened = open_authority(state, "cluster.local", now)
    assert (opened.chain[1], opened.roots) == (added, (former, added))
    assert not (state.path / NEXT_ROOT_KEY).exists()
    assert former_key not in [path.read_bytes() for path in state.path.iterdir()]

    assert drop_roots(state, now) == [former]
    assert open_authority(state, "cluster.local", now).roots == (added,)
    assert read_roots(state) == (added, [added])
    assert drop_roots(state, now) == []


@pytest.mark.usefixtures("authority")
def test_steps_out_of_order_are_refused(state: StateDirectory, now: dt.datetime) -> None:
    with pytest.raises(ConfigError, match=r"next-root-key.pem is missing"):
        use_root(state, now)
    add_root(state, now)
    with pytest.raises(ConfigError, match="added already"):
        add_root(state, now)
    with pytest.raises(ConfigError, match="not in use yet"):
        drop_roots(state, now)


@pytest.mark.usefixtures("authority")
def test_a_crash_in_the_first_step_leaves_the_step_before(state: StateDirectory, now: dt.datetime) -> None:
    before = (state.path / ROOTS).read_bytes()
    add_root(state, now)
    (state.path / ROOTS).write_bytes(before)
    assert len(open_authority(state, "cluster.local", now).roots) == 1
    added = add_root(state, now)
    assert use_root(state, now) == added


def test_a_step_that_would_cut_somebody_off_is_refused(
    state: StateDirectory, authority: CertificateAuthority, now: dt.datetime
) -> None:
    Ledger(state).issued(authority, now + HOUR)
    add_root(state, now)
    with pytest.raises(ConfigError, match="whose holders do not trust it, until") as raised:
        use_root(state, now + HOUR)
    assert "--force" in raised.value.check
    both = open_authority(state, "cluster.local", now)
    Ledger(state).issued(both, now + 3 * HOUR)
    use_root(state, now + 2 * HOUR)
    Ledger(state).issued(open_authority(state, "cluster.local", now), now + 9 * HOUR)
    with pytest.raises(ConfigError, match="of another root are in use, until"):
        drop_roots(state, now + 3 * HOUR)
    assert len(drop_roots(state, now + 4 * HOUR)) == 1


def test_the_ledger_is_written_seldom_and_read_again(
    state: StateDirectory, authority: CertificateAuthority, now: dt.datetime
) -> None:
    ledger = Ledger(state)
    ledger.issued(authority, now + HOUR)
    written = (state.path / "issued.json").stat().st_ino
    ledger.issued(authority, now + HOUR - dt.timedelta(seconds=1))
    assert (state.path / "issued.json").stat().st_ino == written
    ledger.issued(authority, now + 2 * HOUR)
    assert (state.path / "issued.json").stat().st_ino != written
    added = add_root(state, now)
    ends = Ledger(state).without(added)
    assert (now + 2 * HOUR).timestamp() < ends <= (now + 2 * HOUR).timestamp() + 300
    assert Ledger(state).without(authority.roots[0]) == 0
    assert Ledger(state).not_by(added) == ends


@pytest.mark.usefixtures("authority")
@pytest.mark.parametrize(
    ("name", "words"),
    [("issued.json", "issued.json is damaged"), (ROOTS, "root-cert.pem is damaged"), (ROOT_KEY, "key is damaged")],
)
def test_damaged_files_are_told(state: StateDirectory, now: dt.datetime, name: str, words: str) -> None:
    add_root(state, now)
    (state.path / name).write_text("nonsense")
    with pytest.raises(ConfigError, match=words) as raised:
        use_root(state, now) if name == "issued.json" else drop_roots(state, now)
    assert raised.value.check


def test_without_an_own_root_there_is_nothing_to_exchange(state: StateDirectory, now: dt.datetime) -> None:
    with pytest.raises(ConfigError, match="no root with its key"):
        add_root(state, now)


def test_a_fingerprint_is_openssls(authority: CertificateAuthority) -> None:
    der = authority.roots[0].public_bytes(serialization.Encoding.DER)
    digest = hashes.Hash(hashes.SHA256())
    digest.update(der)
    assert fingerprint(authority.roots[0]) == digest.finalize().hex()
