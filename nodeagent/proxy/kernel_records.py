# SPDX-License-Identifier: Apache-2.0
"""Whether a worker's tunnels have their records made by the kernel, and how many had."""

import logging
import socket
from collections import Counter

from nodeagent.hbone.limits import Limits, Role
from nodeagent.proxy.kernel_channel import CannotMove, KernelChannel, move_into_kernel
from nodeagent.proxy.kernel_trial import KernelTls
from nodeagent.tls.channel import RecordChannel
from nodeagent.tls.key_schedule import Cipher

log = logging.getLogger(__name__)


class KernelRecords:
    """Of the process."""

    def __init__(self, found: KernelTls | None, counters: Counter[str]) -> None:
        """None: nobody asked for it."""
        self._found, self._counters = found, counters
        self._has_complained = False
        self.found = "" if found is None else str(found)
        """For people."""
        if found is not None:
            log.log(logging.INFO if found.works else logging.WARNING, "the kernel's TLS: %s", found)

    @property
    def is_wanted(self) -> bool:
        return self._found is not None and self._found.works

    def limits(self, role: Role) -> Limits:
        """What a tunnel announces."""
        return Limits.of(role, keeps_keys=self.is_wanted)

    def takes(self, cipher: Cipher, *, keeps_keys: bool) -> bool:
        """No is final, and counted: the keys of this tunnel may change, and this kernel cannot follow."""
        if self._found is not None and self._found.takes(cipher, both_keep_keys=keeps_keys):
            return True
        self._counters["kernel_tls_declined"] += 1
        return False

    def move(self, sock: socket.socket, channel: RecordChannel, *, keeps_keys: bool) -> KernelChannel:
        """As move_into_kernel, counted. Raises CannotMove."""
        try:
            moved = move_into_kernel(sock, channel, keeps_keys=keeps_keys)
        except CannotMove as error:
            self._counters["kernel_tls_failed"] += 1
            if not self._has_complained:
                self._has_complained = True
                log.warning("the kernel did not take the keys of a tunnel (%s); others are only counted", error)
            raise
        self._counters["kernel_tls_tunnels"] += 1
        return moved
