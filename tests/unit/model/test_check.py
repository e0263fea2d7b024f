# SPDX-License-Identifier: Apache-2.0
"""Ids are what scripts and links hold on to: these stay, whatever names become."""

import pytest

from nodeagent.model.check import Check, check_id, component_id


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("bpffs", "bpffs"),
        ("pods' cgroup", "pods-cgroup"),
        ("bpf_sk_assign", "bpf-sk-assign"),
        ("for workers", "for-workers"),
    ],
)
def test_an_id_is_an_anchor(name: str, number: str) -> None:
    assert check_id(name) == number


def test_no_two_have_one_id() -> None:
    assert len({check_id(check) for check in Check}) == len(Check)
    assert component_id("kernel") != check_id(Check.KERNEL)
    assert component_id("INTO_PROXY_LOST") == "agent-into-proxy-lost"
