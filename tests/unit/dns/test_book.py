# SPDX-License-Identifier: Apache-2.0
"""The rules of book.py's docstring with a clock that the test moves."""

import pytest

from nodeagent.dns.book import (
    CONCURRENT,
    KEPT_SECONDS,
    LONGEST_SECONDS,
    MOST_ADDRESSES,
    MOST_NAMES,
    SHORTEST_SECONDS,
    Family,
    NameBook,
    Outcome,
    Outcomes,
)
from nodeagent.model.address import Ip, unpack_ip
from nodeagent.model.mesh import Changes
from nodeagent.model.resolved_name import ResolvedName

API = "api.example"
A, B, SIX = Ip("203.0.113.7"), Ip("203.0.113.8"), Ip("2001:db8::7")
NO_SUCH = Outcome(seconds=30, words="there is no such name")
NONE = Outcome(seconds=30, words="it has no address")
FAILED = Outcome(words="no answer", is_answer=False)


def found(*addresses: Ip, seconds: float = 60) -> Outcome:
    return Outcome(addresses, seconds)


def both(ipv4: Outcome, ipv6: Outcome = NONE) -> Outcomes:
    return {Family.IPV4: ipv4, Family.IPV6: ipv6}


def book_with(*names: str) -> NameBook:
    """Draws 0: questions at the end of an answer's life, retries 20 % early."""
    book = NameBook(lambda: 0.0)
    book.want(names, 0)
    return book


def told(changes: Changes) -> ResolvedName:
    (name,) = changes.names
    return name


def test_a_name_is_asked_at_once_and_once_and_again_when_its_answer_ends() -> None:
    book = book_with(API)
    assert book.due(0) == [API]
    assert book.due(1) == []
    assert not book.has_told([API])

    assert told(book.learned(API, both(found(B, A, seconds=60), found(SIX, seconds=90)), 1)) == ResolvedName(
        hostname=API, addresses=(A, B, SIX)
    )
    assert book.has_told([API])
    assert book.next_event() == 61
    assert book.due(60) == []
    assert book.due(61) == [API]


def test_what_means_what_it_meant_is_not_told_again() -> None:
    book = book_with(API)
    book.due(0)
    book.learned(API, both(found(A, B)), 0)
    book.due(60)
    assert not book.learned(API, both(found(B, A)), 60)


@pytest.mark.parametrize(("seconds", "pause"), [(0, SHORTEST_SECONDS), (60, 60), (86400, LONGEST_SECONDS)])
def test_a_ttl_counts_within_bounds(seconds: float, pause: float) -> None:
    book = book_with(API)
    book.due(0)
    book.learned(API, both(found(A, seconds=seconds), Outcome(seconds=86400, words="it has no address")), 0)
    assert book.next_event() == pause


def test_nodes_do_not_ask_together() -> None:
    book = NameBook(lambda: 0.5)
    book.want([API], 0)
    book.due(0)
    book.learned(API, both(found(A, seconds=60), found(SIX, seconds=60)), 0)
    assert book.next_event() == pytest.approx(57)


@pytest.mark.parametrize(
    ("outcomes", "error"),
    [
        (both(NO_SUCH, NO_SUCH), "there is no such name"),
        (both(NONE, NONE), "it has no address"),
        (both(found(Ip("127.0.0.1"))), "127.0.0.1 is no address that a pod could reach it by"),
        (both(NONE, found(Ip("fe80::1"))), "it has no address"),
        (both(found(Ip("224.0.0.1"))), "224.0.0.1 is no address that a pod could reach it by"),
        (both(found(unpack_ip(bytes(4)))), f"{unpack_ip(bytes(4))} is no address that a pod could reach it by"),
    ],
)
def test_that_there_is_no_address_is_an_answer_and_ends_what_there_was(outcomes: Outcomes, error: str) -> None:
    book = book_with(API)
    book.due(0)
    book.learned(API, both(found(A)), 0)
    book.due(60)
    assert told(book.learned(API, outcomes, 60)) == ResolvedName(hostname=API, error=error)
    assert book.failing == [ResolvedName(hostname=API, error=error)]


