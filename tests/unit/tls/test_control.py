# SPDX-License-Identifier: Apache-2.0
"""What is due, and that the first alert is the last word."""

from nodeagent.tls.alert import Alert
from nodeagent.tls.control import Control


def test_nothing_is_due_at_first() -> None:
    control = Control()
    assert (control.is_due, control.has_records, control.is_shut) == (False, False, False)


def test_a_key_update_is_due_until_it_was_sealed() -> None:
    for note in (Control.key_update, Control.ask_for_key_update):
        control = Control()
        note(control)
        assert control.has_records
        control.key_updated()
        assert (control.is_due, control.owes_key_update, control.asks_for_key_update) == (False, False, False)


def test_an_alert_stays_due_behind_a_key_update() -> None:
    control = Control()
    control.key_update()
    control.end(Alert.CLOSE_NOTIFY)
    control.key_updated()
    assert (control.has_records, control.alert) == (True, Alert.CLOSE_NOTIFY)


def test_the_first_alert_counts() -> None:
    control = Control()
    control.end(Alert.BAD_RECORD_MAC)
    control.end(Alert.CLOSE_NOTIFY)
    assert control.alert is Alert.BAD_RECORD_MAC


def test_nothing_comes_behind_the_end() -> None:
    control = Control()
    control.shut()
    control.end(Alert.CLOSE_NOTIFY)
    control.key_update()
    control.key_updated()
    assert (control.is_due, control.has_records, control.alert) == (True, False, None)


def test_what_another_process_left_is_due() -> None:
    assert Control(Alert.CLOSE_NOTIFY).has_records
    assert Control(owes_key_update=True).has_records
    assert Control(asks_for_key_update=True).has_records
    assert Control(is_shut=True).is_due
    assert not Control(is_shut=True).has_records
