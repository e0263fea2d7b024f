# SPDX-License-Identifier: Apache-2.0
"""What is refused, with its reason, one record per connection; and that nobody else's connection is touched by it."""

import contextlib
import socket
import ssl
import time
from collections.abc import Callable

import msgspec
import pytest

from nodeagent.model.address import Cidr, Port
from nodeagent.model.identity import Identity
from nodeagent.model.policy import Action, Clause, Match, MatchKind, Policy, PolicyScope, Rule, StringMatch
from nodeagent.model.reason import Reason
from nodeagent.model.workload import TunnelProtocol
from nodeagent.proxy.messages import LocalPods, WorkerConfig
from tests.e2e.proxy.authority import Authority
from tests.e2e.proxy.mesh import Mesh, workload
from tests.e2e.proxy.peer import HbonePeer
from tests.e2e.proxy.wires import PATIENCE_SECONDS, PORT

pytestmark = pytest.mark.e2e

SERVER = "10.2.0.2:8080"
STRANGER = Identity("cluster.local", "apps", "stranger")

Connect = Callable[..., "HbonePeer"]


def policy(action: Action, match: Match, name: str = "rule") -> Policy:
    rule = Rule((Clause((match,)),))
    return Policy(name=name, namespace="apps", scope=PolicyScope.NAMESPACE, action=action, rules=(rule,))


@pytest.fixture
def other() -> Authority:
    return Authority("another mesh")


# ---- the server is not who it should be --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        pytest.param((str(STRANGER),), Reason.TLS_WRONG_IDENTITY, id="another identity"),
        pytest.param(("spiffe://other/ns/apps/sa/server",), Reason.TLS_WRONG_IDENTITY, id="another trust domain"),
        pytest.param((), Reason.TLS_WRONG_IDENTITY, id="no URI name"),
        pytest.param(("spiffe://cluster.local/ns/apps/sa/server", str(STRANGER)), Reason.TLS_WRONG_IDENTITY, id="two"),
        pytest.param(("https://cluster.local/ns/apps/sa/server",), Reason.TLS_WRONG_IDENTITY, id="no SPIFFE name"),
    ],
)
def test_a_server_with_another_name_is_not_talked_to(mesh: Mesh, names: tuple[str, ...], reason: Reason) -> None:
    mesh.far.certify(mesh.server.identity, mesh.authority, names or ("",))
    mesh.far.apply()  # what came before it is in force
    assert mesh.wires.client.is_refused(mesh.wires.server.v4)
    [record] = mesh.near.ended()
    assert record.reason == reason.value
    assert mesh.far.opened == []


def test_a_server_of_an_unknown_ca_is_not_talked_to(mesh: Mesh, other: Authority) -> None:
    mesh.far.certify(mesh.server.identity, other, roots=mesh.authority.roots)
    mesh.far.apply()  # what came before it is in force
    assert mesh.wires.client.is_refused(mesh.wires.server.v4)
    assert mesh.near.ended()[0].reason == Reason.TLS_UNKNOWN_CA.value
    assert mesh.far.ended()[0].reason == Reason.TLS_UNKNOWN_CA.value


# ---- nobody knows who the server is ------------------------------------------------------------------------------


@pytest.mark.vm
def test_an_unknown_address_is_never_reached_in_plain_text(mesh: Mesh) -> None:
    """Steering brings only what the mesh knows, so this worker has not heard of it yet, or the kernel of its end."""
    with mesh.wires.outsider.listen() as app:
        assert mesh.wires.client.is_refused(mesh.wires.outsider.v4)
        app.settimeout(0)
        with pytest.raises(BlockingIOError):
            app.accept()
    assert mesh.near.ended()[0].reason == Reason.UNKNOWN_DESTINATION.value