def test_the_last_good_answer_is_kept_for_a_time_while_the_resolver_fails() -> None:
    book = book_with(API)
    book.due(0)
    book.learned(API, both(found(A), found(SIX)), 0)
    book.due(60)
    assert told(book.learned(API, both(FAILED, FAILED), 60)) == ResolvedName(
        hostname=API, addresses=(A, SIX), error="no answer"
    )
    book.due(KEPT_SECONDS)
    assert not book.learned(API, both(FAILED, FAILED), KEPT_SECONDS)
    book.due(KEPT_SECONDS + 60)
    assert told(book.learned(API, both(FAILED, FAILED), KEPT_SECONDS + 60)).addresses == ()


def test_a_family_that_the_resolver_cannot_ask_for_keeps_its_own() -> None:
    book = book_with(API)
    book.due(0)
    book.learned(API, both(found(A), found(SIX)), 0)
    book.due(60)
    moved = told(book.learned(API, both(found(B), FAILED), 60))
    assert (moved.addresses, moved.former, moved.error) == ((B, SIX), (A,), "no answer")


def test_one_family_that_never_answers_is_no_fault_of_the_other() -> None:
    book = book_with(API)
    book.due(0)
    assert told(book.learned(API, both(found(A), FAILED), 0)).error == ""


def test_what_a_name_meant_until_lately_is_told_for_a_time() -> None:
    book = book_with(API)
    book.due(0)
    assert told(book.learned(API, both(found(A, seconds=300)), 0)).former == ()
    book.due(300)
    moved = told(book.learned(API, both(found(B, seconds=300)), 300))
    assert (moved.addresses, moved.former) == ((B,), (A,))
    book.due(600)
    assert told(book.learned(API, both(found(B, seconds=300)), 600)).former == ()
    book.due(900)
    back = told(book.learned(API, both(found(A, seconds=300)), 900))
    assert (back.addresses, back.former) == ((A,), (B,))
    book.due(1200)
    assert told(book.learned(API, both(NO_SUCH, NO_SUCH), 1200)).former == ()


def test_a_failure_is_repeated_ever_later() -> None:
    book = book_with(API)
    now, pauses = 0.0, []
    for _ in range(8):
        assert book.due(now) == [API]
        book.learned(API, both(FAILED, FAILED), now)
        following = book.next_event()
        assert following is not None
        pauses.append(round((following - now) / 0.8))
        now = following
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]


def test_only_so_many_are_asked_at_once_those_that_waited_longest_first() -> None:
    names = [f"{number}.example" for number in range(CONCURRENT + 2)]
    book = book_with(*names)
    assert book.due(0) == names[:CONCURRENT]
    assert book.next_event() is None
    book.learned(names[0], both(found(A)), 0)
    assert book.due(0) == [names[CONCURRENT]]


def test_who_is_not_wanted_any_more_is_forgotten_and_its_answer_dropped() -> None:
    book = book_with(API)
    book.due(0)
    assert book.want([], 1) == Changes(removed_names=(API,))
    book.want([API], 2)
    assert book.due(2) == [], "the question is still on its way: there is no second"
    assert told(book.learned(API, both(found(A)), 3)).addresses == (A,)
    book.want([], 4)
    assert not book.learned(API, both(found(B)), 5)
    assert (book.names, book.next_event()) == (0, None)


def test_beyond_the_most_names_each_is_told_to_be_unresolved() -> None:
    names = [f"{number}.example" for number in range(MOST_NAMES + 1)]
    book = NameBook(lambda: 0.0)
    surplus = told(book.want(names, 0))
    assert (surplus.hostname, surplus.addresses) == (names[-1], ())
    assert str(MOST_NAMES) in surplus.error
    assert book.failing == [surplus]
    assert not book.want(names, 1)

    assert book.want(names[1:], 2) == Changes(removed_names=(names[0],))
    assert book.names == MOST_NAMES
    assert book.failing == []


def test_of_a_name_only_so_many_addresses_are_held() -> None:
    book = book_with(API)
    book.due(0)
    many = tuple(Ip(f"198.51.100.{number}") for number in range(200))
    assert len(told(book.learned(API, both(found(*many)), 0)).addresses) == MOST_ADDRESSES
