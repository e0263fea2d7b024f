# SPDX-License-Identifier: Apache-2.0
"""The order in which draws come and go, what is found of a predecessor, and what does not fit."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from nodeagent.kernel.maps import Maps
from nodeagent.kernel.service_codings import DrawKey, ServiceRow
from nodeagent.kernel.services import Services
from nodeagent.model.address import Ip
from nodeagent.routing.route import Target

VIP, OTHER = Target(Ip("10.96.0.1"), 80), Target(Ip("10.96.0.2"), 80)
A, B, C = (Target(Ip(f"10.0.0.{number}"), 8080) for number in (1, 2, 3))
POD = frozenset({7})


class FakeTable:
    def __init__(self, name: str, steps: list[Any], room: int = 100) -> None:
        self.name, self.room = name, room
        self.held: dict[Any, Any] = {}
        self._steps = steps

    def put(self, key: Any, value: Any) -> bool:
        if key not in self.held and len(self.held) >= self.room:
            return False
        self.held[key] = value
        self._steps.append((f"put {self.name}", key))
        return True

    def put_all(self, rows: Sequence[tuple[Any, Any]]) -> int:
        for done, (key, value) in enumerate(rows):
            if not self.put(key, value):
                return done
        return len(rows)

    def remove(self, key: Any) -> bool:
        if self.held.pop(key, None) is None:
            return False
        self._steps.append((f"remove {self.name}", key))
        return True

    def remove_all(self, keys: Sequence[Any]) -> None:
        for key in keys:
            self.remove(key)

    def keys(self) -> set[Any]:
        return set(self.held)

    def rows(self) -> dict[Any, Any]:
        return dict(self.held)


class Kernel:
    def __init__(self) -> None:
        self.steps: list[tuple[str, Any]] = []
        self.namespaces, self.services, self.draws = (
            FakeTable(name, self.steps) for name in ("namespaces", "services", "draws")
        )
        self.tables = self.make_tables()

    def make_tables(self) -> Services:
        """Those of a successor."""
        maps = SimpleNamespace(namespaces=self.namespaces, services=self.services, draws=self.draws)
        return Services(cast("Maps", maps))

    def update(self, wanted: dict[Target, tuple[Target, ...]], namespaces: frozenset[int] = POD) -> dict[str, int]:
        self.steps.clear()
        return dict(self.tables.update(wanted, namespaces))

    @property
    def names(self) -> list[str]:
        return list(dict.fromkeys(name for name, _ in self.steps))

    def drawn(self) -> dict[Target, list[Target]]:
        """As a program finds them: every draw that a row promises must be there, and no other."""
        found = {
            target: [self.draws.held[DrawKey(row.id, number)] for number in range(row.draws)]
            for target, row in self.services.held.items()
        }
        assert sum(map(len, found.values())) == len(self.draws.held)
        return found


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


def test_draws_are_there_before_the_service_and_the_service_before_its_clients(kernel: Kernel) -> None:
    assert kernel.update({VIP: (A, B, B)}) == {}
    assert kernel.names == ["put draws", "put services", "put namespaces"]
    assert kernel.drawn() == {VIP: [A, B, B]}
    assert kernel.namespaces.held == {7: 1}


def test_a_change_is_a_new_id_and_the_former_draws_go_last(kernel: Kernel) -> None:
    kernel.update({VIP: (A, B), OTHER: (C,)})
    former = kernel.services.held[VIP].id
    kernel.update({VIP: (A,), OTHER: (C,)})
    assert kernel.names == ["put draws", "put services", "remove draws"]
    assert kernel.services.held[VIP].id != former
    assert [key for name, key in kernel.steps if name == "remove draws"] == [DrawKey(former, 0), DrawKey(former, 1)]
    assert kernel.drawn() == {VIP: [A], OTHER: [C]}


def test_what_goes_goes_the_other_way_round(kernel: Kernel) -> None:
    kernel.update({VIP: (A,)})
    kernel.update({}, frozenset())
    assert kernel.names == ["remove namespaces", "remove services", "remove draws"]
    assert (kernel.services.held, kernel.draws.held, kernel.namespaces.held) == ({}, {}, {})


def test_the_same_again_is_nothing_to_do(kernel: Kernel) -> None:
    kernel.update({VIP: (A, B)})
    kernel.update({VIP: (A, B)})
    assert kernel.steps == []
    kernel.tables = kernel.make_tables()
    kernel.update({VIP: (A, B)})
    assert kernel.steps == [], "a successor finds it as it is"


def test_ids_of_a_predecessor_are_never_used_again(kernel: Kernel) -> None:
    """It died between its draws and its row; and a row of it has lost its draws."""
    kernel.update({VIP: (A,)})
    kernel.draws.held |= {DrawKey(500, 0): B, DrawKey(500, 1): B}
    kernel.services.held[OTHER] = ServiceRow(600, 2)
    kernel.draws.held[DrawKey(600, 0)] = B
    kernel.tables = kernel.make_tables()
    kernel.update({VIP: (A,), OTHER: (C,)})
    assert kernel.drawn() == {VIP: [A], OTHER: [C]}
    assert kernel.services.held[OTHER].id == 601
    assert kernel.steps[0] == ("remove services", OTHER), "before its draws, of which one was there"


def test_ids_begin_again_without_those_that_are_in_use(kernel: Kernel) -> None:
    kernel.services.held = {VIP: ServiceRow(1, 1), OTHER: ServiceRow(0xFFFFFFFF, 1)}
    kernel.draws.held = {DrawKey(1, 0): A, DrawKey(0xFFFFFFFF, 0): A}
    kernel.update({VIP: (A,), OTHER: (B,)})
    assert kernel.services.held[OTHER].id == 2


@pytest.mark.parametrize("full", ["draws", "services"])
def test_what_does_not_fit_is_the_proxys_and_leaves_nothing(kernel: Kernel, full: str) -> None:
    kernel.draws.room, kernel.services.room = (4, 100) if full == "draws" else (100, 1)
    assert kernel.update({VIP: (A, B), OTHER: (A, B, C)}) == {full: 1}
    assert kernel.drawn() == {VIP: [A, B]}
    assert kernel.update({VIP: (A, B), OTHER: (A, B, C)}) == {full: 1}, "still so"
    assert kernel.steps == [], "and not tried again"
    assert kernel.update({OTHER: (A, B, C)}) == {}
    assert kernel.drawn() == {OTHER: [A, B, C]}


def test_former_draws_make_room_for_those_of_the_same_service(kernel: Kernel) -> None:
    kernel.draws.room = 4
    kernel.update({VIP: (A, B, C)})
    assert kernel.update({VIP: (C, B, A)}) == {}
    assert kernel.names == ["put draws", "remove draws", "remove services", "put services"], "the proxy draws meanwhile"
    assert kernel.drawn() == {VIP: [C, B, A]}
    assert kernel.update({VIP: (A, A, A, A, A)}) == {"draws": 1}
    assert kernel.drawn() == {}, "what was there before would name endpoints that have gone"


def test_a_pod_for_which_there_is_no_room_draws_nothing(kernel: Kernel) -> None:
    kernel.namespaces.room = 1
    assert kernel.update({VIP: (A,)}, frozenset({7, 8})) == {"namespaces": 1}


def test_after_a_failure_everything_is_looked_at_again(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(kernel.services, "put", lambda _key, _row: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            kernel.update({VIP: (A,)})
    kernel.update({VIP: (A,)})
    assert kernel.drawn() == {VIP: [A]}