# ---- the client is not who it should be --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        pytest.param(("spiffe://other/ns/apps/sa/client",), Reason.TLS_WRONG_TRUST_DOMAIN, id="trust domain"),
        pytest.param(("spiffe://cluster.local/ns/apps/sa/client/x",), Reason.TLS_WRONG_IDENTITY, id="odd name"),
        pytest.param((str(STRANGER), "spiffe://cluster.local/ns/a/sa/b"), Reason.TLS_WRONG_IDENTITY, id="two names"),
    ],
)
def test_a_client_with_another_name_is_not_served(
    mesh: Mesh, peer: Connect, names: tuple[str, ...], reason: Reason
) -> None:
    assert peer(*names).ends() != "reset"
    [record] = mesh.far.ended()
    assert record.reason == reason.value
    mesh.far.eventually(lambda: mesh.far.counters.get("handshakes_failed") == 1)


def test_a_client_of_an_unknown_ca_is_told_so(mesh: Mesh, peer: Connect, other: Authority) -> None:
    assert peer(str(mesh.client.identity), authority=other).ends() == "TLSV1_ALERT_UNKNOWN_CA"
    assert mesh.far.ended()[0].reason == Reason.TLS_UNKNOWN_CA.value


def test_bytes_that_are_not_tls(mesh: Mesh) -> None:
    with mesh.wires.outsider.connect(mesh.wires.server.v4, 15008) as client:
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert mesh.far.ended()[0].reason == Reason.TLS_NOT_TLS.value


def test_a_client_without_a_certificate(mesh: Mesh) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with context.wrap_socket(mesh.wires.outsider.connect(mesh.wires.server.v4, 15008)) as client:
        with pytest.raises(ssl.SSLError, match="certificate required"):
            client.recv(1)
        assert mesh.far.ended()[0].reason == Reason.TLS_FAILED.value


class TestLate:
    @pytest.fixture
    def config(self, config: WorkerConfig) -> WorkerConfig:
        return msgspec.structs.replace(config, handshake_seconds=2)

    def test_a_handshake_that_never_goes_on(self, mesh: Mesh) -> None:
        with mesh.wires.outsider.connect(mesh.wires.server.v4, 15008) as client:
            client.sendall(b"\x16\x03\x01")
            [record] = mesh.far.ended()
            assert record.reason == Reason.TLS_TIMEOUT.value
            assert record.seconds >= mesh.config.handshake_seconds


# ---- HTTP/2 and CONNECT ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", Reason.H2_FAILED, id="HTTP/1"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 64, Reason.H2_FAILED, id="garbage frames"),
    ],
)
def test_what_is_not_http2(mesh: Mesh, peer: Connect, payload: bytes, reason: Reason) -> None:
    client = peer()
    client.tls.sendall(payload)
    client.ends()
    assert mesh.far.ended()[0].reason == reason.value


def test_headers_beyond_the_limit(mesh: Mesh, peer: Connect) -> None:
    client = peer()
    client.open(SERVER, baggage="x" * 70_000)
    client.ends()
    assert mesh.far.ended()[0].reason == Reason.H2_HEADERS_TOO_LARGE.value


@pytest.mark.parametrize(
    ("authority", "status", "reason"),
    [
        pytest.param("10.1.0.2:8080", 400, Reason.HBONE_BAD_REQUEST, id="another address"),
        pytest.param("10.2.0.2:0", 400, Reason.HBONE_BAD_REQUEST, id="no port"),
        pytest.param("ten.two.zero:port", 400, Reason.HBONE_BAD_REQUEST, id="nonsense"),
        pytest.param("10.2.0.2:15008", 503, Reason.SELF_CALL, id="our own port"),
        pytest.param("unknown.apps.svc:80", 503, Reason.UNKNOWN_DESTINATION, id="an unknown name"),
        pytest.param("10.2.0.2:9999", 503, Reason.CONNECT_REFUSED, id="nobody listens"),
    ],
)
def test_a_connect_that_cannot_be(
    mesh: Mesh, peer: Connect, app: socket.socket, authority: str, status: int, reason: Reason
) -> None:
    """And the neighbour on the same tunnel goes on."""
    client = peer()
    neighbour = client.open(SERVER)
    assert client.status(neighbour) == 200
    served, _ = app.accept()
    assert client.status(client.open(authority)) == status
    [record] = mesh.far.ended()
    assert record.reason == reason.value
    assert record.source_identity == mesh.client.identity
    with served:
        client.send(neighbour, b"still here")
        assert served.recv(100) == b"still here"


