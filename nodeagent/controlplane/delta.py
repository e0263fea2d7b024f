# SPDX-License-Identifier: Apache-2.0
"""One delta-xDS stream, sans-I/O: a request arrived -> what it says; a snapshot is current -> what is to be sent.

- The first answer of a type comes even when it is empty: the client is ready by it. A type unknown here is empty.
- Afterwards only what differs from what the client holds is sent (`subscription.py`). Versions are content hashes, so a
  resume sends changes and removals alone.
- Of one change, policies that come or change are sent before the workloads that name them, and policies that go after
  the workloads that named them: at no moment does a client hold a workload whose policy it lacks. (istiod sends
  addresses first.) Extensions come before both and go after both.
- A refused resource is not sent again until it changes; that it was refused stays to be seen (`answers.py`).
- Flow control: a client that leaves a window of responses unanswered gets no more until it answers; what changes
  meanwhile is sent as one change then. Who never answers gets that every `PATIENCE_SECONDS`: stale policies are worse.
- A response that would be too large for a client is sent in pieces.
"""

import dataclasses
from collections.abc import Iterator, Sequence

from nodeagent.controlplane.answers import Answers, Refusal, Sent, State
from nodeagent.controlplane.encode import Resource
from nodeagent.controlplane.snapshot import SENDING_ORDER, Snapshot
from nodeagent.controlplane.subscription import Subscription, TooMuchAsked
from nodeagent.proto import xds_pb2

_REFERRED_TO = SENDING_ORDER[:-1]
"""Their removals wait until nothing refers to them any more."""
WINDOW = 32
"""Responses on their way to one client: many more than an agent that works ever leaves open, few enough to be read
again in a moment."""
PATIENCE_SECONDS = 15.0
MAX_TYPES = 32
"""Of one stream; each costs a subscription. Envoy's types are about a dozen."""
MAX_RESPONSE_BYTES = 64 << 20
"""ztunnel and our agent take 200 MiB."""


@dataclasses.dataclass(frozen=True, slots=True)
class Subscribed:
    type_url: str
    held: int
    """Resources that the client says it has from an earlier stream."""


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    """Other names than before, later on the stream."""

    type_url: str
    names: int


@dataclasses.dataclass(frozen=True, slots=True)
class Accepted:
    type_url: str
    nonce: str


@dataclasses.dataclass(frozen=True, slots=True)
class Refused:
    type_url: str
    nonce: str
    message: str


@dataclasses.dataclass(frozen=True, slots=True)
class OutOfTurn:
    """It answers a response that was not sent or is answered already: nothing follows from it."""

    type_url: str
    nonce: str


Event = Subscribed | Asked | Accepted | Refused | OutOfTurn


@dataclasses.dataclass(frozen=True, slots=True)
class TypeStatus:
    """How far the client is with one type."""

    type_url: str
    state: State
    is_whole: bool
    held: int
    """Resources that it has once it has read what was sent."""
    unanswered: int
    waits_since: float | None
    """Monotonic: when the oldest unanswered response was sent."""
    sent: Sent | None
    accepted: Sent | None
    refusals: tuple[Refusal, ...]
    refused: int
    """Responses that were refused on this stream."""


