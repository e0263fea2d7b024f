# SPDX-License-Identifier: Apache-2.0
"""What netlink answers when there is nothing, or something else: the facts themselves need a kernel."""

import errno
from typing import Any, cast

import pytest
from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from nodeagent.errors import KernelError
from nodeagent.kernel.netlink import explained, find_output_device
from nodeagent.model.address import Ip


class _Refusing:
    def __init__(self, code: int) -> None:
        self._code = code

    def route(self, *_arguments: object, **_more: object) -> Any:
        raise NetlinkError(self._code)


def test_errors_are_ours_and_say_what_was_done() -> None:
    with (
        pytest.raises(KernelError, match="listing the devices: Operation not permitted"),
        explained("listing the devices"),
    ):
        raise NetlinkError(errno.EPERM)


@pytest.mark.parametrize("code", [errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES])
def test_no_route_and_a_route_that_refuses_lead_nowhere(code: int) -> None:
    assert find_output_device(cast("IPRoute", _Refusing(code)), Ip("10.1.2.3")) == 0


def test_any_other_answer_is_an_error() -> None:
    with pytest.raises(KernelError, match="No buffer space"):
        find_output_device(cast("IPRoute", _Refusing(errno.ENOBUFS)), Ip("10.1.2.3"))
