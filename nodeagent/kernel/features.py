# SPDX-License-Identifier: Apache-2.0
"""What this kernel can do beyond what every agent needs, tried and not concluded from its version.

Each trial is made aside: in a network namespace that ends with its thread, with maps and links that nobody else sees.
Only BPF_ENABLE_STATS touches the machine: it counts for as long as the call takes.
"""

import os
import socket
import struct

from pyroute2 import IPRoute

from nodeagent.errors import KernelError
from nodeagent.kernel import syscall, tcx
from nodeagent.kernel.cgroup import ATTACH_TYPES
from nodeagent.kernel.netlink import explained
from nodeagent.kernel.netns import CLONE_NEWNET, OWN_NETNS, netns_cookie, unshare
from nodeagent.kernel.probe import Probe, try_out
from nodeagent.kernel.sock_destroy import End, destroy_sockets
from nodeagent.kernel.sources import SERVICES
from nodeagent.model.address import Ip
from nodeagent.model.check import Check

_HASH, _RING_BUFFER = 1, 27
"""Of enum bpf_map_type."""
_LOOPBACK, _LOCALHOST = 1, Ip("127.0.0.1")


def probe_features() -> list[Probe]:
    return [
        tcx_links(),
        ring_buffer(),
        batch_operations(),
        socket_destruction(),
        netns_cookies(),
        netns_cookies_of_reports(),
        connect_programs(),
        run_statistics(),
    ]


def tcx_links() -> Probe:
    has = tcx.is_supported()
    evidence = "programs are attached by TCX links" if has else "not known to this kernel: clsact takes its place"
    return Probe(Check.TCX, has, evidence, "TCX needs Linux 6.6; clsact does all that we need.", is_needed=False)


def ring_buffer() -> Probe:
    def attempt() -> None:
        os.close(syscall.map_create(_RING_BUFFER, 0, 0, os.sysconf("SC_PAGESIZE")))

    advice = "Direct connections are reported through one; the kernel needs Linux 5.8."
    return try_out(Check.RING_BUFFER, attempt, "one was made", advice)


def batch_operations() -> Probe:
    def attempt() -> None:
        descriptor = syscall.map_create(_HASH, 4, 4, 8)
        try:
            syscall.map_update_batch(descriptor, struct.pack("=II", 1, 2), struct.pack("=II", 3, 4), 2)
            if len(syscall.map_rows(descriptor, 4, 4, 8)) != 2:
                raise KernelError("rows that were put are not there")
        finally:
            os.close(descriptor)

    advice = "Verdicts are written and flows are read by them; the kernel needs Linux 5.6."
    return try_out(Check.MAP_BATCHES, attempt, "two rows were written and read in one call each", advice)


def socket_destruction() -> Probe:
    def attempt() -> None:
        unshare(CLONE_NEWNET)
        with IPRoute() as link, explained("setting lo up"):
            link.link("set", index=_LOOPBACK, state="up")
        with socket.create_server((_LOCALHOST, 0)) as listener:
            port = listener.getsockname()[1]
            with socket.create_connection((_LOCALHOST, port)) as client:
                end = End(_LOCALHOST, client.getsockname()[1], _LOCALHOST, port)
                if destroy_sockets(OWN_NETNS, [end]) != 1:
                    raise KernelError("the connection was not found")

    advice = "Idle connections that policy ends live until they send; CONFIG_INET_DIAG_DESTROY, modprobe tcp_diag."
    return try_out(
        Check.SOCK_DESTROY, attempt, "a connection in a namespace of its own was ended", advice, is_needed=False
    )


def netns_cookies() -> Probe:
    def attempt() -> None:
        if not netns_cookie(OWN_NETNS):
            raise KernelError("a socket does not tell its namespace's cookie")

    advice = "--service-connect needs it: Linux 5.14."
    return try_out(Check.NETNS_COOKIE, attempt, "a socket tells its namespace's", advice, is_needed=False)


def netns_cookies_of_reports() -> Probe:
    def attempt() -> None:
        descriptor, _ = syscall.load_program(_NAMING_PROGRAM, syscall.PROGRAM_SOCK_OPS)
        os.close(descriptor)

    advice = "Linux 5.15 has it; without it a report of a connection in the kernel is believed by its addresses alone."
    return try_out(Check.REPORT_COOKIE, attempt, "sockops tells a socket's namespace", advice, is_needed=False)


def connect_programs() -> Probe:
    """Loads a program that asks for a socket's namespace, for each of the places of those for Services."""

    def attempt() -> None:
        for name in SERVICES:
            kind = syscall.PROGRAM_CGROUP_SOCK_ADDR
            descriptor, _ = syscall.load_program(_NAMING_PROGRAM, kind, attach_type=ATTACH_TYPES[name])
            os.close(descriptor)

    advice = "--service-connect needs them: Linux 5.8, CONFIG_CGROUP_BPF."
    return try_out(
        Check.CONNECT, attempt, "programs at connect(2) and getpeername(2) were accepted", advice, is_needed=False
    )


_NAMING_PROGRAM = b"".join(
    [
        struct.pack("=BBhi", 0x85, 0, 0, 122),  # call bpf_get_netns_cookie
        struct.pack("=BBhi", 0xB7, 0, 0, 1),  # r0 = 1
        struct.pack("=BBhi", 0x95, 0, 0, 0),  # exit
    ]
)


def run_statistics() -> Probe:
    def attempt() -> None:
        os.close(syscall.enable_statistics())

    advice = "The time that programs take cannot be measured; the kernel needs Linux 5.8."
    return try_out(Check.RUN_STATISTICS, attempt, "the kernel counted for a moment", advice, is_needed=False)
