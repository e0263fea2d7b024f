# SPDX-License-Identifier: Apache-2.0
"""One delta-xDS stream, sans-I/O: a request arrived -> what it says; a snapshot is current -> what is to be sent.

- A type is asked for as a whole (nothing subscribed, or `*`), or on demand: `*` subscribed and unsubscribed at once,
  then by name (uid, `namespace/hostname` or `network/ip`). On demand also brings the workloads of the client's node.
- The first answer of a type comes even when it is empty: the client is ready by it. A type unknown here is empty.
- Afterwards only what differs from what the client holds is sent. What it held before this stream stands in
  `initial_resource_versions`; versions are content hashes, so a resume sends changes and removals alone.
- Of one change, policies that come or change are sent before the workloads that name them, and policies that go after
  the workloads that named them: at no moment does a client hold a workload whose policy it lacks. (istiod sends
  addresses first.) The same holds of extensions, which are about Services and workloads.
- A refused resource is not sent again until it changes.
"""

import dataclasses
from collections.abc import Iterable

from nodeagent.controlplane.encode import Resource
from nodeagent.controlplane.ondemand import expand, find_names
from nodeagent.controlplane.snapshot import ADDRESS, AUTHORIZATION, EXTENSION, Snapshot
from nodeagent.proto import xds_pb2

_ALL = "*"
_ENCLOSING = (EXTENSION, AUTHORIZATION)
"""What comes goes out before addresses, what goes after them."""


@dataclasses.dataclass(frozen=True, slots=True)
class Subscribed:
    type_url: str
    held: int
    """Resources that the client says it has from an earlier stream."""


@dataclasses.dataclass(frozen=True, slots=True)
class Accepted:
    type_url: str
    nonce: str


@dataclasses.dataclass(frozen=True, slots=True)
class Refused:
    type_url: str
    nonce: str
    message: str


@dataclasses.dataclass(slots=True)
class _Subscription:
    is_whole: bool
    held: dict[str, str]
    """Version by name, as the client has them once it has read everything that was sent."""
    names: set[str] = dataclasses.field(default_factory=set)
    """On demand: what was asked for by name and not given back."""
    unanswered: set[str] = dataclasses.field(default_factory=set)
    """Names that are to be answered even if nothing changed, in `removed_resources` if there is no such thing."""
    is_answered: bool = False


class DeltaStream:
    def __init__(self, node: str) -> None:
        self.node = node
        self._subscriptions: dict[str, _Subscription] = {}
        self._sent = 0

    def received(self, request: xds_pb2.DeltaDiscoveryRequest) -> Subscribed | Accepted | Refused:
        """What the request says. The answers that it calls for come with the next `due`."""
        subscription = self._subscriptions.get(request.type_url)
        if subscription is None:
            subscription = self._subscriptions[request.type_url] = _opened(request)
            event: Subscribed | Accepted | Refused = Subscribed(request.type_url, len(subscription.held))
        elif request.HasField("error_detail"):
            event = Refused(request.type_url, request.response_nonce, request.error_detail.message)
        else:
            event = Accepted(request.type_url, request.response_nonce)
        given_back = set(request.resource_names_unsubscribe) - {_ALL}
        subscription.names -= given_back
        asked = set(request.resource_names_subscribe) - {_ALL} - given_back
        subscription.names |= asked
        subscription.unanswered |= asked
        return event

    def due(self, snapshot: Snapshot) -> list[xds_pb2.DeltaDiscoveryResponse]:
        """Everything to be sent now, in order; it counts as sent."""
        changes = {url: self._compare(url, snapshot) for url in self._subscriptions}
        enclosing = {url: changes.pop(url) for url in _ENCLOSING if url in changes}
        responses = [
            self._respond(url, snapshot, change.upserts, ())
            for url, change in enclosing.items()
            if change.upserts or change.is_first
        ]
        responses.extend(
            self._respond(url, snapshot, change.upserts, change.removals) for url, change in changes.items() if change
        )
        responses.extend(
            self._respond(url, snapshot, [], change.removals) for url, change in enclosing.items() if change.removals
        )
        return responses

    def _compare(self, type_url: str, snapshot: Snapshot) -> "_Change":
        subscription = self._subscriptions[type_url]
        known = snapshot.of_type(type_url)
        asked: set[str] = set()
        missing: set[str] = set()
        for name in subscription.unanswered:
            found = find_names(name, snapshot) if type_url == ADDRESS else {name} & known.keys()
            asked |= found
            if not found:
                missing.add(name)
        wanted = known.keys() if subscription.is_whole else expand(self.node, subscription.names, snapshot) | asked
        held = subscription.held
        upserts = [
            known[name] for name in known if name in wanted and (name in asked or held.get(name) != known[name].version)
        ]
        removals = sorted((held.keys() - wanted) | missing)
        is_first = not subscription.is_answered
        subscription.held = {name: known[name].version for name in wanted if name in known}
        subscription.unanswered = set()
        subscription.is_answered = True
        return _Change(upserts, removals, is_first)

    def _respond(
        self, type_url: str, snapshot: Snapshot, resources: Iterable[Resource], removed: Iterable[str]
    ) -> xds_pb2.DeltaDiscoveryResponse:
        self._sent += 1
        response = xds_pb2.DeltaDiscoveryResponse(
            system_version_info=str(snapshot.generation),
            type_url=type_url,
            nonce=f"{snapshot.generation}/{self._sent}",
            removed_resources=removed,
        )
        has_aliases = not self._subscriptions[type_url].is_whole
        for resource in resources:
            message = response.resources.add(
                name=resource.name, version=resource.version, aliases=resource.aliases if has_aliases else ()
            )
            message.resource.type_url = type_url
            message.resource.value = resource.value
        return response


@dataclasses.dataclass(frozen=True, slots=True)
class _Change:
    upserts: list[Resource] = dataclasses.field(default_factory=list)
    removals: list[str] = dataclasses.field(default_factory=list)
    is_first: bool = False

    def __bool__(self) -> bool:
        return bool(self.upserts or self.removals or self.is_first)


def _opened(request: xds_pb2.DeltaDiscoveryRequest) -> _Subscription:
    subscribed, unsubscribed = set(request.resource_names_subscribe), set(request.resource_names_unsubscribe)
    is_whole = not subscribed or (_ALL in subscribed and _ALL not in unsubscribed)
    return _Subscription(is_whole, dict(request.initial_resource_versions))
