# SPDX-License-Identifier: Apache-2.0
"""Nothing that arrives of much that was sent is told by name, until something arrives again."""

from collections import Counter

import pytest

from nodeagent.kernel.passage import MEANS_SOMETHING, PASSAGES, Passage, Passages, find_lost
from nodeagent.kernel.reasons import reasons

NAMES = {row.name for row in reasons()}


@pytest.mark.parametrize("passage", PASSAGES, ids=lambda passage: passage.name)
def test_a_passage_is_made_of_reasons(passage: Passage) -> None:
    assert {*passage.sent, *passage.arrived} <= NAMES


@pytest.mark.parametrize("passage", PASSAGES, ids=lambda passage: passage.name)
def test_much_sent_and_nothing_arrived_is_a_loss(passage: Passage) -> None:
    before = Counter(dict.fromkeys(NAMES, 1000))
    for reason in passage.sent:
        assert find_lost(before, before + Counter({reason: MEANS_SOMETHING})) == [passage]
        assert find_lost(before, before + Counter({reason: MEANS_SOMETHING - 1})) == []
    for reason in passage.arrived:
        arrived = Counter({passage.sent[0]: 10 * MEANS_SOMETHING, reason: 1})
        assert passage not in find_lost(before, before + arrived)


def test_a_loss_stays_while_nothing_is_sent_and_goes_when_something_arrives() -> None:
    passages = Passages()
    counted: Counter[str] = Counter({"LOCAL_ALLOWED": 5})
    passages.looked(counted)
    assert not passages.lost
    counted["LOCAL_ALLOWED"] += MEANS_SOMETHING
    for _ in range(3):  # and the later ones are silent
        passages.looked(counted)
        assert [passage.name for passage in passages.lost] == ["LOCAL_LOST"]
    counted["LOCAL_DELIVERED"] += 1
    passages.looked(counted)
    assert not passages.lost
