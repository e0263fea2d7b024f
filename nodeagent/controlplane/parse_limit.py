# SPDX-License-Identifier: Apache-2.0
"""ConnectionLimit, a kind of our own: what one source may open to the selected workloads. Pure.

apiVersion: nodeagent/v1
kind: ConnectionLimit
metadata: {name: db, namespace: shop}
spec:
  selector: {matchLabels: {app: db}}   # left out: every workload of the namespace
  perSource:
    connectionsPerSecond: 10           # thousandths count
    burst: 20                          # left out: the rate, rounded up
    concurrent: 100
"""

import math

from nodeagent.controlplane.documents import Scalar
from nodeagent.controlplane.fields import Fields
from nodeagent.controlplane.objects import ConnectionLimit, Meta

_FIELDS = "Fields: selector.matchLabels, perSource.connectionsPerSecond, perSource.burst, perSource.concurrent."
_FASTEST = 1_000_000
"""Connections a second; no worker takes as many, and it fits the wire."""


def parse_connection_limit(fields: Fields, meta: Meta) -> ConnectionLimit:
    spec = fields.within("spec")
    per_source = spec.within("perSource") if spec is not None else None
    if spec is None or per_source is None:
        (spec or fields).wrong("perSource" if spec is not None else "spec", "a limit is needed", check=_FIELDS)
        return ConnectionLimit(meta=meta)
    selector = spec.within("selector")
    labels = selector.texts("matchLabels") if selector is not None else {}
    if selector is not None:
        if not labels:
            spec.wrong("selector", "selects nothing", check="Leave it out for the whole namespace.")
        selector.refuse_others(_FIELDS)
    rate = _rate(per_source)
    burst = per_source.number("burst", math.ceil(rate))
    concurrent = per_source.number("concurrent")
    if per_source.has("burst") and not (rate and burst):
        per_source.wrong("burst", "is above 0, and of a rate", check=_FIELDS)
    if not rate and not concurrent and not spec.report.is_rejected:
        spec.wrong("perSource", "limits nothing", check=_FIELDS)
    per_source.refuse_others(_FIELDS)
    spec.refuse_others(_FIELDS)
    return ConnectionLimit(meta=meta, selector=labels, per_second=rate, burst=burst, concurrent=concurrent)


def _rate(per_source: Fields) -> float:
    name = "connectionsPerSecond"
    if not per_source.has(name):
        return 0.0
    written = per_source.mapping.entries[name]
    value = written.value if isinstance(written, Scalar) else None
    if isinstance(value, int | float) and not isinstance(value, bool) and 0.001 <= value <= _FASTEST:
        return round(value, 3)
    per_source.wrong(name, f"a number from 0.001 to {_FASTEST} is expected")
    return 0.0
