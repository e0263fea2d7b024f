# SPDX-License-Identifier: Apache-2.0
"""Where a listener cannot be, the message says why; where it can, it is there from its first moment as it should be."""

import errno
import socket
import stat
from pathlib import Path

import pytest

from nodeagent.admin.sockets import file_number, open_tcp, open_unix, remove_own
from nodeagent.errors import ConfigError, MissingPrivilege, NodeagentError, NotPossible, PortInUse


@pytest.fixture
def address(held_port: int) -> str:
    return f"127.0.0.1:{held_port}"


def test_an_address_of_another_machine_is_told() -> None:
    with pytest.raises(ConfigError, match="cannot listen on"):
        open_tcp("192.0.2.1:15020")


@pytest.mark.parametrize("address", ["", "15020", "localhost:15020", "127.0.0.1:0", "::1:15020", "[::1]:99999"])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(ConfigError, match="listening address"):
        open_tcp(address)


def test_the_unspecified_address_takes_both_families(address: str) -> None:
    port = int(address.rpartition(":")[2])
    with open_tcp(f"[::]:{port}"), socket.create_connection(("127.0.0.1", port)) as client:
        assert client.getpeername()[1] == port


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.EADDRINUSE, PortInUse),
        (errno.EACCES, MissingPrivilege),
        (errno.EPERM, MissingPrivilege),
        (errno.EADDRNOTAVAIL, ConfigError),
        (errno.ENOBUFS, NotPossible),
    ],
)
def test_what_the_kernel_refuses(
    monkeypatch: pytest.MonkeyPatch, address: str, number: int, kind: type[NodeagentError]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, "refused")

    monkeypatch.setattr(socket, "create_server", refuse)
    with pytest.raises(NodeagentError, match="refused") as caught:
        open_tcp(address)
    assert type(caught.value) is kind


def test_a_machine_without_ipv6(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    create = socket.create_server

    def without_ipv6(where: tuple[str, int], *, family: socket.AddressFamily, **options: bool) -> socket.socket:
        if family is socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return create(where, family=family)

    monkeypatch.setattr(socket, "create_server", without_ipv6)
    port = int(address.rpartition(":")[2])
    with open_tcp(f"[::]:{port}") as listener:
        assert listener.getsockname() == ("0.0.0.0", port)  # noqa: S104 - that it takes every address is the point


def test_a_unix_socket_replaces_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    path.write_text("a file of a crashed agent")
    with open_unix(str(path)), open_unix(str(path)), socket.socket(socket.AF_UNIX) as client:
        assert stat.S_ISSOCK(path.stat().st_mode)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        client.connect(str(path))
    assert [found.name for found in tmp_path.iterdir()] == ["admin.sock"]


def test_a_path_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(NotPossible, match="cannot listen"):
        open_unix(str(tmp_path / ("x" * 120)))


def test_a_successors_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    with open_unix(str(path)):
        own = file_number(path)
        with open_unix(str(path)):
            remove_own(path, own)
            assert path.exists(), "it is the other one's"
            remove_own(path, file_number(path))
    assert not path.exists()
    assert file_number(path) is None
    remove_own(path, None)
    remove_own(path, own)