def test_only_its_own_address_makes_forwarded_believable(mesh: Mesh, peer: Connect, app: socket.socket) -> None:
    """Otherwise a peer could make the application see, and policy judge, somebody else."""
    client = peer()
    for forwarded, port in ((f'for="{mesh.wires.outsider.v4}:40010"', 40010), ('for="10.1.0.2:40011"', 0)):
        assert client.status(client.open(SERVER, forwarded=forwarded)) == 200
        served, seen = app.accept()
        served.close()
        assert seen[0] == f"::ffff:{mesh.wires.outsider.v4}"
        assert seen[1] == port or (port == 0 and seen[1] != 40011)


def test_a_stream_beyond_the_limit_is_refused_alone(mesh: Mesh, peer: Connect, app: socket.socket) -> None:
    client = peer()
    first = client.open(SERVER)
    assert client.status(first) == 200
    served, _ = app.accept()
    for _ in range(200):  # the server has announced 200 by now, and one is open
        client.connection._state.peer.max_streams = 1000
        client.open("10.2.0.2:8080")
    client.send(first, b"still here")
    with served:
        assert served.recv(100) == b"still here"
    codes: list[int] = []
    while not codes:
        codes += [code for _, code in client.receive().resets]
    assert set(codes) == {7}  # REFUSED_STREAM
    assert [record.reason for record in mesh.far.ended()] == [Reason.H2_TOO_MANY_STREAMS.value]
    mesh.far.eventually(lambda: mesh.far.counters.get("streams_refused", 0) >= 1)


# ---- limits and sources ------------------------------------------------------------------------------------------


class TestFull:
    @pytest.fixture
    def config(self, config: WorkerConfig) -> WorkerConfig:
        return msgspec.structs.replace(config, max_connections=3)

    def test_connections_beyond_the_limit_are_reset(self, mesh: Mesh, app: socket.socket) -> None:
        with contextlib.ExitStack() as stack:
            client = served = app
            for _ in range(3):
                client = stack.enter_context(mesh.wires.client.connect(mesh.wires.server.v4, PORT))
                served = stack.enter_context(app.accept()[0])
                client.sendall(b"x")
                assert served.recv(1) == b"x"
            assert mesh.wires.client.is_refused(mesh.wires.server.v4)
            assert mesh.near.ended()[0].reason == Reason.CONNECTION_LIMIT.value
            client.sendall(b"still here")
            assert served.recv(100) == b"still here"
        mesh.near.ended(4)
        mesh.far.ended(3)  # which is as full
        with mesh.wires.client.connect(mesh.wires.server.v4, PORT) as client, app.accept()[0] as served:
            client.sendall(b"room again")
            assert served.recv(100) == b"room again"


def test_a_source_that_is_no_pod_of_this_node(mesh: Mesh) -> None:
    assert mesh.wires.outsider.is_refused(mesh.wires.client.v4)
    assert mesh.near.ended()[0].reason == Reason.UNKNOWN_SOURCE.value


def test_no_certificate_in_time(mesh: Mesh) -> None:
    mesh.near.kill()
    near = mesh.start(mesh.wires.near, mesh.wires.client, mesh.client.identity, certified=False)
    started = time.monotonic()
    assert mesh.wires.client.is_refused(mesh.wires.server.v4)
    assert time.monotonic() - started >= mesh.config.policy_wait_seconds
    assert near.ended()[0].reason == Reason.CERTIFICATE_MISSING.value


# ---- policy ------------------------------------------------------------------------------------------------------

BY_CLIENT = Match(principals=(StringMatch(MatchKind.EXACT, "cluster.local/ns/apps/sa/client"),))
WITHOUT_IDENTITY = Match(not_principals=(StringMatch(MatchKind.PRESENCE),))


