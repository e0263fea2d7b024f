# SPDX-License-Identifier: Apache-2.0
"""Delta ADS as a client speaks it, without I/O: a method says what happened and returns what to do, in order.

The rules:

- A stream begins with one subscription for each type, to everything (wildcard). It tells what is held from earlier
  streams, or from disk, so that only the difference comes back.
- Each answer is applied, then acknowledged. A resource that cannot be used is refused by name, with the reason; the
  others of the same answer are applied all the same, and what was held under the refused name stays in force.
- A removal carries only a name: it removes what was held under that name, be it a workload or a service.
- What an answer repeats without a change is not reported as a change.
- Synced is who has acknowledged an answer of each type (an empty one too). A first answer with a refused resource does
  not count: the control plane is to be heard once without an error before anybody relies on the state. Extensions are
  ours alone: an istiod need not answer about them, and one that ends the stream because of them is asked without them
  next time. They are asked for first, so that whoever has any tells them first.

An empty first answer is not an order to delete everything. On a resumed stream
- an answer without resources and without removals means "nothing has changed";
- removals are computed by the control plane from the names we sent, so one that came up empty (a cache not yet filled,
  the wrong cluster, an empty directory) removes all we hold. Addresses are the judge: a mesh without a single workload
  or service is none. An answer that would leave us without any address is refused, and the stream is abandoned: nothing
  of it is applied, and the next stream asks again with the same names, so that a control plane which has found its
  state answers with the exact difference. A mesh that really was emptied while we were away is therefore served from
  the last good state until anything is in it again;
- policies or extensions alone may well be emptied: the last one was deleted. Such an answer waits for the judgement
  about the addresses of its stream.
Removals later on a stream are believed: they are about what this control plane itself has sent or confirmed.
"""

import enum
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from nodeagent.model.mesh import Changes
from nodeagent.model.policy import Policy
from nodeagent.model.sharing import share_text
from nodeagent.model.traffic import Extension
from nodeagent.model.workload import Service, Workload

MAX_REASON_TEXT = 4096
"""Characters of a refusal: it is one log line of the control plane. What does not fit is counted."""


class Kind(enum.Enum):
    """A subscribed type; the value is its type URL. In the order of subscription."""

    EXTENSION = "type.googleapis.com/nodeagent.extension.v1.Extension"
    ADDRESS = "type.googleapis.com/istio.workload.Address"
    AUTHORIZATION = "type.googleapis.com/istio.security.Authorization"


_INDISPENSABLE = frozenset({Kind.ADDRESS, Kind.AUTHORIZATION})

Value: TypeAlias = Workload | Service | Policy | Extension


class Resource(msgspec.Struct, frozen=True, gc=False):
    """A decoded resource. `name` is the key of `value` (a workload's uid, a service's or policy's key)."""

    name: str
    version: str
    value: Value


@dataclass(frozen=True, slots=True)
class Rejected:
    """A resource that cannot be used, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Answer:
    """One DeltaDiscoveryResponse, decoded."""

    kind: Kind
    nonce: str
    resources: tuple[Resource, ...] = ()
    rejected: tuple[Rejected, ...] = ()
    removed: tuple[str, ...] = ()


class LastGood(msgspec.Struct, frozen=True, omit_defaults=True):
    """All that is held: enough to serve, and to resume. Versions are by name; istiod gives policies an empty one."""

    everything: Changes
    address_versions: dict[str, str] = {}
    policy_versions: dict[str, str] = {}
    extension_versions: dict[str, str] = {}


class Step(msgspec.Struct, frozen=True, omit_defaults=True):
    """What has become of some names that are held: those that have come or changed, and those that are gone."""

    news: LastGood
    removed_addresses: tuple[str, ...] = ()
    removed_policies: tuple[str, ...] = ()
    removed_extensions: tuple[str, ...] = ()


# ---- commands ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Subscribe:
    """The first request of a type on a stream; it carries the node."""

    kind: Kind
    versions: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Apply:
    changes: Changes


@dataclass(frozen=True, slots=True)
class Acknowledge:
    kind: Kind
    nonce: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """A NACK; `reason` is for the control plane's log and for ours."""

    kind: Kind
    nonce: str
    reason: str


@dataclass(frozen=True, slots=True)
class Abandon:
    """End this stream and come back later."""

    reason: str


