# SPDX-License-Identifier: Apache-2.0
"""Kubernetes' selectors of labels with expressions, as namespaces are selected by Gateways and by MeshConfig."""

import enum
from collections.abc import Mapping
from typing import assert_never

import msgspec


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
