# SPDX-License-Identifier: Apache-2.0
"""A refused resource is named in one bounded line."""

from nodeagent.xds.bad_resource import MAX_REASON_TEXT, BadResource


def test_it_names_the_resource_and_says_what_to_check() -> None:
    error = BadResource("shop/a", "port 70000")

    assert str(error) == "shop/a: port 70000"
    assert (error.name, error.reason) == ("shop/a", "port 70000")
    assert error.check


def test_what_the_control_plane_wrote_stays_one_bounded_line() -> None:
    error = BadResource("shop/a\nroot: all is well", "x" * 1000)

    assert "\n" not in str(error)
    assert len(error.reason) == MAX_REASON_TEXT + 3
