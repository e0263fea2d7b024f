# SPDX-License-Identifier: Apache-2.0
"""The tree of errors: each leaf tells what to look at, and the reason that is counted when a connection ends by it."""

import importlib
import pkgutil
from collections.abc import Iterator

import pytest

import nodeagent
from nodeagent import errors
from nodeagent.errors import (
    AgentUnreachable,
    ConfigError,
    ControlPlaneError,
    KernelError,
    MissingPrivilege,
    NodeagentError,
    NotPossible,
    PeerError,
    ProblemFound,
)
from nodeagent.model.reason import Reason

EXIT_CODES = {
    ConfigError: 2,
    NotPossible: 5,
    MissingPrivilege: 4,
    KernelError: 5,
    AgentUnreachable: 3,
    ControlPlaneError: 1,
    PeerError: 1,
    ProblemFound: 1,
}


def tree(root: type[NodeagentError] = NodeagentError) -> Iterator[type[NodeagentError]]:
    for child in root.__subclasses__():
        yield child
        yield from tree(child)


def test_the_tree_that_the_docstring_draws_is_the_tree() -> None:
    drawn = set()
    for line in (errors.__doc__ or "").splitlines():
        words = line.replace("|", " ").replace("+--", " ").split()
        if words and hasattr(errors, words[0]):
            drawn.add(getattr(errors, words[0]))
    assert drawn == {NodeagentError, *EXIT_CODES} - {MissingPrivilege}


@pytest.mark.parametrize(("error", "code"), EXIT_CODES.items())
def test_the_exit_code_says_who_can_act(error: type[NodeagentError], code: int) -> None:
    assert error("words").exit_code == code


@pytest.mark.parametrize("error", [error for error in EXIT_CODES if error is not PeerError])
def test_each_error_says_what_happened_and_what_to_look_at(error: type[NodeagentError]) -> None:
    assert str(error("something happened")) == "something happened"
    assert error("x", check="Look there.").check == "Look there."


def test_every_leaf_of_the_package_has_a_check_a_reason_and_a_documented_exit_code() -> None:
    for module in pkgutil.walk_packages(nodeagent.__path__, "nodeagent."):
        if not module.name.startswith("nodeagent.proto."):
            try:
                importlib.import_module(module.name)
            except ModuleNotFoundError as error:
                if error.name != "bcc":  # the system's, which only the loader needs; the loader may run elsewhere
                    raise
    leaves = list(tree())
    assert set(EXIT_CODES) <= set(leaves)
    for leaf in leaves:
        assert leaf.exit_code in {1, 2, 3, 4, 5}, leaf
        if issubclass(leaf, PeerError):
            assert leaf.reason.check, leaf  # a peer's error takes the check of its reason
        else:
            assert leaf.check or issubclass(leaf, ProblemFound), leaf  # a problem's check is given where it is found


@pytest.mark.parametrize("reason", list(Reason))
def test_a_peers_error_is_counted_by_its_reason_and_checked_as_it_says(reason: Reason) -> None:
    error = PeerError("it went away", reason=reason)
    assert (error.reason, error.check, str(error)) == (reason, reason.check, "it went away")


def test_a_peers_error_without_a_reason_is_a_lost_peer() -> None:
    assert PeerError("it went away").reason is Reason.PEER_LOST


def test_a_check_of_one_error_is_not_that_of_the_next() -> None:
    ConfigError("x", check="Only here.")
    assert ConfigError("y").check != "Only here."
