# SPDX-License-Identifier: Apache-2.0
"""What is to be sent besides payload: an alert, a KeyUpdate. The opener notes it, the channel seals it.

An alert is the last thing of all, and the first one is what counts: what goes wrong later follows from it.
"""

from nodeagent.tls.alert import Alert


class Control:
    """Of one connection."""

    __slots__ = ("alert", "asks_for_key_update", "is_due", "is_shut", "owes_key_update")

    def __init__(
        self,
        alert: int | None = None,
        *,
        owes_key_update: bool = False,
        asks_for_key_update: bool = False,
        is_shut: bool = False,
    ) -> None:
        self.alert = alert
        self.owes_key_update = owes_key_update
        """The peer asked for it; one answers however many requests (RFC 8446 §4.6.3)."""
        self.asks_for_key_update = asks_for_key_update
        self.is_shut = is_shut
        """Nothing is sealed any more: our alert was, or the peer gave up."""
        self.is_due = is_shut or owes_key_update or asks_for_key_update or alert is not None
        """Any of these, so that the hot path has one thing to look at."""

    def key_update(self) -> None:
        self.owes_key_update = self.is_due = True

    def ask_for_key_update(self) -> None:
        self.asks_for_key_update = self.is_due = True

    def end(self, alert: Alert) -> None:
        if self.alert is None and not self.is_shut:
            self.alert, self.is_due = alert, True

    def shut(self) -> None:
        self.alert, self.is_shut, self.is_due = None, True, True

    @property
    def has_records(self) -> bool:
        """There is something to seal."""
        return self.is_due and not self.is_shut

    def key_updated(self) -> None:
        """Ours was sealed, and answers and asks."""
        self.owes_key_update = self.asks_for_key_update = False
        self.is_due = self.is_shut or self.alert is not None