class DeltaStream:
    def __init__(self, node: str) -> None:
        self.node = node
        self._subscriptions: dict[str, Subscription] = {}
        self._answers: dict[str, Answers] = {}
        self._sent = 0
        self._last_sent_at = 0.0

    def received(self, request: xds_pb2.DeltaDiscoveryRequest) -> Event:
        """What the request says; what it calls for comes with the next `due`. Raises TooMuchAsked."""
        url, nonce = request.type_url, request.response_nonce
        subscription = self._subscriptions.get(url)
        if subscription is None:
            if len(self._subscriptions) >= MAX_TYPES:
                raise TooMuchAsked(f"more than {MAX_TYPES} types on one stream")
            subscription = self._subscriptions[url] = Subscription(self.node, request)
            self._answers[url] = Answers()
            return Subscribed(url, subscription.held)
        # Also of an answer: it may carry names, and those count whatever became of its nonce.
        names = subscription.asked(request)
        answers = self._answers[url]
        if request.HasField("error_detail"):
            message = request.error_detail.message
            return Refused(url, nonce, message) if answers.is_refused(nonce, message) else OutOfTurn(url, nonce)
        if not nonce:
            return Asked(url, names)
        return Accepted(url, nonce) if answers.accepted(nonce) else OutOfTurn(url, nonce)

    def due(self, snapshot: Snapshot, now: float) -> list[xds_pb2.DeltaDiscoveryResponse]:
        """Everything to be sent now, in order; it counts as sent. `now` is monotonic."""
        if self.wait_seconds(now) is not None:
            return []
        changes = {url: self._subscriptions[url].compare(snapshot) for url in self._in_order()}
        responses: list[xds_pb2.DeltaDiscoveryResponse] = []
        for url, change in changes.items():
            is_split = url in _REFERRED_TO and change.removals
            if change.upserts or (not is_split and change):
                responses.extend(self._respond(snapshot, now, url, change.upserts, () if is_split else change.removals))
        for url in _REFERRED_TO[::-1]:
            if url in changes and changes[url].removals:
                responses.extend(self._respond(snapshot, now, url, (), changes[url].removals))
        if responses:
            self._last_sent_at = now
        return responses

    def wait_seconds(self, now: float) -> float | None:
        """How long at most nothing is due because the client has answered so little; None: it has not to wait."""
        if sum(answers.unanswered for answers in self._answers.values()) < WINDOW:
            return None
        left = self._last_sent_at + PATIENCE_SECONDS - now
        return left if left > 0 else None

    def status(self) -> tuple[TypeStatus, ...]:
        return tuple(
            TypeStatus(
                type_url=url,
                state=answers.state,
                is_whole=self._subscriptions[url].is_whole,
                held=self._subscriptions[url].held,
                unanswered=answers.unanswered,
                waits_since=answers.waits_since,
                sent=answers.last_sent,
                accepted=answers.last_accepted,
                refusals=tuple(answers.refusals),
                refused=answers.refused,
            )
            for url, answers in self._answers.items()
        )

    def _in_order(self) -> list[str]:
        first = [url for url in SENDING_ORDER if url in self._subscriptions]
        return first + [url for url in self._subscriptions if url not in SENDING_ORDER]

    def _respond(
        self, snapshot: Snapshot, now: float, url: str, upserts: Sequence[Resource], removals: Sequence[str]
    ) -> Iterator[xds_pb2.DeltaDiscoveryResponse]:
        """One response, or several when it would be too large."""
        has_aliases = not self._subscriptions[url].is_whole
        for piece in _pieces(upserts):
            self._sent += 1
            response = xds_pb2.DeltaDiscoveryResponse(
                system_version_info=str(snapshot.generation), type_url=url, nonce=f"{snapshot.generation}/{self._sent}"
            )
            for resource in piece:
                message = response.resources.add(
                    name=resource.name, version=resource.version, aliases=resource.aliases if has_aliases else ()
                )
                message.resource.type_url = url
                message.resource.value = resource.value
            response.removed_resources.extend(removals)
            names = frozenset([*(resource.name for resource in piece), *removals])
            self._answers[url].sent(Sent(response.nonce, response.system_version_info, now, names))
            yield response
            removals = ()


def _pieces(resources: Sequence[Resource]) -> Iterator[Sequence[Resource]]:
    """At least one, be it empty."""
    begin, size = 0, 0
    for at, resource in enumerate(resources):
        size += len(resource.value)
        if size > MAX_RESPONSE_BYTES and at > begin:
            yield resources[begin:at]
            begin, size = at, len(resource.value)
    yield resources[begin:]
