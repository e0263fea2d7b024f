# SPDX-License-Identifier: Apache-2.0
"""The `baggage` header: what a proxy says about the workload behind it, for the labels of metrics and logs.

Nothing here is proven: no decision may depend on it. Values are percent-coded as W3C Baggage says, which changes
nothing for names that Kubernetes allows.
"""

import re
from functools import lru_cache

import msgspec

from nodeagent.model.workload import Workload

MAX_CHARACTERS = 8192
MAX_MEMBERS = 64
"""Both as W3C Baggage §3.3.2 asks for at least."""
MAX_VALUE = 253
"""The longest name in Kubernetes; longer values would be somebody's attempt at our metrics."""

_PLAIN = "!#$&'()*+-./:<=>?@[]^_`{|}~"
"""Of a value, besides letters and digits; not the percent sign, which starts a code."""
_NEEDS_NO_CODE = re.compile(r"[A-Za-z0-9_.~-]*")
_WORKLOAD_TYPES = ("deployment", "cronjob", "pod", "job")


class Baggage(msgspec.Struct, frozen=True, gc=False):
    """Empty strings for what was not said."""

    cluster: str = ""
    namespace: str = ""
    workload_type: str = ""
    """deployment, cronjob, pod or job, when `workload_name` is set."""
    workload_name: str = ""
    canonical_name: str = ""
    canonical_revision: str = ""
    region: str = ""
    zone: str = ""


def build_baggage(workload: Workload, cluster: str) -> str:
    """`cluster` is our own cluster id. Members without a value are left out."""
    return _join_members(
        ("k8s.cluster.name", cluster),
        ("k8s.namespace.name", workload.namespace),
        (f"k8s.{workload.workload_type}.name", workload.workload_name),
        ("service.name", workload.canonical_name),
        ("service.version", workload.canonical_revision),
        ("cloud.region", workload.region),
        ("cloud.availability_zone", workload.zone),
    )


@lru_cache(maxsize=1024)  # a pod says the same with each of its connections
def _join_members(*members: tuple[str, str]) -> str:
    return ",".join(f"{key}={_coded(value)}" for key, value in members if value)


def _coded(value: str) -> str:
    """Nothing that Kubernetes allows needs it, so what codes it is imported when something does: 0.4 MB of a worker."""
    if _NEEDS_NO_CODE.fullmatch(value):
        return value
    from urllib.parse import quote

    return quote(value, safe=_PLAIN)


def _decoded(value: str) -> str:
    if "%" not in value:
        return value
    from urllib.parse import unquote

    return unquote(value)


def parse_baggage(text: str) -> Baggage:
    """Total: unknown, malformed, over-long and unprintable members are skipped, of a repeated one the last counts."""
    return _parse(text[:MAX_CHARACTERS])


@lru_cache(maxsize=256)  # of 8 KiB each: what is kept is cut before, since a peer may send as much as headers hold
def _parse(text: str) -> Baggage:
    found: dict[str, str] = {}
    for member in text.split(",", MAX_MEMBERS)[:MAX_MEMBERS]:
        key, _, value = member.partition(";")[0].partition("=")
        value = _decoded(value.strip(" \t"))
        if value and len(value) <= MAX_VALUE and value.isprintable():
            found[key.strip(" \t")] = value
    workload_type = next((one for one in _WORKLOAD_TYPES if f"k8s.{one}.name" in found), "")
    return Baggage(
        cluster=found.get("k8s.cluster.name", ""),
        namespace=found.get("k8s.namespace.name", ""),
        workload_type=workload_type,
        workload_name=found.get(f"k8s.{workload_type}.name", ""),
        canonical_name=found.get("service.name", ""),
        canonical_revision=found.get("service.version", ""),
        region=found.get("cloud.region", ""),
        zone=found.get("cloud.availability_zone", ""),
    )
