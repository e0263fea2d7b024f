# SPDX-License-Identifier: Apache-2.0
"""Kubernetes' selectors of labels: one with expressions, and many plain ones that are asked about at once."""

import enum
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Generic, TypeVar, assert_never

import msgspec

_Value = TypeVar("_Value")


class Operator(enum.StrEnum):
    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


class Requirement(msgspec.Struct, frozen=True):
    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    def is_met_by(self, labels: Mapping[str, str]) -> bool:
        match self.operator:
            case Operator.IN:
                return labels.get(self.key) in self.values
            case Operator.NOT_IN:
                return labels.get(self.key) not in self.values
            case Operator.EXISTS:
                return self.key in labels
            case Operator.DOES_NOT_EXIST:
                return self.key not in labels
            case unreachable:
                assert_never(unreachable)


class LabelSelector(msgspec.Struct, frozen=True):
    """Kubernetes' metav1.LabelSelector: everything that it asks for has to be met; empty, it selects everything."""

    labels: dict[str, str] = {}
    requirements: tuple[Requirement, ...] = ()

    def selects(self, labels: Mapping[str, str]) -> bool:
        return self.labels.items() <= labels.items() and all(wish.is_met_by(labels) for wish in self.requirements)


class SelectorIndex(Generic[_Value]):
    """Plain selectors -> what they belong to. One that asks for nothing selects nothing.

    Each stands under one of the labels that it asks for, so that a thousand of them cost a pod with five labels five
    look-ups.
    """

    def __init__(self, selectors: Iterable[tuple[Mapping[str, str], _Value]] = ()) -> None:
        self._by_label: dict[tuple[str, str], list[tuple[Mapping[str, str], _Value]]] = defaultdict(list)
        for selector, value in selectors:
            for label in sorted(selector.items())[:1]:
                self._by_label[label].append((selector, value))

    def values(self) -> Iterator[_Value]:
        """What belongs to any of them."""
        return (value for selectors in self._by_label.values() for _, value in selectors)

    def selecting(self, labels: Mapping[str, str]) -> Iterator[_Value]:
        items = labels.items()
        for label in items:
            for selector, value in self._by_label.get(label, ()):
                if selector.items() <= items:
                    yield value
