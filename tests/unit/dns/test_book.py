# SPDX-License-Identifier: Apache-2.0
"""The rules of book.py's docstring with a clock that the test moves."""

import pytest

from nodeagent.dns.book import (
    CONCURRENT,
    FORMER_SECONDS,
    KEPT_SECONDS,
    LONGEST_SECONDS,
    MOST_ADDRESSES,
    MOST_NAMES,
    RECALLED_SECONDS,
    SHORTEST_SECONDS,
    Family,
    GoodAnswer,
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


def recalling(at: float, *, names: tuple[str, ...] = (API,)) -> NameBook:
    """At 0, of an agent that starts."""
    book = NameBook(lambda: 0.0)
    book.recall(GoodAnswer(name, Family.IPV4, (A,), at) for name in names)
    book.want([API], 0)
    assert book.due(0) == [API]
    return book


def test_what_was_known_before_counts_while_the_resolver_fails() -> None:
    book = recalling(at=-60)
    assert not book.has_told([API])
    assert told(book.learned(API, both(FAILED, FAILED), 0.1)) == ResolvedName(
        hostname=API, addresses=(A,), error="no answer"
    )


def test_what_was_known_before_counts_once_the_resolver_is_silent_for_a_time() -> None:
    book = recalling(at=-60)
    assert book.overdue(0.9) == Changes()
    assert book.next_event() == RECALLED_SECONDS
    recalled = told(book.overdue(RECALLED_SECONDS))
    assert (recalled.addresses, recalled.error) == ((A,), "the node's resolver has not answered yet")
    assert book.has_told([API])
    assert book.overdue(2) == Changes()
    assert told(book.learned(API, both(FAILED, FAILED), 5)).addresses == (A,)


@pytest.mark.parametrize("answer", [both(found(B)), both(NO_SUCH, NO_SUCH)], ids=["moved", "no such name"])
def test_an_answer_goes_before_what_was_known_before(answer: Outcomes) -> None:
    book = recalling(at=-60)
    assert A not in told(book.learned(API, answer, 0.1)).addresses
    assert book.overdue(RECALLED_SECONDS) == Changes()


def test_what_was_known_lately_may_be_remembered_by_clients() -> None:
    assert told(recalling(at=-60).learned(API, both(found(B)), 0.1)).former == (A,)
    assert told(recalling(at=-FORMER_SECONDS).learned(API, both(found(B)), 0.1)).former == ()


def test_its_age_counts_from_when_it_was_given() -> None:
    book = recalling(at=30 - KEPT_SECONDS)
    assert told(book.learned(API, both(FAILED, FAILED), 1)).addresses == (A,)
    assert list(book.good_answers(1)) == [GoodAnswer(API, Family.IPV4, (A,), 30 - KEPT_SECONDS)]
    book.due(60)
    assert told(book.learned(API, both(FAILED, FAILED), 60)).addresses == ()
    assert list(book.good_answers(60)) == []
    outdated = recalling(at=-KEPT_SECONDS - 1)
    assert outdated.next_event() is None
    assert told(outdated.learned(API, both(FAILED, FAILED), 1)).addresses == ()


def test_what_may_be_recalled_is_what_is_known_and_what_was_before_it_was_wanted() -> None:
    book = recalling(at=-60, names=(API, "other.example"))
    book.learned(API, both(found(B), found(SIX)), 1)
    assert sorted(book.good_answers(2)) == [
        GoodAnswer(API, Family.IPV4, (B,), 1),
        GoodAnswer(API, Family.IPV6, (SIX,), 1),
        GoodAnswer("other.example", Family.IPV4, (A,), -60),
    ]
    book.want([], 3)
    assert [answer.name for answer in book.good_answers(3)] == ["other.example"]


def test_only_so_many_names_are_recalled() -> None:
    book = NameBook(lambda: 0.0)
    book.recall(GoodAnswer(f"{number}.example", Family.IPV4, (A,), 0) for number in range(MOST_NAMES + 1))
    assert len(list(book.good_answers(0))) == MOST_NAMES


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
