# SPDX-License-Identifier: Apache-2.0
"""The conversation without a server: where each watch begins, and when everything is listed anew."""

import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from nodeagent.kubernetes.objects import BadAnswer
from nodeagent.kubernetes.reflector import Changed, Expired, Reflector, Removed, Replaced, WatchRefused
from tests.kube_api import pod


def query(reflector: Reflector) -> dict[str, str]:
    ask = reflector.ask(0.5)
    found = {name: values[0] for name, values in parse_qs(urlsplit(ask.target).query).items()}
    assert urlsplit(ask.target).path == "/api/v1/pods"
    assert ask.is_watch == ("watch" in found)
    assert found.pop("fieldSelector") == "spec.nodeName=node-a"
    return found


def page(*items: dict[str, Any], version: str = "7", more: str = "") -> bytes:
    return json.dumps({"metadata": {"resourceVersion": version, "continue": more}, "items": items}).encode()


def event(kind: str, name: str, version: str) -> bytes:
    about = pod(name)
    about["metadata"]["resourceVersion"] = version
    return json.dumps({"type": kind, "object": about}).encode()


def error(code: int, reason: str = "") -> bytes:
    return json.dumps({"type": "ERROR", "object": {"code": code, "reason": reason, "message": "because"}}).encode()


@pytest.fixture
def watching() -> Reflector:
    reflector = Reflector("/api/v1/pods", fieldSelector="spec.nodeName=node-a")
    reflector.listed(page())
    return reflector


def test_a_list_in_pages_then_a_watch_from_its_version() -> None:
    reflector = Reflector("/api/v1/pods", fieldSelector="spec.nodeName=node-a")
    assert query(reflector) == {"limit": "500", "resourceVersion": "0"}
    assert reflector.listed(page(pod("a"), more="next")) is None
    assert query(reflector) == {"limit": "500", "continue": "next"}
    replaced = reflector.listed(page(pod("b"), version="9"))
    assert isinstance(replaced, Replaced)
    assert [one.metadata.name for one in replaced.objects] == ["a", "b"]
    assert query(reflector) == {
        "watch": "1",
        "allowWatchBookmarks": "true",
        "resourceVersion": "9",
        "timeoutSeconds": "450",
    }


def test_a_successors_first_list_is_not_older_than_what_its_predecessor_was_told(watching: Reflector) -> None:
    watching.told(event("ADDED", "a", "8"))
    with pytest.raises(Expired):
        watching.told(error(410))
    successor = Reflector("/api/v1/pods", fieldSelector="spec.nodeName=node-a")
    successor.begin_at(watching.last)
    for status in (429, 500):
        successor.refused(status)
        assert query(successor) == {"resourceVersion": "8", "resourceVersionMatch": "NotOlderThan"}
    successor.begin_at("")
    assert query(successor) == {"limit": "500", "resourceVersion": "0"}


@pytest.mark.parametrize("status", [400, 410, 504])
def test_a_server_that_does_not_come_to_that_version_is_asked_for_the_newest(status: int) -> None:
    successor = Reflector("/api/v1/pods", fieldSelector="spec.nodeName=node-a")
    successor.begin_at("8")
    successor.refused(status)
    assert query(successor) == {"limit": "500"}


@pytest.mark.parametrize("status", [400, 504])
def test_the_same_refusal_of_another_question_says_nothing_of_a_version(watching: Reflector, status: int) -> None:
    watching.refused(status)
    assert query(watching)["resourceVersion"] == "7"
    first = Reflector("/api/v1/pods", fieldSelector="spec.nodeName=node-a")
    first.refused(status)
    assert query(first) == {"limit": "500", "resourceVersion": "0"}


def test_each_event_and_each_bookmark_moves_where_the_next_watch_begins(watching: Reflector) -> None:
    for kind, version, change in (("ADDED", "8", Changed), ("MODIFIED", "9", Changed), ("DELETED", "10", Removed)):
        told = watching.told(event(kind, "a", version))
        assert isinstance(told, change)
        assert query(watching)["resourceVersion"] == version
    assert watching.told(event("BOOKMARK", "", "20")) is None
    assert query(watching)["resourceVersion"] == "20"


def test_a_type_that_is_not_known_yet_changes_nothing_but_the_version(watching: Reflector) -> None:
    assert watching.told(event("PAUSED", "a", "8")) is None
    assert query(watching)["resourceVersion"] == "8"


@pytest.mark.parametrize("line", [error(410, "Expired"), error(410, "Gone"), error(0, "Expired")])
def test_a_version_that_is_forgotten_is_followed_by_a_list_of_the_newest_state(
    watching: Reflector, line: bytes
) -> None:
    with pytest.raises(Expired):
        watching.told(line)
    assert query(watching) == {"limit": "500"}


def test_a_page_that_is_forgotten_begins_the_list_anew(watching: Reflector) -> None:
    watching.restart()
    watching.listed(page(pod("old"), more="next"))
    watching.restart()
    assert query(watching) == {"limit": "500"}
    replaced = watching.listed(page(pod("new"), version="30"))
    assert isinstance(replaced, Replaced)
    assert [one.metadata.name for one in replaced.objects] == ["new"], "nothing of the first attempt"


def test_another_error_in_a_watch_goes_on_from_where_it_was(watching: Reflector) -> None:
    with pytest.raises(WatchRefused, match="because \\(500\\)"):
        watching.told(error(500))
    assert query(watching)["resourceVersion"] == "7"


def test_nonsense_may_have_been_a_change_so_everything_is_listed(watching: Reflector) -> None:
    with pytest.raises(BadAnswer):
        watching.told(b'{"type": "ADDED"')
    assert query(watching) == {"limit": "500"}


def test_a_list_without_version_is_no_list() -> None:
    with pytest.raises(BadAnswer, match="resourceVersion"):
        Reflector("/api/v1/pods").listed(page(version=""))
