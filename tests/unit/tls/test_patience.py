# SPDX-License-Identifier: Apache-2.0
"""An account of records: what empties it, what fills it."""

import pytest

from nodeagent.tls.alert import Alert
from nodeagent.tls.error import RecordError
from nodeagent.tls.patience import MOST_IDLE_RECORDS, PAYLOADS_PER_IDLE_RECORD, Patience


def spend(patience: Patience, start: int = 0) -> int:
    """How many idle records in a row are put up with, the first with sequence number `start`."""
    for count in range(1000):
        try:
            patience.idle_record("empty", start + count)
        except RecordError:
            return count
    raise AssertionError


def test_so_many_in_a_row_and_no_more() -> None:
    assert spend(Patience()) == MOST_IDLE_RECORDS


def test_who_is_refused_is_told() -> None:
    with pytest.raises(RecordError, match="the last was a ticket") as caught:
        Patience(left=0).idle_record("a ticket", 0)
    assert caught.value.alert is Alert.UNEXPECTED_MESSAGE


def test_payload_pays() -> None:
    patience = Patience(left=0)
    patience.idle_record("a ticket", PAYLOADS_PER_IDLE_RECORD)
    with pytest.raises(RecordError):
        patience.idle_record("a ticket", PAYLOADS_PER_IDLE_RECORD + 1)


def test_payload_pays_in_pieces() -> None:
    patience, sequence = Patience(left=1), 0
    for payloads in (PAYLOADS_PER_IDLE_RECORD - 1, 1, PAYLOADS_PER_IDLE_RECORD):
        sequence += payloads
        patience.idle_record("a ticket", sequence)
        sequence += 1
    assert patience.left == 0


def test_nobody_saves_up_more_than_there_was() -> None:
    assert spend(Patience(), start=1_000_000) == MOST_IDLE_RECORDS


def test_idle_records_do_not_pay_for_idle_records() -> None:
    assert spend(Patience(left=40)) == 40


def test_a_new_key_counts_from_its_first_record() -> None:
    patience = Patience(left=1)
    patience.idle_record("a KeyUpdate", 5)
    patience.key_changed()
    patience.idle_record("empty", PAYLOADS_PER_IDLE_RECORD)
    assert patience.left == 0


def test_it_goes_on_from_where_another_process_was() -> None:
    assert spend(Patience(left=3, sequence=500), start=500) == 3
