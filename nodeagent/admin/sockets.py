# SPDX-License-Identifier: Apache-2.0
"""Opens listening sockets, and says what stands in the way when they cannot be."""

import contextlib
import errno
import ipaddress
import os
import socket
from pathlib import Path

from nodeagent.errors import ConfigError, MissingPrivilege, NodeagentError, NotPossible, PortInUse
from nodeagent.model.address import split_host_port

_BACKLOG = 64
_NO_IPV6 = {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}


def open_tcp(address: str) -> socket.socket:
    """Listens on `ip:port`; `[::]` takes IPv4 too, and is `0.0.0.0` where the machine has no IPv6.

    Raises PortInUse, MissingPrivilege, NotPossible, or ConfigError for what is no address of this machine.
    """
    try:
        host, port = split_host_port(address)
        ip = ipaddress.ip_address(host)
    except ValueError as error:
        raise ConfigError(
            f"listening address {address!r}: {error}", check="Expected: ip:port, such as 127.0.0.1:15020 or [::]:15020."
        ) from error
    try:
        return _listen_tcp(str(ip), port)
    except OSError as error:
        if ip == ipaddress.IPv6Address("::") and error.errno in _NO_IPV6:
            return open_tcp(f"0.0.0.0:{port}")
        raise _told(address, error) from error


def open_unix(path: str) -> socket.socket:
    """Listens at `path` with mode 0600 from its first moment on, in place of any socket that was there before.

    Whether another agent still lives behind that one is not decided here: agents exclude each other by a lock.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # Bound beside and renamed over, so that a client finds the old socket or this one, never none.
    beside = Path(f"{path}.{os.getpid()}")
    try:
        os.fchmod(listener.fileno(), 0o600)  # Linux gives the socket's own mode to the file that bind() makes
        beside.unlink(missing_ok=True)
        listener.bind(str(beside))
        listener.listen(_BACKLOG)
        beside.rename(path)
    except OSError as error:
        listener.close()
        with contextlib.suppress(OSError):
            beside.unlink()
        raise _told(path, error) from error
    listener.settimeout(0)
    return listener


def file_number(path: Path) -> tuple[int, int] | None:
    """Tells a socket's file from one that has taken its name; None when there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def remove_own(path: Path, number: tuple[int, int] | None) -> None:
    """The file with this number, unless a successor has put its own there."""
    if number is not None and file_number(path) == number:
        path.unlink(missing_ok=True)


def _listen_tcp(ip: str, port: int) -> socket.socket:
    is_v6 = ":" in ip
    listener = socket.create_server(
        (ip, port),
        family=socket.AF_INET6 if is_v6 else socket.AF_INET,
        backlog=_BACKLOG,
        dualstack_ipv6=ip == "::",
    )
    listener.settimeout(0)
    return listener


def _told(address: str, error: OSError) -> NodeagentError:
    words = f"cannot listen on {address}: {error.strerror or error}"
    if error.errno == errno.EADDRINUSE:
        return PortInUse(words)
    if error.errno in {errno.EACCES, errno.EPERM}:
        return MissingPrivilege(words)
    if error.errno == errno.EADDRNOTAVAIL:
        return ConfigError(words, check="Has this machine the address? See `ip address`.")
    return NotPossible(words, check="Does the directory exist, and is the path shorter than 100 characters?")
