# SPDX-License-Identifier: Apache-2.0
"""A tunnel's way into the kernel: when its records may become the kernel's, and that they do.

Rules:
- Only once the peer has said whether its keys change, since this kernel may not be able to follow.
- Reads end with the record that has begun: what is behind it is the kernel's to open. Nothing is unsent then, either.
- It is tried once. What the kernel does not take goes on in a channel of its own, with the same keys.
"""

import socket

from nodeagent.hbone.connection import Connection
from nodeagent.proxy.kernel_channel import KernelChannel
from nodeagent.proxy.kernel_records import KernelRecords
from nodeagent.proxy.tls import Channel
from nodeagent.tls.channel import RecordChannel


class KernelMove:
    """Of one tunnel."""

    def __init__(self, records: KernelRecords, connection: Connection, *, is_ahead: bool) -> None:
        self.is_ahead = is_ahead
        """It is neither done nor decided against."""
        self.read_at_most = 0
        """Bytes of one read; 0: all that the buffer holds. Ends a read with a record, when it is to be the last one."""
        self._records, self._connection = records, connection

    def head_for_it(self, channel: Channel) -> None:
        """To be called when all that was received is opened, while it `is_ahead`."""
        keeps_keys = self._connection.both_keep_keys
        if keeps_keys is None:
            return
        if isinstance(channel, RecordChannel) and self._records.takes(channel.cipher, keeps_keys=keeps_keys):
            self.read_at_most = channel.missing
        else:
            self._stop()

    def make(self, sock: socket.socket, channel: Channel | None) -> KernelChannel | None:
        """To be called while it `is_ahead` and nothing is unsent. None: not now, or never.

        With the kernel's channel, and when it raises CannotMove, `channel` is of no use any more.
        """
        keeps_keys = self._connection.both_keep_keys
        if keeps_keys is None or not isinstance(channel, RecordChannel) or not channel.is_between_records:
            return None
        self._stop()
        if not self._records.takes(channel.cipher, keeps_keys=keeps_keys):
            return None
        return self._records.move(sock, channel, keeps_keys=keeps_keys)

    def _stop(self) -> None:
        self.is_ahead, self.read_at_most = False, 0