Command = Subscribe | Apply | Acknowledge | Refuse | Abandon


class Delta:
    """What is held, and the conversation about it."""

    def __init__(self) -> None:
        self._held: dict[Kind, dict[str, Resource]] = {kind: {} for kind in Kind}
        self._unsaved: dict[Kind, set[str]] | None = None
        """Names of what has changed since it was asked for; None: it was not asked for yet."""
        self._acknowledged: set[Kind] = set()
        self._asks_for_extensions = True
        # Of the current stream:
        self._unanswered: set[Kind] = set()
        self._waiting: list[Answer] = []
        """Answers about policies and extensions that wait for the judgement about addresses, in order."""

    @property
    def is_synced(self) -> bool:
        """An answer of each indispensable type was acknowledged since this process began; never taken back."""
        return self._acknowledged >= _INDISPENSABLE

    def count(self, kind: Kind) -> int:
        return len(self._held[kind])

    def last_good(self) -> LastGood:
        self._unsaved = {kind: set() for kind in Kind}
        return _together(self._held)

    def take_news(self) -> Step:
        """What has changed since this or `last_good` was asked. Not before `last_good`: until then nothing is noted."""
        assert self._unsaved is not None
        names, self._unsaved = self._unsaved, {kind: set() for kind in Kind}
        news = {kind: {name: held[name] for name in names[kind] if name in held} for kind, held in self._held.items()}
        gone = {kind: tuple(sorted(names[kind] - news[kind].keys())) for kind in Kind}
        return Step(
            _together(news),
            removed_addresses=gone[Kind.ADDRESS],
            removed_policies=gone[Kind.AUTHORIZATION],
            removed_extensions=gone[Kind.EXTENSION],
        )

    def restored(self, held: LastGood) -> None:
        """What an earlier process left; before the first stream."""
        addresses, policies = self._held[Kind.ADDRESS], self._held[Kind.AUTHORIZATION]
        for workload in held.everything.workloads:
            addresses[workload.uid] = Resource(workload.uid, held.address_versions.get(workload.uid, ""), workload)
        for service in held.everything.services:
            key = share_text(service.key)  # made anew by each call, and the mesh keeps it too
            addresses[key] = Resource(key, held.address_versions.get(key, ""), service)
        for policy in held.everything.policies:
            key = share_text(policy.key)
            policies[key] = Resource(key, held.policy_versions.get(key, ""), policy)
        for extension in held.everything.extensions:
            name = share_text(extension.name)
            self._held[Kind.EXTENSION][name] = Resource(name, held.extension_versions.get(name, ""), extension)

    def stream_opened(self) -> list[Command]:
        asked = [kind for kind in Kind if kind is not Kind.EXTENSION or self._asks_for_extensions]
        self._asks_for_extensions = True  # on the next stream again: it may be another control plane's
        self._unanswered = set(asked)
        self._waiting = []
        return [Subscribe(kind, self._versions(kind)) for kind in asked]

    def extensions_refused(self) -> bool:
        """The stream has ended, as if it were for asking for them. Whether that can be: then the next does not ask."""
        if Kind.EXTENSION not in self._unanswered:
            return False
        self._asks_for_extensions = False
        return True

    def answered(self, answer: Answer) -> list[Command]:
        if answer.kind is Kind.ADDRESS:
            return self._addresses_answered(answer)
        if self._waiting or (self._is_first(answer) and self._would_empty(answer) and self._is_unjudged()):
            self._waiting.append(answer)
            return []
        return self._absorb(answer)

    def _addresses_answered(self, answer: Answer) -> list[Command]:
        if self._is_first(answer) and self._would_empty(answer):
            reason = f"the first answer removes all {len(self._held[answer.kind])} addresses that are held"
            return [Refuse(answer.kind, answer.nonce, reason), Abandon(reason)]
        commands = self._absorb(answer)
        while self._waiting:
            commands += self._absorb(self._waiting.pop(0))
        return commands

    def _is_first(self, answer: Answer) -> bool:
        return answer.kind in self._unanswered

    def _is_unjudged(self) -> bool:
        """Whether there are addresses to judge this stream by, and it has not spoken of them yet."""
        return bool(self._held[Kind.ADDRESS]) and Kind.ADDRESS in self._unanswered

    def _would_empty(self, answer: Answer) -> bool:
        """Whether something is held of this type, and nothing would be afterwards. Conflicting names are kept."""
        held = self._held[answer.kind]
        return bool(held) and not answer.resources and held.keys() <= set(answer.removed)

    def _absorb(self, answer: Answer) -> list[Command]:
        self._unanswered.discard(answer.kind)
        contradicted = _contradicted(answer)
        changes = self._update(answer, {rejected.name for rejected in contradicted})
        commands: list[Command] = [Apply(changes)] if changes else []
        rejected = (*answer.rejected, *contradicted)
        if rejected:
            return [*commands, Refuse(answer.kind, answer.nonce, _joined(rejected))]
        self._acknowledged.add(answer.kind)
        return [*commands, Acknowledge(answer.kind, answer.nonce)]

    def _update(self, answer: Answer, left_out: set[str]) -> Changes:
        held = self._held[answer.kind]
        added: list[Value] = []
        gone: list[Resource] = []
        for resource in answer.resources:
            if resource.name in left_out:
                continue
            before = held.get(resource.name)
            held[resource.name] = resource
            if self._unsaved is not None and before != resource:
                self._unsaved[answer.kind].add(resource.name)
            if before is None or before.value != resource.value:
                added.append(resource.value)
            if before is not None and type(before.value) is not type(resource.value):
                gone.append(before)  # a workload and a service may have had the same name, one after the other
        # The set: a name may be removed twice in one answer, and is popped once.
        removed = [held.pop(name) for name in sorted(set(answer.removed) - left_out) if name in held]
        if self._unsaved is not None:
            self._unsaved[answer.kind].update(resource.name for resource in removed)
        gone += removed
        return Changes(
            policies=tuple(value for value in added if isinstance(value, Policy)),
            extensions=tuple(value for value in added if isinstance(value, Extension)),
            services=tuple(value for value in added if isinstance(value, Service)),
            workloads=tuple(value for value in added if isinstance(value, Workload)),
            removed_policies=tuple(one.name for one in gone if isinstance(one.value, Policy)),
            removed_extensions=tuple(one.name for one in gone if isinstance(one.value, Extension)),
            removed_services=tuple(one.name for one in gone if isinstance(one.value, Service)),
            removed_workloads=tuple(one.name for one in gone if isinstance(one.value, Workload)),
        )

    def _versions(self, kind: Kind) -> dict[str, str]:
        return _versions(self._held[kind])


