# SPDX-License-Identifier: Apache-2.0
"""What a client said of the responses of one type: accepted, refused, nothing yet. Pure.

A refusal stays until it is known to be over: until every resource of the refused response has been sent again (or
removed) and that was accepted. Where the client's message names resources of the response, as ztunnel's and our
agent's do, it is about those alone; otherwise about all of them.
"""

import dataclasses
import enum
from collections.abc import Iterable

MAX_ERROR_CHARACTERS = 1000
"""Of a client's message that are kept and shown."""
KEPT = 64
"""Unanswered responses that are remembered: a client that never answers does not fill our memory."""


class State(enum.StrEnum):
    """istioctl's words, but for NACKED."""

    SYNCED = "SYNCED"
    """Everything that was sent is accepted."""
    STALE = "STALE"
    """Something that was sent is not answered yet."""
    NACKED = "NACKED"
    """The client refused something that it has not got a better version of."""
    NOT_SENT = "NOT SENT"
    """Nothing was sent yet."""


@dataclasses.dataclass(frozen=True, slots=True)
class Sent:
    nonce: str
    version: str
    at: float
    names: frozenset[str] = frozenset()
    """Of its resources and removals."""


@dataclasses.dataclass(frozen=True, slots=True)
class Refusal:
    nonce: str
    version: str
    message: str
    names: frozenset[str]
    """What is still refused."""


class Answers:
    def __init__(self) -> None:
        self.last_sent: Sent | None = None
        self.last_accepted: Sent | None = None
        self.refusals: list[Refusal] = []
        """Those that are not over, oldest first."""
        self.refused = 0
        """Ever."""
        self._open: dict[str, Sent] = {}

    @property
    def state(self) -> State:
        if self.refusals:
            return State.NACKED
        if self.last_sent is None:
            return State.NOT_SENT
        return State.STALE if self._open else State.SYNCED

    @property
    def unanswered(self) -> int:
        return len(self._open)

    @property
    def waits_since(self) -> float | None:
        """When the oldest unanswered response was sent."""
        return min((sent.at for sent in self._open.values()), default=None)

    def sent(self, sent: Sent) -> None:
        self._open[sent.nonce] = sent
        self.last_sent = _without_names(sent)
        while len(self._open) > KEPT:
            del self._open[next(iter(self._open))]

    def accepted(self, nonce: str) -> bool:
        """False for a nonce that is not awaited."""
        sent = self._answered(nonce)
        if sent is None:
            return False
        self.last_accepted = _without_names(sent)
        self._settle(sent.names)
        return True

    def is_refused(self, nonce: str, message: str) -> bool:
        """False for a nonce that is not awaited."""
        sent = self._answered(nonce)
        if sent is None:
            return False
        self.refused += 1
        named = sent.names & {part.partition(": ")[0] for part in message.split("; ")}
        # What this response carried and the client does not name, it has applied.
        self._settle(sent.names - named if named else sent.names)
        self.refusals.append(Refusal(nonce, sent.version, message[:MAX_ERROR_CHARACTERS], named or sent.names))
        del self.refusals[:-KEPT]
        return True

    def _answered(self, nonce: str) -> Sent | None:
        """Answers come in order: what was sent before is answered too, whether it was acknowledged or not."""
        if nonce not in self._open:
            return None
        while True:
            first = next(iter(self._open))
            sent = self._open.pop(first)
            if first == nonce:
                return sent

    def _settle(self, names: Iterable[str]) -> None:
        """These are in force at the client as they were last sent. A refused response without names ends with any."""
        over = frozenset(names)
        self.refusals = [
            dataclasses.replace(refusal, names=refusal.names - over)
            for refusal in self.refusals
            if refusal.names - over
        ]


def _without_names(sent: Sent) -> Sent:
    """Those of a first answer are all of the mesh: kept until it is answered, and not for the life of the stream."""
    return dataclasses.replace(sent, names=frozenset())
