# SPDX-License-Identifier: Apache-2.0
"""Configuration: who wins, what a duration is, and one clear message for each value that cannot be."""

import contextlib
import dataclasses
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.config import Config, make_config
from nodeagent.errors import ConfigError
from nodeagent.model.mark import Marks

FIELDS = dataclasses.fields(Config)


def made(flags: dict[str, Any] | None = None, environment: dict[str, str] | None = None, **file: Any) -> Config:
    return make_config({"node": "n"} | (flags or {}), environment or {}, file)


def test_every_field_says_what_it_is_and_has_a_variable_of_its_own() -> None:
    assert all(len(field.metadata["help"]) > 10 for field in FIELDS)
    assert len({field.metadata["env"] for field in FIELDS}) == len(FIELDS)


@pytest.mark.parametrize("field", [field for field in FIELDS if field.name != "node"], ids=lambda field: field.name)
def test_a_setting_without_a_source_has_its_default(field: "dataclasses.Field[Any]") -> None:
    assert getattr(made(), field.name) == field.default


@pytest.mark.parametrize(
    ("flag", "environment", "file", "found"),
    [
        pytest.param(None, None, None, "Kubernetes", id="default"),
        pytest.param(None, None, "f", "f", id="file"),
        pytest.param(None, "e", "f", "e", id="environment before file"),
        pytest.param("x", "e", "f", "x", id="flag before environment"),
        pytest.param("", "e", "f", "", id="an empty flag is given"),
        pytest.param(None, "", "f", "", id="an empty variable is given"),
    ],
)
def test_the_nearest_source_wins(flag: str | None, environment: str | None, file: str | None, found: str) -> None:
    variables = {} if environment is None else {"CLUSTER_ID": environment}
    settings = {} if file is None else {"cluster": file}
    assert made({"cluster": flag}, variables, **settings).cluster == found


@pytest.mark.parametrize(
    ("connect", "same_node", "draws"),
    [("off", "kernel", False), ("on", "kernel", True), ("on", "tunnel", False)],
)
def test_services_are_drawn_where_the_kernel_carries_connections(connect: str, same_node: str, draws: bool) -> None:  # noqa: FBT001 - a column of the table
    assert made({"service_connect": connect, "same_node": same_node}).draws_services is draws


def test_exclusions_are_parsed_and_a_wrong_one_is_named() -> None:
    assert len(made({"exclude": "10.0.0.0/8, *:2049"}).exclusions) == 3
    with pytest.raises(ConfigError, match="--exclude: 'everything' is not a block"):
        made({"exclude": "10.0.0.0/8, everything"})


@pytest.mark.parametrize(
    ("raw", "seconds"),
    [("24h", 86400), ("30s", 30), (" 5m ", 300), ("1d", 86400), ("90", 90), (90, 90), (90.0, 90), ("1.5h", 5400)],
)
def test_a_duration_is_a_number_with_or_without_its_unit(raw: object, seconds: int) -> None:
    found = made({"certificate_seconds": raw}).certificate_seconds
    assert found == seconds
    assert isinstance(found, int)


def test_a_duration_may_be_a_fraction_where_that_means_something() -> None:
    assert made({"drain_seconds": "250ms"}).drain_seconds == 0.25
    assert made(environment={"CONNECTION_TERMINATION_DEADLINE": "2.5"}).drain_seconds == 2.5


