# SPDX-License-Identifier: Apache-2.0
"""What stands on the wire, read by the h2 library, is what ztunnel announces."""

from typing import TYPE_CHECKING, Any

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes

from nodeagent.hbone.limits import Limits, Role

if TYPE_CHECKING:
    from tests.unit.hbone.conftest import End


@pytest.mark.parametrize(
    ("role", "announced"),
    [
        (Role.CLIENT, {SettingCodes.MAX_HEADER_LIST_SIZE: 16 << 10, SettingCodes.ENABLE_PUSH: 0}),
        (Role.SERVER, {SettingCodes.MAX_HEADER_LIST_SIZE: 64 << 10, SettingCodes.MAX_CONCURRENT_STREAMS: 200}),
    ],
)
def test_what_is_announced(make_end: "type[End]", role: Role, announced: dict[SettingCodes, int]) -> None:
    other = H2Connection(H2Configuration(client_side=role is Role.SERVER))
    other.initiate_connection()
    other.receive_data(make_end(role).take())

    settings = dict(other.remote_settings)
    both = {SettingCodes.INITIAL_WINDOW_SIZE: 4 << 20, SettingCodes.MAX_FRAME_SIZE: 1 << 20}
    assert settings.items() >= {**both, **announced}.items()
    assert settings[SettingCodes.HEADER_TABLE_SIZE] == 4096
    assert other.outbound_flow_control_window == 16 << 20


def test_a_client_lets_the_server_open_nothing() -> None:
    assert Limits.of(Role.CLIENT).max_streams == 0


@pytest.mark.parametrize(
    "wrong", [{"stream_window": 65534}, {"connection_window": 1 << 31}, {"max_frame": 16383}, {"max_frame": 1 << 24}]
)
def test_numbers_that_the_protocol_does_not_allow(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="bytes"):
        Limits(**wrong)
