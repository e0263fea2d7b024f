# SPDX-License-Identifier: Apache-2.0
"""The control plane's directory as subject: a file that was right becomes one that is not, and nothing is half applied.

An input is the texts of one file, one after the other. Whatever they are: no exception; each finding has its place, a
code that exists, something to do, and the field where one is meant; an object is in force as it is written or as it was
before, never in between; and what is in force can be told to an agent, which takes it.
"""

import copy
import json
import random
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from nodeagent.controlplane.catalog import Accepted, Catalog, Content, admit
from nodeagent.controlplane.finding import CODES
from nodeagent.controlplane.objects import Key
from nodeagent.controlplane.review import review
from nodeagent.controlplane.snapshot import ADDRESS, AUTHORIZATION, EXTENSION, Snapshot, advance
from nodeagent.controlplane.translate import translate
from nodeagent.xds.decode import decode_resource
from nodeagent.xds.delta import Kind
from tests.fuzz.mutate import bend
from tests.fuzz.subject import Input

ROOT = Path(__file__).parents[2]
PATH = "mesh.d/a.yaml"
_WITH_FIELD = frozenset({"IST0106", "MN0205", "MN0212"})
_ODD: tuple[Any, ...] = (
    None, True, -1, 0, 70000, 1e300, "", "*", "a*b", "x" * 400, "ä", "10.0.0.0/33", "fe80::1%eth0", "spiffe://a/b",
    "0x50", [], {}, [None], [[]], {"": ""}, {"a": {"b": {"c": []}}}, ["", 7, {}], "~", "2026-01-01", "\u0000",
)  # fmt: skip


class Documents:
    name = "documents"

    def make(self, rng: random.Random) -> Input:
        texts = [rng.choice(_seeds())]
        for _ in range(rng.choice((1, 1, 2))):
            texts.append(_bent(rng, texts[-1]) if rng.randrange(3) == 0 else _rewritten(rng, texts[0]))
        return Input(self.name, tuple(text.encode("utf-8", "surrogatepass") for text in texts))

    def run(self, given: Input) -> None:
        catalog, snapshot = Catalog(), Snapshot()
        for piece in given.pieces:
            before = catalog
            text = piece.decode("utf-8", "replace")
            catalog = admit(before, {"a.yaml": Content(PATH, text)})
            objects = catalog.values
            translation = translate(objects)
            snapshot, _ = advance(snapshot, translation)
            _check_findings(catalog, text)
            for finding in review(catalog, objects, translation):
                assert str(finding)
            _check_in_force(before.objects, catalog, text)
            _check_told(snapshot)


def _check_findings(catalog: Catalog, text: str) -> None:
    lines = text.count("\n") + text.count("\r") + 2
    for finding in catalog.findings:
        assert finding.file == PATH
        assert 1 <= finding.line <= lines, finding
        assert finding.code in CODES
        assert finding.message
        assert finding.check
        assert finding.field or finding.code not in _WITH_FIELD, finding


def _check_in_force(before: Mapping[Key, Accepted], catalog: Catalog, text: str) -> None:
    refused = {finding.subject for finding in catalog.findings if finding.is_rejected and finding.subject}
    is_whole = not any(finding.is_rejected and not finding.subject for finding in catalog.findings)
    for key, accepted in catalog.objects.items():
        is_as_before = before.get(key) is accepted
        assert is_as_before or accepted.text in text, f"{key} is neither as it was nor as it is written"
        assert is_as_before or str(key) not in refused or _occurs_twice(key, catalog), f"{key} was refused"
    if not is_whole:  # what could not be read at all, or named, may be any of them
        assert before.keys() <= catalog.objects.keys()


def _occurs_twice(key: Key, catalog: Catalog) -> bool:
    """The one that counts may be right, and the other be refused."""
    return any(finding.code == "MN0004" and finding.subject == str(key) for finding in catalog.findings)


def _check_told(snapshot: Snapshot) -> None:
    told = ((Kind.ADDRESS, ADDRESS), (Kind.AUTHORIZATION, AUTHORIZATION), (Kind.EXTENSION, EXTENSION))
    for kind, type_url in told:
        for name, resource in snapshot.of_type(type_url).items():
            decode_resource(kind, name, resource.value)


# ---- texts -------------------------------------------------------------------------------------------------------


@cache
def _seeds() -> tuple[str, ...]:
    paths = [*(ROOT / "examples/mesh.d").glob("*.yaml"), *(ROOT / "tests/data/bad").glob("*.yaml")]
    return tuple(path.read_text(encoding="utf-8") for path in sorted(paths) if path.is_file())


@cache
def _objects(text: str) -> list[Any]:
    """Empty for the seed that is no YAML."""
    try:
        return list(yaml.safe_load_all(text))
    except yaml.YAMLError:
        return []


def _bent(rng: random.Random, text: str) -> str:
    return bend(rng, text.encode("utf-8", "surrogatepass")).decode("utf-8", "replace")


def _rewritten(rng: random.Random, text: str) -> str:
    """Its objects, one to three times changed in one place, as JSON."""
    objects = copy.deepcopy(_objects(text))
    if not objects:
        return _bent(rng, text)
    for _ in range(rng.randint(1, 3)):
        holder: dict[Any, Any] | list[Any] = objects
        while True:
            keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
            if not keys:
                break
            key = rng.choice(keys)
            below = holder[key]
            if isinstance(below, dict | list) and below and rng.randrange(4):
                holder = below
                continue
            rng.choice(_CHANGES)(rng, holder, key)
            break
    if rng.randrange(10) == 0:
        return json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}, default=str)
    return "\n---\n".join(json.dumps(one, default=str) for one in objects)


def _replace(rng: random.Random, holder: Any, key: Any) -> None:
    holder[key] = copy.deepcopy(rng.choice(_ODD))


def _remove(_rng: random.Random, holder: Any, key: Any) -> None:
    del holder[key]


def _wrap(rng: random.Random, holder: Any, key: Any) -> None:
    holder[key] = rng.choice(([holder[key]], {"a": holder[key]}, str(holder[key])))


def _rename(rng: random.Random, holder: Any, key: Any) -> None:
    if isinstance(holder, dict):
        holder[rng.choice((f"{key}s", str(key).lower(), "spec", "items", "kind", ""))] = holder.pop(key)
    else:
        holder.append(copy.deepcopy(holder[key]))


_CHANGES: tuple[Callable[[random.Random, Any, Any], None], ...] = (_replace, _replace, _remove, _wrap, _rename)