@pytest.mark.parametrize(
    ("flags", "environment", "file", "said"),
    [
        ({"node": ""}, {}, {}, "the node's name is not set"),
        ({}, {}, {"colour": 1}, "configuration file: unknown setting 'colour'"),
        ({}, {}, {1: 1, "colour": 1}, "configuration file: unknown setting 1"),
        ({"workers": "many"}, {}, {}, "--workers: 'many' is neither a number nor a duration"),
        ({}, {"NODEAGENT_WORKERS": ""}, {}, "NODEAGENT_WORKERS: '' is neither"),
        ({}, {}, {"workers": True}, "configuration file: workers: True is neither"),
        ({}, {}, {"workers": [1]}, "configuration file: workers: [1] is neither"),
        ({}, {}, {"drain_seconds": 10**400}, "is neither a number"),
        ({"workers": "1.5"}, {}, {}, "--workers: '1.5': a whole number is expected"),
        ({"workers": "inf"}, {}, {}, "--workers: 'inf' is neither"),
        ({"drain_seconds": "nan"}, {}, {}, "--drain-seconds: 'nan' is neither"),
        ({"drain_seconds": "5x"}, {}, {}, "--drain-seconds: '5x' is neither"),
        ({"drain_seconds": "s"}, {}, {}, "--drain-seconds: 's' is neither"),
        ({}, {}, {"cluster": 5}, "configuration file: cluster: 5: a text is expected"),
        ({"workers": 5}, {}, {}, "--workers: 5 is not 0 to 4"),
        ({"workers": -1}, {}, {}, "--workers: -1 is not 0 to 4"),
        ({"worker_uid": 0}, {}, {}, "--worker-uid: a worker never runs as root"),
        ({"attach": "xdp"}, {}, {}, "--attach: 'xdp' is not auto or tcx or clsact"),
        (
            {"mark": "0x2000", "mark_mask": "0x200f"},
            {},
            {},
            "--mark and --mark-mask: the mask 0x200f takes bits of CNI",
        ),
        ({}, {"NODEAGENT_MARK": "0xmesh"}, {}, "NODEAGENT_MARK: '0xmesh' is neither a number"),
        ({"log_format": "xml"}, {}, {}, "--log-format: 'xml' is not text or json"),
        ({"log_level": "loud"}, {}, {}, "--log-level: 'loud' is not debug or info or warning or error"),
        ({"instance_ip": "here"}, {}, {}, "--instance-ip: 'here' does not appear"),
        ({"stats_address": "15020"}, {}, {}, "--stats-address: '15020' is not host:port"),
        ({"page": "0.0.0.0:15080"}, {}, {}, "--page: 0.0.0.0:15080 is not loopback"),
        ({"page": "[::]:15080"}, {}, {}, "is not loopback"),
        ({"page": "page.sock"}, {}, {}, "--page: 'page.sock' is not host:port"),
        ({"page": "localhost:80"}, {}, {}, "--page: 'localhost' does not appear to be"),
        ({"ready_address": "::1:80"}, {}, {}, "--ready-address: '::1:80': an IPv6 address needs brackets"),
        ({"admin_address": "[::]:15000"}, {}, {}, "--admin-address: '[::]:15000' is not on loopback"),
        ({"admin_address": "localhost:15000"}, {}, {}, "--admin-address: 'localhost:15000' is not on loopback"),
        ({"trace_endpoint": "collector:4317"}, {}, {}, "--trace-endpoint: 'collector:4317' is no URL"),
        ({"trace_endpoint": "http://[::1"}, {}, {}, "--trace-endpoint: 'http://[::1' is no URL"),
        ({"trace_sampling": "1.5"}, {}, {}, "--trace-sampling: 1.5 is not 0 to 1"),
        ({"certificate_seconds": 0}, {}, {}, "--certificate-seconds: must be more than 0"),
        ({"drain_seconds": "-1s"}, {}, {}, "--drain-seconds: must be more than 0"),
        ({"max_connections": 0}, {}, {}, "--max-connections: must be more than 0"),
        ({"max_held_mib": 0}, {}, {}, "--max-held-mib: must be more than 0"),
        ({"spin_microseconds": -1}, {}, {}, "--spin-microseconds: must be 0 or more"),
        ({"spin_microseconds": 1001}, {}, {}, "--spin-microseconds: 1001 is more than 1000"),
        ({"compiled": "yes"}, {}, {}, "--compiled: 'yes' is not auto or off"),
        ({"policy_wait_seconds": -1}, {}, {}, "--policy-wait-seconds: must be 0 or more"),
        ({"run_dir": "here"}, {}, {}, "--run-dir and --bpffs: absolute paths"),
        ({"bpffs": ""}, {}, {}, "--run-dir and --bpffs: absolute paths"),
    ],
)
def test_a_value_that_cannot_be_is_one_clear_message(
    flags: dict[str, object], environment: dict[str, str], file: dict[Any, object], said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        make_config({"node": "n"} | flags, environment, file)
    assert str(caught.value).startswith(said) or said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.check
    assert caught.value.exit_code == 2


@given(
    name=st.sampled_from([field.name for field in FIELDS]),
    raw=st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers()) | st.binary(),
    source=st.sampled_from(["flag", "file"]),
)
def test_any_value_makes_a_config_or_a_config_error(name: str, raw: object, source: str) -> None:
    given_values = {name: raw}
    flags, file = (given_values, {}) if source == "flag" else ({}, given_values)
    with contextlib.suppress(ConfigError):
        assert isinstance(make_config({"node": "n"} | flags, {}, file), Config)


