# SPDX-License-Identifier: Apache-2.0
"""What the folder `observability` holds, read as its readers do."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).resolve().parents[2] / "observability"
_OURS = re.compile(r"\b(?:istio|nodeagent|workload_manager|process)_[a-z_]+\b")
_IN_STRINGS = re.compile(r'"[^"]*"')
_LISTS = re.compile(r"\b(?:by|on|without)\s*\([^)]*\)")
_SELECTORS = re.compile(r"\{[^}]*\}")
_VARIABLES = {"$__rate_interval": "1m", "$instance": ".*", "$namespace": ".*"}


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text(encoding="utf-8"))
    return found


def panels() -> Iterator[dict[str, Any]]:
    yield from dashboard()["panels"]


def dashboard_queries() -> list[tuple[str, str]]:
    """Title of the panel and PromQL, with Grafana's variables filled in."""
    return [(panel["title"], _filled(target["expr"])) for panel in panels() for target in panel.get("targets", ())]


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((FOLDER / "rules.yaml").read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def metric_names(expression: str) -> set[str]:
    """Of ours, in a PromQL expression."""
    for noise in (_IN_STRINGS, _SELECTORS, _LISTS):
        expression = noise.sub("", expression)
    return set(_OURS.findall(expression))


def _filled(expression: str) -> str:
    for name, value in _VARIABLES.items():
        expression = expression.replace(name, value)
    return expression
