# SPDX-License-Identifier: Apache-2.0
"""The last good state as bytes: a line that names format and version, then records. Pure.

A record is its length, the SHA-256 of its body, and the body in msgpack. The first says whose state it is, the next are
the whole of it in parts, the last of which says so, and each that follows is what changed later: so a change costs what
it is worth and not what the mesh is worth.

Records are only ever appended, so a writer that is killed leaves the beginning of one behind. That is left out, and the
state is the one before. Anything else that is not as it was written makes the whole unusable, as does a whole that
lacks a part: a policy would be missing from it.
"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import TypeVar

import msgspec

from nodeagent.model.mesh import Changes, split
from nodeagent.model.policy import Policy
from nodeagent.model.sharing import share
from nodeagent.model.traffic import Extension
from nodeagent.model.workload import Service, Workload
from nodeagent.xds.delta import LastGood, Step

MAGIC = b"nodeagent last good state 2\n"
"""The number is the version of the records; there is no migration, an older file is ignored."""
PART_VALUES = 256
"""Of one record of the whole: some 100 KB, so that writing 10,000 workloads does not take their size in memory."""

_LENGTH_BYTES = 8
_DIGEST_BYTES = hashlib.sha256().digest_size
_T = TypeVar("_T")


class Unusable(Exception):
    """Why a file is ignored."""


class Owner(msgspec.Struct, frozen=True):
    cluster: str
    node: str


class Saved(msgspec.Struct, frozen=True):
    saved_at: float
    """Unix time, seconds: when the control plane was last known to agree, even if nothing had changed."""
    last_good: LastGood


class _Record(msgspec.Struct, frozen=True, omit_defaults=True):
    saved_at: float
    step: Step
    is_whole: bool = False
    """With it everything is there that was held when this file was begun."""


_encoder = msgspec.msgpack.Encoder()
_owners = msgspec.msgpack.Decoder(Owner)
_records = msgspec.msgpack.Decoder(_Record)


def encode_whole(owner: Owner, last_good: LastGood, now: float) -> Iterator[bytes]:
    """A file from its first byte, in parts."""
    yield MAGIC + _framed(_encoder.encode(owner))
    parts = list(split(last_good.everything, PART_VALUES)) or [Changes()]
    for number, part in enumerate(parts, 1):
        yield _framed(_encoder.encode(_Record(now, _with_versions(part, last_good), is_whole=number == len(parts))))


def encode_step(step: Step, now: float) -> bytes:
    """What is appended to it."""
    return _framed(_encoder.encode(_Record(now, step)))


def decode(content: bytes, owner: Owner) -> Saved:
    """Raises Unusable or MsgspecError when it is not a whole state of this owner."""
    if not content.startswith(MAGIC):
        raise Unusable("it has another format or version")
    bodies = list(_bodies(memoryview(content)[len(MAGIC) :]))
    if not bodies:
        raise Unusable("it is damaged, its end is missing")
    found = _owners.decode(bodies[0])
    if found != owner:
        raise Unusable(f"it is of node {found.node!r} in cluster {found.cluster!r}")
    state = _State()
    for body in bodies[1:]:
        state.add(_records.decode(body))
    if not state.is_whole:
        raise Unusable("it is damaged, its end is missing")
    return Saved(state.saved_at, state.last_good())


def _framed(body: bytes) -> bytes:
    return len(body).to_bytes(_LENGTH_BYTES, "big") + hashlib.sha256(body).digest() + body


def _bodies(content: memoryview) -> Iterator[memoryview]:
    """Up to the last whole record. Raises Unusable for one that is damaged."""
    at = 0
    while len(content) - at >= _LENGTH_BYTES + _DIGEST_BYTES:
        start = at + _LENGTH_BYTES + _DIGEST_BYTES
        end = start + int.from_bytes(content[at : at + _LENGTH_BYTES], "big")
        if end > len(content):
            return
        if hashlib.sha256(content[start:end]).digest() != content[at + _LENGTH_BYTES : start]:
            raise Unusable("it is damaged, a checksum does not match")
        yield content[start:end]
        at = end


def _with_versions(part: Changes, whole: LastGood) -> Step:
    def some(versions: Mapping[str, str], *names: str) -> dict[str, str]:
        return {name: versions[name] for name in names if name in versions}

    addresses = (*(one.key for one in part.services), *(one.uid for one in part.workloads))
    return Step(
        LastGood(
            part,
            address_versions=some(whole.address_versions, *addresses),
            policy_versions=some(whole.policy_versions, *(one.key for one in part.policies)),
            extension_versions=some(whole.extension_versions, *(one.name for one in part.extensions)),
        )
    )


class _State:
    """What the records say together."""

    def __init__(self) -> None:
        self.is_whole = False
        self.saved_at = 0.0
        self._addresses: dict[str, Workload | Service] = {}
        self._policies: dict[str, Policy] = {}
        self._extensions: dict[str, Extension] = {}
        self._versions: tuple[dict[str, str], dict[str, str], dict[str, str]] = ({}, {}, {})

    def add(self, record: _Record) -> None:
        step, news = record.step, record.step.news
        self.saved_at, self.is_whole = record.saved_at, self.is_whole or record.is_whole
        addresses, policies, extensions = self._versions
        _remove(step.removed_addresses, self._addresses, addresses)
        _remove(step.removed_policies, self._policies, policies)
        _remove(step.removed_extensions, self._extensions, extensions)
        self._addresses.update((one.key, one) for one in news.everything.services)
        self._addresses.update((one.uid, share(one)) for one in news.everything.workloads)
        self._policies.update((one.key, one) for one in news.everything.policies)
        self._extensions.update((one.name, one) for one in news.everything.extensions)
        addresses.update(news.address_versions)
        policies.update(news.policy_versions)
        extensions.update(news.extension_versions)

    def last_good(self) -> LastGood:
        values = self._addresses.values()
        return LastGood(
            Changes(
                policies=tuple(self._policies.values()),
                extensions=tuple(self._extensions.values()),
                services=tuple(value for value in values if isinstance(value, Service)),
                workloads=tuple(value for value in values if isinstance(value, Workload)),
            ),
            *self._versions,
        )


def _remove(names: tuple[str, ...], values: dict[str, _T], versions: dict[str, str]) -> None:
    for name in names:
        values.pop(name, None)
        versions.pop(name, None)
