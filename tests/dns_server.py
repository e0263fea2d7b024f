# SPDX-License-Identifier: Apache-2.0
"""A DNS server for one test, at an address and port of the test's own; it knows what it is told and nothing else."""

import select
import socket
import threading
from types import TracebackType
from typing import Self

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

Records = dict[tuple[str, str], tuple[str, ...]]
"""Addresses by name and type; an empty one for a name that has none."""


class DnsServer:
    """Answers over UDP from `records`, which may be replaced at any time, with `code` if that is set."""

    def __init__(self, sock: socket.socket, records: Records, ttl: int = 60) -> None:
        self.records, self.ttl = records, ttl
        self.code: dns.rcode.Rcode | None = None
        self.asked: list[tuple[str, str]] = []
        self._socket = sock
        self._ours, self._theirs = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, name="DNS server of a test", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ours.close()  # ends the thread; what is blocked in recvfrom would keep the port
        self._thread.join(60)
        self._theirs.close()
        self._socket.close()

    def _serve(self) -> None:
        poll = select.poll()
        for one in (self._socket, self._theirs):
            poll.register(one, select.POLLIN)
        while not any(descriptor == self._theirs.fileno() for descriptor, _ in poll.poll()):
            packet, client = self._socket.recvfrom(4096)
            self._socket.sendto(self._answer(dns.message.from_wire(packet)).to_wire(), client)

    def _answer(self, query: dns.message.Message) -> dns.message.Message:
        question = query.question[0]
        name, kind = str(question.name).rstrip("."), dns.rdatatype.to_text(question.rdtype)
        self.asked.append((name, kind))
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.RA
        if self.code is not None:
            answer.set_rcode(self.code)
        elif not any(known == name for known, _ in self.records):
            answer.set_rcode(dns.rcode.NXDOMAIN)
        elif addresses := self.records.get((name, kind)):
            answer.answer.append(dns.rrset.from_text(question.name, self.ttl, "IN", kind, *addresses))
        return answer
