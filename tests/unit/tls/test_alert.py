# SPDX-License-Identifier: Apache-2.0
"""Numbers, levels, words."""

import pytest

from nodeagent.tls.alert import Alert, words_of


@pytest.mark.parametrize("alert", list(Alert))
def test_only_two_alerts_are_warnings(alert: Alert) -> None:
    level, number = alert.content
    assert number == alert
    assert level == (1 if alert in {Alert.CLOSE_NOTIFY, Alert.USER_CANCELED} else 2)


def test_words() -> None:
    assert words_of(20) == "bad record mac"
    assert words_of(199) == "alert 199"