@pytest.mark.parametrize(
    ("action", "match", "reason"),
    [
        pytest.param(Action.DENY, BY_CLIENT, Reason.POLICY_DENIED, id="by principal"),
        pytest.param(Action.DENY, Match(destination_ports=(Port(PORT),)), Reason.POLICY_DENIED, id="by port"),
        pytest.param(Action.DENY, Match(source_ips=(Cidr.parse("10.1.0.0/16"),)), Reason.POLICY_DENIED, id="by block"),
        pytest.param(Action.ALLOW, Match(destination_ports=(Port(81),)), Reason.POLICY_NOT_ALLOWED, id="not allowed"),
    ],
)
def test_what_policy_denies_never_reaches_the_application(
    mesh: Mesh, app: socket.socket, action: Action, match: Match, reason: Reason
) -> None:
    mesh.far.apply(policies=(policy(action, match),))
    assert mesh.wires.client.is_refused(mesh.wires.server.v4)
    [record] = mesh.far.ended()
    assert record.reason == reason.value
    assert record.policy == ("apps/rule" if action is Action.DENY else "")
    assert mesh.near.ended()[0].reason == Reason.HBONE_DENIED.value
    app.settimeout(0)
    with pytest.raises(BlockingIOError):
        app.accept()


def test_strict_refuses_plaintext_and_serves_the_mesh(mesh: Mesh, app: socket.socket) -> None:
    mesh.far.apply(policies=(policy(Action.DENY, WITHOUT_IDENTITY, "strict"),))
    assert mesh.wires.outsider.is_refused(mesh.wires.server.v4)
    [record] = mesh.far.ended()
    assert (record.reason, record.policy) == (Reason.POLICY_DENIED.value, "apps/strict")
    with mesh.wires.client.connect(mesh.wires.server.v4, PORT) as client, app.accept()[0] as served:
        client.sendall(b"x")
        assert served.recv(1) == b"x"


def test_a_policy_that_has_not_arrived_holds_and_then_denies(mesh: Mesh) -> None:
    mesh.far.apply(workloads=(msgspec.structs.replace(mesh.server, policies=("apps/late",)),))
    started = time.monotonic()
    assert mesh.wires.client.is_refused(mesh.wires.server.v4)
    assert time.monotonic() - started >= mesh.config.policy_wait_seconds
    assert mesh.far.ended()[0].reason == Reason.POLICY_PENDING.value


class TestInTime:
    """What a connection waits for comes before the wait is over, however busy the machine is."""

    @pytest.fixture
    def config(self, config: WorkerConfig) -> WorkerConfig:
        return msgspec.structs.replace(config, policy_wait_seconds=PATIENCE_SECONDS)

    def test_an_address_that_becomes_known_is_served_after_all(self, mesh: Mesh) -> None:
        made = workload("outsider", mesh.wires.outsider, STRANGER)
        outsider = msgspec.structs.replace(made, protocol=TunnelProtocol.TCP)
        with mesh.wires.outsider.listen() as app, mesh.wires.client.connect(mesh.wires.outsider.v4, PORT) as client:
            mesh.near.apply(workloads=(outsider,))
            with app.accept()[0] as served:
                client.sendall(b"late")
                assert served.recv(100) == b"late"

    def test_a_certificate_that_comes_in_time(self, mesh: Mesh, app: socket.socket) -> None:
        mesh.near.kill()
        near = mesh.start(mesh.wires.near, mesh.wires.client, mesh.client.identity, certified=False)
        with mesh.wires.client.connect(mesh.wires.server.v4, PORT) as client:
            near.certify(mesh.client.identity, mesh.authority)
            with app.accept()[0] as served:
                client.sendall(b"x")
                assert served.recv(1) == b"x"

    def test_a_policy_that_comes_in_time_lets_the_connection_go_on(self, mesh: Mesh, app: socket.socket) -> None:
        mesh.far.apply(workloads=(msgspec.structs.replace(mesh.server, policies=("apps/late",)),))
        late = msgspec.structs.replace(policy(Action.ALLOW, BY_CLIENT, "late"), scope=PolicyScope.WORKLOAD_SELECTOR)
        with mesh.wires.client.connect(mesh.wires.server.v4, PORT) as client:
            mesh.far.apply(policies=(late,))
            with app.accept()[0] as served:
                client.sendall(b"x")
                assert served.recv(1) == b"x"


