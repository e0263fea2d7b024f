# SPDX-License-Identifier: Apache-2.0
"""What one client wants of one type, and what it has. Pure.

- A type is asked for as a whole (nothing subscribed, or `*`), or on demand: `*` subscribed and unsubscribed at once,
  then by name (uid, `namespace/hostname` or `network/ip`). On demand also brings the workloads of the client's node.
  `*` may come and go later, too.
- What the client held before this stream stands in `initial_resource_versions`. On demand, these are also the names
  that it goes on asking for: else a reconnect would take away what it uses.
- A whole type is compared by what changed since the last comparison, so a change costs what it is worth and not what
  the mesh is worth; without that knowledge (a new stream, one that was left far behind) by everything.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from nodeagent.controlplane.encode import Resource
from nodeagent.controlplane.ondemand import expand, find_names
from nodeagent.controlplane.snapshot import ADDRESS, Snapshot
from nodeagent.proto import xds_pb2

ALL = "*"
MAX_NAMES = 100_000
"""Asked for by name on one stream: each costs us memory for as long as the stream lives."""


class TooMuchAsked(Exception):
    """A client wants more than one client may have; its text is for the client."""


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    """What a client lacks."""

    upserts: Sequence[Resource] = ()
    removals: Sequence[str] = ()
    is_first: bool = False
    """The client waits for it even if it is empty."""

    def __bool__(self) -> bool:
        return bool(self.upserts or self.removals or self.is_first)


class Subscription:
    def __init__(self, node: str, request: xds_pb2.DeltaDiscoveryRequest) -> None:
        """From the first request of its type."""
        self.type_url = request.type_url
        self.is_whole = not request.resource_names_subscribe
        self._held: Mapping[str, str] = dict(request.initial_resource_versions)
        """Version by name, as the client has them once it has read everything that was sent."""
        self._has_all_of: Mapping[str, Resource] | None = None
        """Instead of `_held`, once a whole type was compared: the snapshot's own, which all such clients share. A copy
        for each of 200 clients would be a hundred megabytes at 10,000 workloads."""
        self._node = node
        self._names: set[str] = set()
        """On demand: what was asked for by name and not given back."""
        self._unanswered: set[str] = set()
        """Names that are to be answered even if nothing changed: in `removed_resources` if no resource is named so."""
        self._is_answered = False
        self._compared_at: int | None = None
        """The generation whose comparison made `held` what it is; None when another comparison of everything is due."""
        self.asked(request)
        if not self.is_whole:
            self._names |= self._held.keys()

    @property
    def held(self) -> int:
        """Resources that the client has once it has read everything that was sent."""
        return len(self._held if self._has_all_of is None else self._has_all_of)

    def asked(self, request: xds_pb2.DeltaDiscoveryRequest) -> int:
        """Takes in what a request subscribes and unsubscribes; returns how many names that are.

        Raises TooMuchAsked.
        """
        subscribed, given_back = set(request.resource_names_subscribe), set(request.resource_names_unsubscribe)
        count = len(subscribed) + len(given_back)
        is_whole = (self.is_whole or ALL in subscribed) and ALL not in given_back
        subscribed -= given_back | {ALL}
        if is_whole is not self.is_whole or given_back:
            self._compared_at = None
        self.is_whole = is_whole
        self._names = (self._names - given_back) | subscribed
        self._unanswered |= subscribed
        if len(self._names) > MAX_NAMES:
            raise TooMuchAsked(f"more than {MAX_NAMES} resources asked for by name: subscribe to all instead")
        return count

    def compare(self, snapshot: Snapshot) -> Change:
        """What is due; it counts as sent."""
        changed = None if self._compared_at is None else snapshot.changed_since(self._compared_at, self.type_url)
        if not (changed is None or changed or self._unanswered):
            self._compared_at = snapshot.generation
            return Change()
        asked, nameless = self._find_asked(snapshot)
        if self.is_whole and changed is not None:
            upserts, removals = self._compare_names(snapshot, changed, asked)
        else:
            upserts, removals = self._compare_all(snapshot, asked)
        is_first, self._is_answered = not self._is_answered, True
        self._compared_at = snapshot.generation
        return Change(upserts, sorted(removals | nameless), is_first)

    def _find_asked(self, snapshot: Snapshot) -> tuple[set[str], set[str]]:
        """Names of resources that must be sent whatever the client has, and names that no resource has as its own.

        Of an address that something has this is the second half of the answer: a ztunnel waits for the very name that
        it asked for, and does not look at aliases (DECISIONS.md, 77).
        """
        known = snapshot.of_type(self.type_url)
        asked: set[str] = set()
        nameless: set[str] = set()
        for name in self._unanswered:
            found = find_names(name, snapshot) if self.type_url == ADDRESS else {name} & known.keys()
            asked |= found
            if name not in found:
                nameless.add(name)
        self._unanswered = set()
        return asked, nameless

    def _compare_names(
        self, snapshot: Snapshot, changed: Iterable[str], asked: set[str]
    ) -> tuple[list[Resource], set[str]]:
        known = snapshot.of_type(self.type_url)
        names = {*changed, *asked}
        upserts = [
            known[name]
            for name in names
            if name in known and (name in asked or self._version(name) != known[name].version)
        ]
        removals = {name for name in names if name not in known and self._version(name) is not None}
        self._has_all_of = known
        return snapshot.in_order(upserts), removals

    def _compare_all(self, snapshot: Snapshot, asked: set[str]) -> tuple[list[Resource], set[str]]:
        known = snapshot.of_type(self.type_url)
        if self.is_whole:
            wanted: Mapping[str, Resource] = known
        else:
            names = (
                expand(self._node, self._names, snapshot) if self.type_url == ADDRESS else self._names & known.keys()
            )
            resources = snapshot.in_order([known[name] for name in names | asked])
            wanted = {resource.name: resource for resource in resources}
        upserts = [
            resource for name, resource in wanted.items() if name in asked or self._version(name) != resource.version
        ]
        before = self._held if self._has_all_of is None else self._has_all_of
        removals = before.keys() - wanted.keys()
        if self.is_whole:
            self._has_all_of, self._held = known, {}
        else:
            self._has_all_of, self._held = None, {name: resource.version for name, resource in wanted.items()}
        return upserts, removals

    def _version(self, name: str) -> str | None:
        """As the client has it; None when it has no such thing."""
        if self._has_all_of is None:
            return self._held.get(name)
        resource = self._has_all_of.get(name)
        return None if resource is None else resource.version
