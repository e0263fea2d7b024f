# SPDX-License-Identifier: Apache-2.0
"""The last connections that ended or were refused on this node, for who asks later or follows: `nodeagent flows`.

A ring of records in memory. Nobody waits for a reader: what is pushed out before it was read is counted for them.
"""

import asyncio
import itertools
import secrets
from collections import deque
from collections.abc import Iterator, Mapping

import msgspec

from nodeagent.errors import ConfigError
from nodeagent.model.record import NO_HITS, ConnectionRecord, FlowPage, PolicyHits

KEPT = 4096
"""Records, of about 0.4 KiB each: hubble's default for a node."""
POLICIES = 4096
"""Whose hits are counted; beyond, the one that was hit longest ago is forgotten: policies come and go for years."""
PAGE = 1000
"""Records of one answer, so that a long one does not hold up the agent's loop."""

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(ConnectionRecord).decode


class FlowHistory:
    def __init__(self, kept: int = KEPT) -> None:
        self._rows: deque[bytes] = deque(maxlen=kept)
        self._ended = 0
        self._run = secrets.token_hex(4)
        """In cursors: those of a former agent say nothing of this one's numbers."""
        self._waiting: set[asyncio.Future[None]] = set()
        self._hits: dict[str, PolicyHits] = {}
        """The latest hit last."""

    @property
    def policy_hits(self) -> Mapping[str, PolicyHits]:
        """By `ns/name`: of every connection that ended, kept or not."""
        return dict(self._hits)

    def __len__(self) -> int:
        return len(self._rows)

    def ended(self, record: ConnectionRecord) -> None:
        self._rows.append(_pack(record))
        for policy in {record.policy, record.dry_run_policy} - {""}:
            self._hit(policy, record.started + record.seconds)
        self._ended += 1
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)
        self._waiting.clear()

    def _hit(self, policy: str, when: float) -> None:
        former = self._hits.pop(policy, NO_HITS)
        self._hits[policy] = PolicyHits(former.connections + 1, max(former.last, when))
        if len(self._hits) > POLICIES:
            del self._hits[next(iter(self._hits))]

    def newest(self, count: int | None = None) -> FlowPage:
        """The last `count` that are kept, or all of them, or of these the first page."""
        kept = len(self._rows)
        return self._page(self._ended - (kept if count is None else min(count, kept)), lost=0)

    def newest_first(self) -> Iterator[ConnectionRecord]:
        """All that are kept; to be gone through at once, before another one ends."""
        return map(_unpack, reversed(self._rows))

    def after(self, cursor: str) -> FlowPage:
        """What ended since; all that is kept when the cursor is a former agent's. Raises ConfigError for another."""
        run, dash, number = cursor.partition("-")
        if not (dash and number.isascii() and number.isdigit()):
            raise ConfigError(f"{cursor!r} is not a cursor", check="It comes with each answer about flows.")
        begin = min(int(number), self._ended) if run == self._run else 0
        oldest = self._ended - len(self._rows)
        return self._page(max(begin, oldest), lost=max(0, oldest - begin))

    async def follow(self, cursor: str, wait_seconds: float) -> FlowPage:
        """As `after`, but an empty answer comes only when so much time has passed."""
        page = self.after(cursor)
        if page.records or wait_seconds <= 0:
            return page
        news = asyncio.get_running_loop().create_future()
        self._waiting.add(news)
        try:
            async with asyncio.timeout(wait_seconds):
                await news
        except TimeoutError:
            return page
        finally:
            self._waiting.discard(news)
        return self.after(page.cursor)

    def _page(self, begin: int, *, lost: int) -> FlowPage:
        oldest = self._ended - len(self._rows)
        rows = itertools.islice(self._rows, begin - oldest, begin - oldest + PAGE)
        records = tuple(map(_unpack, rows))
        end = begin + len(records)
        return FlowPage(records, f"{self._run}-{end}", end < self._ended, lost)