@pytest.mark.parametrize(
    ("endpoint", "sampling", "traced"), [("", "1", 0.0), ("http://c:4318/v1/traces", "0.25", 0.25)]
)
def test_workers_trace_only_for_a_collector(endpoint: str, sampling: str, traced: float) -> None:
    assert made({"trace_endpoint": endpoint, "trace_sampling": sampling}).traced_share == traced
    assert made({"trace_endpoint": endpoint, "trace_sampling": "0"}).traced_share < 1e-6


def test_nothing_may_be_listened_on_when_the_address_is_empty() -> None:
    config = made({"stats_address": "", "ready_address": ""})
    assert (config.stats_address, config.ready_address) == ("", "")


def test_the_files_of_the_run_directory() -> None:
    config = made({"run_dir": "/run/x"})
    assert (config.admin_socket, config.state_file) == ("/run/x/admin.sock", "/run/x/state")


def test_marks_are_written_as_ip_rule_writes_them() -> None:
    environment = {"NODEAGENT_MARK": "0x80000000", "NODEAGENT_MARK_MASK": "0xF0000000"}
    assert make_config({"node": "n"}, environment, {}).marks == Marks(0x80000000, 0xF0000000)
    assert make_config({"node": "n"}, {}, {"mark": 8, "mark_mask": 15}).marks == Marks(8, 15)


@pytest.mark.parametrize("address", ["", "127.0.0.1:15080", "127.9.9.9:1", "[::1]:15080", "/run/nodeagent/page.sock"])
def test_a_page_is_for_this_machine(address: str) -> None:
    assert made({"page": address}).page == address


def test_the_kubernetes_api_is_found_by_what_every_pod_is_told() -> None:
    told = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "6443", "NODEAGENT_KUBERNETES": "on"}
    made = make_config({"node": "n", "exclude_namespaces": "kube-system, other,"}, told, {})
    assert (made.kubernetes_host, made.kubernetes_port) == ("10.96.0.1", 6443)
    assert made.excluded_namespaces == {"kube-system", "other"}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({}, "the API server's address is not known"),
        ({"kubernetes_host": "10.96.0.1", "kubernetes_port": "0"}, "the API server's address is not known"),
        ({"kubernetes_host": "10.96.0.1", "pods_file": "pods.yaml"}, "two sources"),
        ({"kubernetes_host": "10.96.0.1", "netns_dir": "netns"}, "--netns-dir"),
        ({"kubernetes": "yes"}, "--kubernetes: 'yes' is not off or on"),
    ],
)
def test_a_kubernetes_that_cannot_be_is_told(flags: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)) as caught:
        make_config({"node": "n", "kubernetes": "on"} | flags, {}, {})
    assert caught.value.exit_code == 2
