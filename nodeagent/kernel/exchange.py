# SPDX-License-Identifier: Apache-2.0
"""Programs that tell of packets in the place of the usual ones, for as long as a trace lasts.

They are exchanged in place, from one packet to the next, at the hooks of the last reconcile. One meanwhile
wants them too. Whatever fails at the end, the next one wants the usual ones again and repairs what was left.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

from nodeagent.errors import KernelError, NotPossible
from nodeagent.kernel.attach import Attacher, Hook, Program
from nodeagent.kernel.loader import Cancellation
from nodeagent.kernel.pins import Pins
from nodeagent.kernel.programs import Programs
from nodeagent.kernel.tracing import Trace, WantedTrace

log = logging.getLogger(__name__)


class Exchange:
    def __init__(
        self,
        pins: Pins,
        programs: Programs,
        lock: AbstractContextManager[object],
        attaching: Callable[[], AbstractContextManager[Attacher]],
    ) -> None:
        """`lock`: that of a reconcile, reentrant and held by who asks for `attaching`."""
        self._pins, self._programs, self._lock, self._attaching = pins, programs, lock, attaching
        self.filters: Mapping[Hook, str] = {}
        """Names of the programs that the last reconcile wanted, in the order in which they are attached."""
        self.is_tracing = False
        """What a trace needs is being made, or there."""
        self._trace_lock = threading.Lock()
        """One start or end of a trace at a time; held while it is compiled."""

    def start(self, wanted: WantedTrace, cancellation: Cancellation | None = None) -> Trace:
        """From its return on, programs that tell of packets run in the place of those that do not.

        May compile for seconds, in which nothing else waits, unless `cancellation` is set: LoadCancelled then. Raises
        NotPossible while another trace runs, KernelError.
        """
        with self._trace_lock:
            if self.is_tracing:
                raise NotPossible(
                    "another trace runs on this node",
                    check="There is one at a time; it ends by itself, or see the log.",
                )
            with self._lock:  # no reconcile takes away meanwhile what is made from here on
                self.is_tracing = True
            try:
                variants = self._programs.load_variants(cancellation)
                trace = Trace(self._pins.trace)
                try:
                    trace.ask(wanted)
                    self._exchange(variants)
                except BaseException:
                    trace.close()
                    raise
            except BaseException:
                self._end()
                raise
            return trace

    def stop(self) -> None:
        """The usual programs are back, and what a trace has made is gone; none running is fine. Raises KernelError."""
        with self._trace_lock:
            if self.is_tracing:
                self._end()

    def _end(self) -> None:
        """Whatever fails, the next reconcile wants the usual programs, and takes away the pins that stay."""
        try:
            with self._lock:
                self._programs.variants = {}
            if self._exchange({}):
                self._pins.remove_trace()
        finally:
            self.is_tracing = False

    def _exchange(self, variants: Mapping[str, Program]) -> bool:
        """In place, from one packet to the next. Where that fails the next reconcile finds another one, and repairs it.

        Whether it failed nowhere. Raises KernelError when nothing can be done.
        """
        is_whole = True
        try:
            with self._lock, self._attaching() as attacher:
                self._programs.variants = dict(variants)
                programs = self._programs.in_force
                for hook, name in self.filters.items():
                    try:
                        if name in programs and attacher.find(hook):
                            attacher.attach(hook, programs[name])
                    except (KernelError, OSError) as error:  # a pod's device may go at any moment; the others go on
                        is_whole = False
                        log.warning("%s: %s; looked at again with the next reconcile", hook.pin_name, error)
        except OSError as error:
            raise KernelError(f"exchanging the programs: {error}") from error
        return is_whole
