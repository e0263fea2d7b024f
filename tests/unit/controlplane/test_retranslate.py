# SPDX-License-Identifier: Apache-2.0
"""A change that is translated alone gives what everything together gives, whatever came before."""

import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from nodeagent.controlplane.catalog import Catalog, Content, admit
from nodeagent.controlplane.objects import Enrolment
from nodeagent.controlplane.retranslate import Meshed, retranslate
from nodeagent.controlplane.snapshot import Snapshot, advance
from nodeagent.controlplane.translate import enrolled_by, translate

RECORDINGS = Path(__file__).parents[2] / "data" / "istiod"
STEPS = 40


def read_documents() -> list[str]:
    """Of every scenario and of its steps; of some objects there are several versions."""
    found = list[dict[str, Any]]()
    for path in sorted(RECORDINGS.rglob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            if isinstance(document, dict):
                found += document["items"] if document.get("kind") == "List" else [document]
    return [yaml.safe_dump(document) for document in found if document.get("metadata", {}).get("name")]


DOCUMENTS = read_documents()
ALONE = [text for text in DOCUMENTS if "kind: ServiceEntry" not in text or ".svc.cluster.local" not in text]
"""Without entries that have the name of a Service: where there is one, nothing is translated alone."""


def name_of(document: str) -> str:
    """The same for the versions of one object, which then replace each other."""
    parsed = yaml.safe_load(document)
    meta = parsed["metadata"]
    return f"{parsed['kind']}.{meta.get('namespace', '')}.{meta['name']}.yaml"


@pytest.mark.parametrize(("documents", "enrolment"), [(ALONE, None), (ALONE, Enrolment.LABEL), (DOCUMENTS, None)])
def test_a_change_alone_gives_what_everything_gives(documents: list[str], enrolment: Enrolment | None) -> None:
    rng = random.Random()
    seed = rng.randrange(1 << 32)
    rng.seed(seed)
    texts = {name_of(text): text for text in rng.sample(documents, len(documents) // 2)}
    contents: dict[str, Content] = {}
    catalog, snapshot, alone = Catalog(), Snapshot(), 0
    meshed: Meshed | None = None
    for _ in range(STEPS):
        contents = {
            name: contents[name] if name in contents and contents[name].text == text else Content(name, text)
            for name, text in texts.items()
        }
        catalog = admit(catalog, contents)
        former, meshed = meshed, retranslate(meshed, catalog, enrolment)
        alone += meshed.touched is not None
        snapshot, _ = advance(snapshot, meshed.translation, meshed.touched)
        kept = former.translation.allocated if former is not None else {}
        everything = translate(enrolled_by(enrolment, catalog.values), kept)
        expected, _ = advance(Snapshot(), everything)
        assert snapshot.resources == expected.resources, f"seed {seed}"
        assert meshed.translation.identities == everything.identities, f"seed {seed}"
        for text in rng.sample(documents, rng.randrange(1, 4)):
            if rng.random() < 0.4:
                texts.pop(name_of(text), None)
            else:
                texts[name_of(text)] = text
    assert alone or documents is DOCUMENTS, "no step was of one namespace"


def test_only_the_namespace_that_changed_is_looked_at() -> None:
    texts = {name_of(text): text for text in ALONE}
    contents = {name: Content(name, text) for name, text in texts.items()}
    catalog = admit(Catalog(), contents)
    meshed = retranslate(None, catalog, None)
    uid, workload = next(
        (uid, one)
        for uid, one in meshed.translation.workloads.items()
        if f"Pod.{one.namespace}.{one.name}.yaml" in texts
    )
    later = retranslate(
        meshed,
        admit(catalog, {n: c for n, c in contents.items() if n != f"Pod.{workload.namespace}.{workload.name}.yaml"}),
        None,
    )
    assert uid not in later.translation.workloads
    assert later.touched is not None
    assert {name.split("/")[3] for name in later.touched.workloads if "/Pod/" in name} == {workload.namespace}
