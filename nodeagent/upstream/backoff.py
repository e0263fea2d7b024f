# SPDX-License-Identifier: Apache-2.0
"""How long to wait before the next try. Pure: the random draw is an argument."""

from collections.abc import Callable

SPREAD = 0.2
"""Each delay is drawn within 20 % around its nominal value, so that the agents of a mesh do not come back in step."""


def delay(failures: int, first: float, longest: float, pick: Callable[[], float]) -> float:
    """Seconds after the `failures`-th failure in a row (1 or more): `first`, doubling up to `longest`, then spread.

    `pick` draws from [0, 1); 0.5 gives the nominal value.
    """
    nominal = min(longest, first * 2.0 ** min(failures - 1, 40))  # 40: far above any ratio, far below overflow
    return nominal * (1.0 - SPREAD + 2.0 * SPREAD * pick())
