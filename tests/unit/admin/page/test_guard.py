# SPDX-License-Identifier: Apache-2.0
"""Nobody but a page of this very server, or a person, gets an answer; and no answer may be used for anything else."""

import pytest

from nodeagent.admin.page.guard import HEADERS, obstacle


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "127.0.0.1:15080"},
        {"host": "localhost:9000"},
        {"host": "localhost"},
        {"host": "[::1]:15080"},
        {"host": "127.0.0.1:15080", "origin": "http://127.0.0.1:15080", "sec-fetch-site": "same-origin"},
        {"host": "127.0.0.1:15080", "sec-fetch-site": "none"},
    ],
)
def test_who_is_answered(headers: dict[str, str]) -> None:
    assert obstacle(headers) == ""


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({}, "loopback"),
        ({"host": ""}, "loopback"),
        ({"host": "attacker.example:15080"}, "loopback"),
        ({"host": "127.0.0.1.attacker.example"}, "loopback"),
        ({"host": "localhost.attacker.example:15080"}, "loopback"),
        ({"host": "10.0.0.1:15080"}, "loopback"),
        ({"host": "0.0.0.0:15080"}, "loopback"),
        ({"host": "127.0.0.1:15080", "origin": "http://attacker.example"}, "another site"),
        ({"host": "127.0.0.1:15080", "origin": "null"}, "another site"),
        ({"host": "127.0.0.1:15080", "origin": "https://127.0.0.1:15080"}, "another site"),
        ({"host": "127.0.0.1:15080", "origin": "http://127.0.0.1:8000"}, "another site"),
        ({"host": "127.0.0.1:15080", "sec-fetch-site": "cross-site"}, "another site"),
        ({"host": "127.0.0.1:15080", "sec-fetch-site": "same-site"}, "another site"),
    ],
)
def test_who_is_refused(headers: dict[str, str], words: str) -> None:
    assert words in obstacle(headers)


def test_nothing_comes_from_elsewhere_and_nobody_frames_it() -> None:
    rules = dict(rule.split(" ", 1) for rule in dict(HEADERS)["Content-Security-Policy"].split("; "))
    assert rules["default-src"] == rules["frame-ancestors"] == rules["form-action"] == rules["base-uri"] == "'none'"
    assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == "'self'"
    assert "unsafe" not in dict(HEADERS)["Content-Security-Policy"]
