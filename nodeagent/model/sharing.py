# SPDX-License-Identifier: Apache-2.0
"""What many workloads have in common is held once: of ten thousand workloads that is half of their memory.

A decoder makes each text anew, also one that it has made for the workload before. `share` exchanges those that repeat
for one of them, as it does mappings of Services and lists of policies, which all endpoints of a Service have alike.

Texts are not interned: the interpreter's own table does not use the place of a text that is gone again before it is
made anew, larger, for its thirty thousand others as well. A mesh of ten thousand workloads made it 1 MiB larger.
"""

from functools import lru_cache

from msgspec.structs import force_setattr

from nodeagent.model.workload import ServicePort, Workload

_TEXTS = (
    "namespace",
    "network",
    "trust_domain",
    "service_account",
    "node",
    "cluster",
    "canonical_name",
    "canonical_revision",
    "workload_type",
    "workload_name",
    "region",
    "zone",
    "subzone",
)
_MOST = 4096
"""Mappings that are remembered: those of the workloads that came last, and endpoints of a Service come together."""
_MOST_TEXTS = 1 << 14
"""A mesh of ten thousand workloads has some five thousand. What comes after them begins anew."""
_texts: dict[str, str] = {}


def share(workload: Workload) -> Workload:
    """The same one, which nobody else must have seen yet: it is equal to what it was, and smaller."""
    own = workload.name
    for field in _TEXTS:
        text = getattr(workload, field)
        # A pod that nobody else has made has its own name in several of them, and it repeats nowhere else.
        force_setattr(workload, field, own if text == own else share_text(text))
    force_setattr(workload, "services", _services(tuple(workload.services.items())))
    force_setattr(workload, "policies", _policies(workload.policies))
    return workload


def share_text(text: str) -> str:
    """Its equal that came before, if that is remembered. From any thread."""
    if len(_texts) >= _MOST_TEXTS:
        _texts.clear()
    return _texts.setdefault(text, text)


@lru_cache(maxsize=_MOST)
def _services(ports: tuple[tuple[str, tuple[ServicePort, ...]], ...]) -> dict[str, tuple[ServicePort, ...]]:
    return {share_text(key): of_service for key, of_service in ports}


@lru_cache(maxsize=_MOST)
def _policies(names: tuple[str, ...]) -> tuple[str, ...]:
    return names


def forget() -> None:
    """After a mesh has come: what was shared stays so, and what is remembered for the next takes memory itself."""
    _texts.clear()
    _services.cache_clear()
    _policies.cache_clear()
