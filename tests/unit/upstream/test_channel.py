# SPDX-License-Identifier: Apache-2.0
"""Addresses, files and errors; that the channel works is tested by its two users."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from nodeagent.config import Config
from nodeagent.errors import ConfigError, ControlPlaneError
from nodeagent.upstream.channel import (
    MAX_ERROR_TEXT,
    Upstream,
    ca_upstream,
    failure,
    read_metadata,
    read_roots,
    xds_upstream,
)

if TYPE_CHECKING:
    from tests.unit.conftest import TinyCa


@pytest.fixture
def upstream(tmp_path: Path) -> Upstream:
    return Upstream(
        target="h:1",
        is_tls=True,
        server_name="",
        root_file=str(tmp_path / "roots"),
        token_file=str(tmp_path / "token"),
        cluster="c1",
    )


@pytest.mark.parametrize(
    ("address", "target", "is_tls"),
    [
        ("https://istiod.istio-system.svc:15012", "istiod.istio-system.svc:15012", True),
        ("istiod:15012", "istiod:15012", True),
        ("https://istiod:15012/", "istiod:15012", True),
        ("http://127.0.0.1:15010", "127.0.0.1:15010", False),
        ("https://[fd00::1]:15012", "[fd00::1]:15012", True),
    ],
)
def test_addresses(address: str, target: str, *, is_tls: bool) -> None:
    upstream = xds_upstream(Config(xds_address=address))

    assert (upstream.target, upstream.is_tls) == (target, is_tls)


@pytest.mark.parametrize(
    "address",
    ["", "istiod", "https://istiod", "https://:15012", "ftp://istiod:1", "https://istiod:65536", "https://istiod:0",
     "https://istiod:x", "https://istiod:1/xds", "https://user@istiod:1", "https://[fd00::1:15012"],
)  # fmt: skip
def test_what_is_no_address_is_refused_with_the_flag_and_the_value(address: str) -> None:
    with pytest.raises(ConfigError, match="--xds-address") as caught:
        xds_upstream(Config(xds_address=address))

    assert repr(address) in str(caught.value)


def test_the_ca_is_the_xds_server_unless_it_is_said_and_never_in_plain_text() -> None:
    config = Config(xds_address="https://istiod:15012", server_name="n", cluster="c")

    assert ca_upstream(config) == xds_upstream(config)
    assert ca_upstream(dataclasses.replace(config, ca_address="https://ca:1")).target == "ca:1"
    with pytest.raises(ConfigError, match="plain text"):
        ca_upstream(dataclasses.replace(config, ca_address="", xds_address="http://istiod:15010"))


def test_the_token_is_read_at_each_use(upstream: Upstream) -> None:
    Path(upstream.token_file).write_text("one\n")
    assert read_metadata(upstream) == (("authorization", "Bearer one"), ("clusterid", "c1"))
    Path(upstream.token_file).write_text("two")
    assert read_metadata(upstream) == (("authorization", "Bearer two"), ("clusterid", "c1"))


@pytest.mark.parametrize("content", [b"", b" \n", b"a b", b"a\nb", b"a\x00b", "ü".encode(), b"\xff"])
def test_a_token_that_no_header_can_carry_is_refused_without_being_shown(upstream: Upstream, content: bytes) -> None:
    Path(upstream.token_file).write_bytes(b"secret" + content if content.strip() else content)

    with pytest.raises(ControlPlaneError, match="not a token") as caught:
        read_metadata(upstream)

    assert upstream.token_file in str(caught.value)
    assert "secret" not in str(caught.value)


def test_roots_are_read_at_each_use_and_must_be_certificates(upstream: Upstream, tiny_ca: "TinyCa") -> None:
    path = Path(upstream.root_file)
    with pytest.raises(ControlPlaneError, match="No such file"):
        read_roots(upstream)
    path.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    with pytest.raises(ControlPlaneError, match="not a certificate"):
        read_roots(upstream)
    path.write_text(tiny_ca.pem)
    assert read_roots(upstream) == tiny_ca.pem.encode()


def test_plain_text_needs_no_files(upstream: Upstream) -> None:
    plain = dataclasses.replace(upstream, is_tls=False)

    assert read_roots(plain) == b""
    assert read_metadata(plain) == (("clusterid", "c1"),)


@pytest.mark.parametrize("code", list(grpc.StatusCode))
def test_every_failure_says_where_what_and_what_to_check(upstream: Upstream, code: grpc.StatusCode) -> None:
    error = failure(upstream, code, "no such luck")

    assert str(error) == f"https://h:1: {code.name}: no such luck"
    assert error.code is code
    assert error.check


def test_what_the_other_end_wrote_becomes_one_bounded_line(upstream: Upstream) -> None:
    text = str(failure(upstream, grpc.StatusCode.UNKNOWN, "a\nroot: fine\x1b[2J" + "x" * 1000))

    assert text.isprintable()
    assert len(text) < MAX_ERROR_TEXT + 50
    assert str(failure(upstream, grpc.StatusCode.UNKNOWN, None)) == "https://h:1: UNKNOWN"
