# SPDX-License-Identifier: Apache-2.0
"""The reasons: dashboards, `explain` and Istio's own flags depend on each row."""

import re

import msgspec
import pytest

from nodeagent.model.reason import Reason

ISTIO_FLAGS = {
    "-",
    "UO",
    "RL",
    "DF",
    "DENY",
    "CONNECT",
    "TLS_FAILURE",
    "H2_HANDSHAKE_FAILURE",
    "IDENTITY_ERROR",
    "CERT_REVOKED",
}


@pytest.mark.parametrize("reason", list(Reason))
def test_a_reason_has_a_name_for_metrics_istios_flag_and_something_to_look_at(reason: Reason) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9_]*", reason.value)
    assert reason.value == reason.name.lower()
    assert reason.flag in ISTIO_FLAGS
    assert reason is Reason.CLOSED or re.fullmatch(r"[A-Z].{10,}[.?!]", reason.check)


def test_only_an_ordinary_end_has_no_flag() -> None:
    assert {reason for reason in Reason if reason.flag == "-"} == {
        Reason.CLOSED,
        Reason.RESET,
        Reason.DRAINED,
        Reason.POD_REMOVED,
        Reason.END_UNSEEN,
        Reason.IDLE_TIMEOUT,
        Reason.OPERATOR_KILLED,
    }


def test_a_reason_is_found_by_its_name_in_a_record() -> None:
    assert all(msgspec.convert(reason.value, Reason) is reason for reason in Reason)
    with pytest.raises(msgspec.ValidationError, match="no_such_reason"):
        msgspec.convert("no_such_reason", Reason)
