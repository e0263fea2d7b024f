# SPDX-License-Identifier: Apache-2.0
"""The table of verdicts in a real kernel: a swap is one step, leaves one table behind and survives its writers."""

import itertools
import threading
from dataclasses import replace

import pytest

from nodeagent.kernel.codings import VerdictBits, VerdictKey
from nodeagent.policy.verdict_table import VerdictRow
from tests.kernel.conftest import ACK, Family, Kernel, Node, Packet

pytestmark = pytest.mark.kernel

ROWS_THAT_FIT = 16384


def _table(node: Node) -> dict[VerdictKey, VerdictBits]:
    steering = node.steering
    steering.start()
    return dict(steering._tables.maps.verdicts.rows())


def test_a_swap_leaves_the_former_table_to_packets_that_still_read_it(prepared: Kernel) -> None:
    node = prepared.node
    node.steering.put_verdicts([])
    first = node.steering.put_verdicts([VerdictRow(1, 80, 0b1), VerdictRow(1, 0, 0b1000)])
    former = {
        VerdictKey(first.generation, 1, 80): VerdictBits(0b1),
        VerdictKey(first.generation, 1, 0): VerdictBits(0b1000),
    }
    assert _table(node) == former
    second = node.steering.put_verdicts([VerdictRow(2, 0, 1 << 1023)])
    assert second.generation == first.generation + 1
    latter = {VerdictKey(second.generation, 2, 0): VerdictBits(1 << 1023)}
    assert _table(node) == former | latter
    node.steering.put_verdicts([])
    assert _table(node) == latter


def test_rows_of_a_writer_that_died_never_come_into_force(prepared: Kernel) -> None:
    node = prepared.node
    generation = node.steering.put_verdicts([]).generation
    prepared.maps.verdicts.put(VerdictKey(generation + 1, 7, 0), VerdictBits(0b1))
    assert node.steering.put_verdicts([VerdictRow(1, 0, 0b1)]).generation == generation + 1
    assert _table(node) == {VerdictKey(generation + 1, 1, 0): VerdictBits(0b1)}


def test_rows_are_removed_together_though_some_are_gone(prepared: Kernel) -> None:
    table = prepared.maps.verdicts
    keys = [VerdictKey(99, number, 0) for number in range(50)]
    for key in keys[::2]:
        table.put(key, VerdictBits(1))
    table.remove_all(keys)
    table.remove_all([])
    assert not {key for key in table.rows() if key.generation == 99}


def test_a_destination_that_does_not_fit_is_nobodys_to_allow(prepared: Kernel) -> None:
    """Its row for all other ports must not be there without those that say no."""
    node = prepared.node
    rows = [VerdictRow(number, port, 1) for number in range(1000) for port in (*range(1, 20), 0)]
    swap = node.steering.put_verdicts(rows)
    try:
        assert swap.rows + swap.refused == len(rows)
        assert 0 < swap.rows <= ROWS_THAT_FIT
        assert node.steering.overflow() == {"verdicts": swap.refused}
        found = _table(node)
        wholes = {key.destination for key in found if key.port == 0}
        assert all(VerdictKey(swap.generation, number, port) in found for number in wholes for port in range(1, 20))
    finally:
        node.steering.put_verdicts([])
    assert node.steering.overflow() == {}


def test_a_suspended_table_decides_nothing_new_and_lets_open_connections_go_on(kernel: Kernel, family: Family) -> None:
    steering, rows = kernel.node.steering, [VerdictRow(kernel.number_b, 0, 1 << kernel.number_a)]
    opening = Packet(family.pod, family.neighbour)
    further = replace(opening, source_port=40001)
    steering.put_verdicts(rows)
    try:
        assert kernel.from_pod(opening).reason == "LOCAL_ALLOWED"
        steering.suspend_verdicts()
        assert kernel.from_pod(further).reason == "LOCAL_STEERED"
        assert kernel.from_pod(replace(opening, flags=ACK)).reason == "LOCAL_FLOW"
        before = steering.suspensions()
        steering.suspend_verdicts()
        steering.resume_verdicts(before)
        steering.put_verdicts(rows, before)
        assert kernel.from_pod(further).reason == "LOCAL_STEERED", "suspended again since"
        assert kernel.from_pod(replace(opening, flags=ACK)).reason == "FLOW_RENEWED"
        steering.resume_verdicts(steering.suspensions())
        assert kernel.from_pod(further).reason == "LOCAL_ALLOWED"
        steering.suspend_verdicts()
        steering.put_verdicts(rows, steering.suspensions())
        assert kernel.from_pod(replace(opening, source_port=40002)).reason == "LOCAL_ALLOWED"
    finally:
        steering.put_verdicts([])


def test_a_suspension_outlives_its_agent_until_the_next_table(kernel: Kernel, family: Family) -> None:
    successor, rows = kernel.node.make_steering(), [VerdictRow(kernel.number_b, 0, 1 << kernel.number_a)]
    kernel.node.steering.put_verdicts(rows)
    try:
        kernel.node.steering.suspend_verdicts()
        assert kernel.from_pod(Packet(family.pod, family.neighbour)).reason == "LOCAL_STEERED"
        assert successor.verdicts_in_force()[0] == frozenset(rows)
        assert successor.verdicts_in_force()[1][family.neighbour] == kernel.number_b
        successor.put_verdicts(rows, successor.suspensions())
        assert kernel.from_pod(Packet(family.pod, family.neighbour)).reason == "LOCAL_ALLOWED"
    finally:
        kernel.node.steering.put_verdicts([])


@pytest.mark.any_kernel  # and two threads on an emulated processor take minutes
def test_no_packet_ever_sees_half_a_table(kernel: Kernel) -> None:
    """Port 80 is denied by both tables, each in its way; a mixture of the two would allow it."""
    a, b = kernel.number_a, kernel.number_b
    tables = [[VerdictRow(b, 80, 0), VerdictRow(b, 0, 1 << a)], [VerdictRow(b, 81, 1 << a), VerdictRow(b, 0, 0)]]
    stop = threading.Event()

    swaps = 0

    def swap_on() -> None:
        nonlocal swaps
        while not stop.is_set():
            for table in tables:
                kernel.node.steering.put_verdicts(table)
                swaps += 1

    kernel.node.steering.put_verdicts(tables[0])
    swapping = threading.Thread(target=swap_on)
    swapping.start()
    seen = set()
    try:
        for number in itertools.count():
            if number >= 4000 and swaps >= 20:
                break
            assert swapping.is_alive()
            port = (80, 82)[number % 2]
            seen.add((port, kernel.from_pod(Packet("10.99.1.2", "10.99.1.3", destination_port=port)).reason))
    finally:
        stop.set()
        swapping.join()
        kernel.node.steering.put_verdicts([])
    assert seen == {(80, "LOCAL_STEERED"), (82, "LOCAL_ALLOWED"), (82, "LOCAL_STEERED")}


def test_who_is_judged_is_known_to_a_successor(prepared: Kernel) -> None:
    node = prepared.node
    node.steering.put_verdicts([VerdictRow(5, 0, 1 << 9 | 1 << 3)])
    successor = node.make_steering()
    try:
        assert successor._tables.verdicts.judged() == {3, 5, 9}
    finally:
        successor.close()
        node.steering.put_verdicts([])
