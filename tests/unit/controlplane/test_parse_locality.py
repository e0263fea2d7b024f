# SPDX-License-Identifier: Apache-2.0
"""localityLbSetting: what is read, and what Istio's webhook refuses."""

import pytest

from nodeagent.controlplane.objects import MeshConfig
from nodeagent.model.traffic import Distribution, LocalityBalancing
from tests.unit.controlplane.served import Read


def mesh(setting: str) -> str:
    return f"kind: MeshConfig\nlocalityLbSetting: {setting}\n"


@pytest.mark.parametrize(
    ("written", "locality"),
    [
        ("{}", LocalityBalancing()),
        ("{enabled: true}", LocalityBalancing()),
        ("{enabled: false}", LocalityBalancing(is_on=False)),
        (
            "{distribute: [{from: us/west/*, to: {us/west/a: 80, 'us/east/*': 20}}, {from: eu, to: {'*': 100}}]}",
            LocalityBalancing(
                distributions=(
                    Distribution("us/west/*", (("us/east/*", 20), ("us/west/a", 80))),
                    Distribution("eu", (("*", 100),)),
                )
            ),
        ),
        (
            "{failover: [{from: us, to: eu}, {from: eu, to: us}]}",
            LocalityBalancing(failover=(("us", "eu"), ("eu", "us"))),
        ),
        (
            "{failoverPriority: [topology.istio.io/network, 'version=v1']}",
            LocalityBalancing(priority_labels=("topology.istio.io/network", "version=v1")),
        ),
    ],
)
def test_a_setting_is_read(read: Read, written: str, locality: LocalityBalancing) -> None:
    (found,), findings = read(mesh(written))
    assert isinstance(found, MeshConfig)
    assert (found.locality, findings) == (locality, [])


def test_without_one_there_is_none(read: Read) -> None:
    (found,), _ = read("kind: MeshConfig\n")
    assert isinstance(found, MeshConfig)
    assert found.locality is None


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("{isEnabled: true}", "localityLbSetting.isEnabled: there is no such field"),
        ("{distribute: [{from: a, to: {a: 80}}]}", "distribute[0].to: the weights do not add up to 100"),
        ("{distribute: [{from: a, to: {a: 0, b: 100}}]}", "to.a: a weight is a number from 1 to 100"),
        ("{distribute: [{from: a, to: {a: 101}}]}", "to.a: '101' is not a whole number from 0 to 100"),
        ("{distribute: [{from: a}]}", "distribute[0].to: the weights do not add up to 100"),
        ("{distribute: [{from: a//b, to: {a: 100}}]}", "distribute[0].from: 'a//b' is no locality"),
        ("{distribute: [{from: a/b/c/d, to: {a: 100}}]}", "'a/b/c/d' is no locality"),
        ("{distribute: [{from: '*/b', to: {a: 100}}]}", "'*/b' is no locality"),
        ("{distribute: [{from: 'a/b*', to: {a: 100}}]}", "'a/b*' is no locality: `*` stands for a whole part"),
        ("{distribute: [{from: a, to: {a/b: 50, a/*: 50}}]}", "to: a/* overlaps with another locality"),
        (
            "{distribute: [{from: a, to: {a: 100}}, {from: a/b, to: {a: 100}}]}",
            "localityLbSetting.distribute: a/b overlaps with another locality",
        ),
        ("{failover: [{from: a, to: a}]}", "failover[0].to: is the same region"),
        ("{failover: [{from: a/b, to: c}]}", "failover[0].from: 'a/b' is no region"),
        ("{failover: [{from: a, to: '*'}]}", "failover[0].to: '*' is no region"),
        ("{failover: [{from: a, to: b}], distribute: [{from: a, to: {a: 100}}]}", "cannot stand beside distribute"),
        (
            "{failover: [{from: a, to: b}], failoverPriority: [topology.kubernetes.io/zone]}",
            "cannot stand beside labels of a place",
        ),
    ],
)
def test_a_mistake_is_refused(read: Read, written: str, words: str) -> None:
    found, findings = read(mesh(written))
    assert found == []
    assert any(words in f"{finding.field}: {finding.message}" for finding in findings), findings
