# SPDX-License-Identifier: Apache-2.0
"""Who is not who he should be is refused with the named reason, and nobody else's connection notices."""

import contextlib
from collections.abc import Iterator

import pytest

from nodeagent.model.reason import Reason
from tests.interop.conftest import Passage, Peers
from tests.interop.traffic import Echo, converse, read_to_end

pytestmark = pytest.mark.interop


@pytest.mark.parametrize(
    ("passage", "reason"),
    [
        pytest.param("way:stranger", Reason.TLS_WRONG_TRUST_DOMAIN, id="Envoy comes from another trust domain"),
        pytest.param("way:forger", Reason.TLS_UNKNOWN_CA, id="another authority signed for Envoy as client"),
        pytest.param("way:suspicious", Reason.TLS_FAILED, id="Envoy expects another server than ours"),
        pytest.param("way:denied", Reason.POLICY_DENIED, id="a policy denies this Envoy"),
        pytest.param("gate:impostor", Reason.TLS_WRONG_IDENTITY, id="the workload there is not Envoy"),
        pytest.param("gate:forger", Reason.TLS_UNKNOWN_CA, id="another authority signed for Envoy as server"),
        pytest.param("gate:picky", Reason.TLS_FAILED, id="Envoy admits another client than ours"),
        pytest.param("gate:denies", Reason.HBONE_DENIED, id="Envoy answers 401"),
        pytest.param("gate:refuses", Reason.HBONE_REFUSED, id="Envoy answers 503"),
    ],
    indirect=["passage"],
)
def test_a_refusal_has_its_reason_and_concerns_nobody_else(peers: Peers, passage: Passage, reason: Reason) -> None:
    with _bystanders(peers) as echoes:
        _is_cut_off(passage)
        [record] = passage.worker.ended()
        assert record.reason == reason.value
    assert [len(echo.peers) for echo in echoes] == [1, 1]


@pytest.mark.parametrize(
    ("passage", "reason"),
    [
        pytest.param("way:wide", Reason.CONNECT_REFUSED, id="beside our worker, which answers 503"),
        pytest.param("gate:wide", Reason.HBONE_REFUSED, id="beside Envoy, which answers 503"),
    ],
    indirect=["passage"],
)
def test_where_no_application_listens_the_client_is_cut_off(passage: Passage, reason: Reason) -> None:
    before = passage.tunnels()
    _is_cut_off(passage)
    [record] = passage.worker.ended()
    assert record.reason == reason.value
    with passage.listen() as listener, Echo(listener), passage.connect() as client:
        converse(client)
    assert passage.tunnels() <= before + 1  # the tunnel of the refused stream is the tunnel of the next one


@contextlib.contextmanager
def _bystanders(peers: Peers) -> Iterator[list[Echo]]:
    """One connection in each direction, in tunnels to the same peers, that goes on before and after the block."""
    with contextlib.ExitStack() as stack:
        echoes, clients = [], []
        for passage in (peers.through_way("wide"), peers.through_gate("wide")):
            echoes.append(stack.enter_context(Echo(stack.enter_context(passage.listen()))))
            clients.append(stack.enter_context(passage.connect()))
        for client in clients:
            converse(client)
        yield echoes
        for client in clients:
            converse(client)


def _is_cut_off(passage: Passage) -> None:
    """Orderly or by a reset, which may even come before the client knows that it is connected."""
    with contextlib.suppress(ConnectionResetError), passage.connect() as client:
        assert read_to_end(client) == b""