def test_a_policy_change_cuts_what_it_denies_and_nothing_else(mesh: Mesh, app: socket.socket) -> None:
    with (
        mesh.wires.client.connect(mesh.wires.server.v4, PORT) as meshed,
        app.accept()[0] as meshed_end,
        mesh.wires.outsider.connect(mesh.wires.server.v4, PORT) as plain,
        app.accept()[0] as plain_end,
    ):
        mesh.far.eventually(lambda: len(mesh.far.opened) == 2)
        mesh.far.apply(policies=(policy(Action.DENY, BY_CLIENT),))
        with pytest.raises(ConnectionResetError):
            meshed.recv(1)
        with pytest.raises(ConnectionResetError):
            meshed_end.recv(1)
        [record] = mesh.far.ended()
        assert (record.reason, record.policy) == (Reason.POLICY_CHANGED.value, "apps/rule")
        plain.sendall(b"still here")
        assert plain_end.recv(100) == b"still here"
        mesh.far.apply(removed_policies=("apps/rule",))
        with mesh.wires.client.connect(mesh.wires.server.v4, PORT) as again, app.accept()[0] as again_end:
            again.sendall(b"x")
            assert again_end.recv(1) == b"x"


def test_a_pod_that_inherits_an_address_does_not_inherit_its_tunnels(mesh: Mesh, app: socket.socket) -> None:
    """The client was promised another identity; the set of local addresses is the same as before."""
    heir = msgspec.structs.replace(mesh.server, uid="heir", name="heir", service_account="stranger")
    mesh.far.certify(STRANGER, mesh.authority)
    with mesh.wires.client.connect(mesh.wires.server.v4, PORT) as client, app.accept()[0]:
        mesh.far.eventually(lambda: len(mesh.far.opened) == 1)
        mesh.far.apply(workloads=(heir,))
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    assert mesh.far.ended()[0].reason == Reason.POD_REMOVED.value
    assert mesh.wires.client.is_refused(mesh.wires.server.v4)
    assert mesh.near.ended(2)[1].reason == Reason.TLS_WRONG_IDENTITY.value


def test_a_client_that_inherits_an_address_dials_as_itself(mesh: Mesh, app: socket.socket) -> None:
    heir = msgspec.structs.replace(mesh.client, uid="heir", name="heir", service_account="stranger")
    mesh.near.certify(STRANGER, mesh.authority)
    with mesh.wires.client.connect(mesh.wires.server.v4, PORT) as client, app.accept()[0]:
        mesh.near.eventually(lambda: len(mesh.near.opened) == 1)
        mesh.near.apply(workloads=(heir,))
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    assert mesh.near.ended()[0].reason == Reason.POD_REMOVED.value
    with mesh.wires.client.connect(mesh.wires.server.v4, PORT), app.accept()[0]:
        mesh.far.eventually(lambda: len(mesh.far.opened) == 2)
    assert mesh.far.opened[1].source_identity == STRANGER


def test_connections_of_a_pod_that_leaves_end_with_it(mesh: Mesh, app: socket.socket) -> None:
    with mesh.wires.client.connect(mesh.wires.server.v4, PORT) as client, app.accept()[0] as served:
        mesh.far.eventually(lambda: len(mesh.far.opened) == 1)
        mesh.far.send(LocalPods(frozenset()))
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        with pytest.raises(ConnectionResetError):
            served.recv(1)
    assert mesh.far.ended()[0].reason == Reason.POD_REMOVED.value