def _together(held: Mapping[Kind, Mapping[str, Resource]]) -> LastGood:
    addresses = [resource.value for resource in held[Kind.ADDRESS].values()]
    policies = [resource.value for resource in held[Kind.AUTHORIZATION].values()]
    extensions = [resource.value for resource in held[Kind.EXTENSION].values()]
    return LastGood(
        Changes(
            policies=tuple(value for value in policies if isinstance(value, Policy)),
            extensions=tuple(value for value in extensions if isinstance(value, Extension)),
            services=tuple(value for value in addresses if isinstance(value, Service)),
            workloads=tuple(value for value in addresses if isinstance(value, Workload)),
        ),
        address_versions=_versions(held[Kind.ADDRESS]),
        policy_versions=_versions(held[Kind.AUTHORIZATION]),
        extension_versions=_versions(held[Kind.EXTENSION]),
    )


def _versions(held: Mapping[str, Resource]) -> dict[str, str]:
    return {name: resource.version for name, resource in held.items()}


def _contradicted(answer: Answer) -> list[Rejected]:
    """Names that one answer both sends and removes, or sends twice: there is no order inside an answer."""
    times = Counter(resource.name for resource in answer.resources)
    removed = set(answer.removed)
    return [
        Rejected(name, "sent and removed in one response" if name in removed else "sent twice in one response")
        for name, sent in times.items()
        if sent > 1 or name in removed
    ]


def _joined(rejected: tuple[Rejected, ...]) -> str:
    """`name: reason; name: reason`, as ztunnel writes it, cut at a whole reason."""
    text = ""
    for index, one in enumerate(rejected):
        part = f"{'; ' if index else ''}{one.name}: {one.reason}"
        if index and len(text) + len(part) > MAX_REASON_TEXT:
            return f"{text}; and {len(rejected) - index} more"
        text += part[:MAX_REASON_TEXT]
    return text
