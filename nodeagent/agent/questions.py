# SPDX-License-Identifier: Apache-2.0
"""Asks workers for their open connections, and keeps the agent's table of them true.

The table is made from reports, which may be lost, and begins empty with each agent; a worker's own list repairs both.
"""

import asyncio
import logging
import time

from nodeagent.agent.worker import Worker
from nodeagent.model.record import ConnectionRecord
from nodeagent.proxy.messages import Connections, ListConnections
from nodeagent.telemetry.open_connections import OpenConnections

log = logging.getLogger(__name__)


class Questions:
    def __init__(self, connections: OpenConnections) -> None:
        self._connections = connections
        self._asked: dict[int, tuple[set[Worker], list[tuple[int, ConnectionRecord]]]] = {}
        self._last = 0
        self._news = asyncio.Event()

    def answered(self, worker: Worker, answer: Connections) -> None:
        silent, found = self._asked.get(answer.request, (set(), []))
        if worker in silent:  # later than we waited, or twice: of no use
            found.extend((worker.slot, self._connections.named(worker.pid, record)) for record in answer.records)
            if answer.is_last:
                silent.discard(worker)
                self._news.set()

    def worker_gone(self) -> None:
        """Nobody waits for the answer of a worker whose `gone` is set."""
        self._news.set()

    async def ask(
        self, workers: set[Worker], timeout_seconds: float
    ) -> tuple[list[tuple[int, ConnectionRecord]], bool]:
        """Open connections with their worker's slot, and whether every worker told all of its own."""
        self._last += 1
        request, silent = self._last, set(workers)
        found: list[tuple[int, ConnectionRecord]] = []
        self._asked[request] = silent, found
        try:
            for worker in workers:
                worker.send(ListConnections(request))
            async with asyncio.timeout(timeout_seconds):
                while not all(worker.gone.is_set() for worker in silent):
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            slots = sorted(worker.slot for worker in silent)
            log.warning("workers %s did not list their connections within %g s", slots, timeout_seconds)
        finally:
            del self._asked[request]
        return found, not silent

    async def observe(self, worker: Worker, timeout_seconds: float) -> None:
        """Brings its connections into the table, and their bytes into the metrics. Half a list tells nothing."""
        with self._connections.asking(worker.pid) as ended:
            found, is_whole = await self.ask({worker}, timeout_seconds)
            if is_whole and not worker.gone.is_set():  # who is gone was told to the table already, for good
                self._connections.observed(worker.pid, tuple(record for _, record in found), time.time(), ended)
