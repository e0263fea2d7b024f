# SPDX-License-Identifier: Apache-2.0
"""LabelSelector: matchLabels and matchExpressions. Pure."""

from nodeagent.controlplane.fields import Fields
from nodeagent.controlplane.label_selector import LabelSelector, Operator, Requirement

_OPERATORS = {str(value): value for value in Operator}
_API = "A selector has matchLabels and matchExpressions with key, operator and values."


def parse_label_selector(fields: Fields) -> LabelSelector:
    selector = LabelSelector(
        fields.texts("matchLabels"), tuple(_requirement(entry) for entry in fields.each("matchExpressions"))
    )
    fields.refuse_others(_API)
    return selector


def _requirement(entry: Fields) -> Requirement:
    key, values = entry.text("key"), entry.parsed("values", str)
    operator = entry.choice("operator", _OPERATORS, Operator.EXISTS)
    if not key:
        entry.wrong("key", "is missing", check=_API)
    if not entry.text("operator"):
        entry.wrong("operator", "is missing", check=_API)
    if bool(values) != (operator in {Operator.IN, Operator.NOT_IN}):
        entry.wrong("values", f"{operator} has {'no values' if values else 'values'}", check=_API)
    entry.refuse_others(_API)
    return Requirement(key, operator, values)
