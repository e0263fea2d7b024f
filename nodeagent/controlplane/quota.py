# SPDX-License-Identifier: Apache-2.0
"""How many certificates a node may ask for: a token bucket for each. Pure, the time is an argument.

A node that starts asks for all of its identities at once, a hundred or so; one that asks hundreds of times a second is
broken (a certificate that is due the moment it comes), and signing for it would cost the others their turn.
"""

BURST = 500.0
PER_SECOND = 20.0
_MAX_NODES = 20_000
"""Twice the streams that are admitted; above it those are forgotten that have their full burst anyway."""


class Quota:
    def __init__(self) -> None:
        self._left: dict[str, tuple[float, float]] = {}
        """What a node had left, and when that was; a node that is not here has everything."""

    def allows(self, node: str, now: float) -> bool:
        """Whether this request is within the node's share; it is taken off then. `now` is monotonic."""
        left, since = self._left.get(node, (BURST, now))
        left = min(BURST, left + (now - since) * PER_SECOND)
        is_allowed = left >= 1.0
        self._left[node] = (left - 1.0 if is_allowed else left, now)
        if len(self._left) > _MAX_NODES:
            self._forget_the_idle(now)
        return is_allowed

    def _forget_the_idle(self, now: float) -> None:
        self._left = {
            node: (left, since)
            for node, (left, since) in self._left.items()
            if left + (now - since) * PER_SECOND < BURST
        }
