# SPDX-License-Identifier: Apache-2.0
"""Which sources a destination's policies cannot tell apart, so that one of them is asked about instead of all.

A policy sees an identity only through what it names: namespaces, principals, service accounts, exactly or by pattern.
Sources for which all that is named holds alike get the same answer to every question. Whether a pattern holds is the
evaluator's to say; what is named exactly is found by looking it up, since most sources are named by no policy at all.
"""

import functools
import operator
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

from nodeagent.model.identity import Identity
from nodeagent.model.policy import Match, MatchKind, ServiceAccountMatch, StringMatch
from nodeagent.policy.evaluate import any_equals

_Atom: TypeAlias = tuple[str, StringMatch | ServiceAccountMatch]
"""What is looked at, and what it is compared with."""


class SourceGroups:
    """Of identities and the bits that each stands for; no two have one in common."""

    def __init__(self, bits_of: Mapping[Identity, int]) -> None:
        self._identities = list(bits_of)
        self._bits = list(bits_of.values())
        self._all = functools.reduce(operator.or_, self._bits, 0)
        exactly: defaultdict[tuple[str, str | tuple[str, str]], list[int]] = defaultdict(list)
        for number, identity in enumerate(self._identities):
            exactly["namespace", identity.namespace].append(number)
            exactly["principal", identity.principal].append(number)
            exactly["account", (identity.namespace, identity.service_account)].append(number)
        self._exactly = dict(exactly)
        self._found: dict[_Atom, Sequence[int]] = {}
        """By pattern: policies of many pods name the same ones."""

    def told_apart(self, matches: Iterable[Match]) -> list[tuple[Identity, int]]:
        """One identity of each group, and the bits of all of them."""
        signatures: defaultdict[int, list[_Atom]] = defaultdict(list)
        for atom in dict.fromkeys(_atoms(matches)):
            for number in self._holds_for(atom):
                signatures[number].append(atom)
        groups: dict[tuple[_Atom, ...], tuple[Identity, int]] = {}
        rest = self._all
        for number, signature in signatures.items():
            identity, bits = self._identities[number], self._bits[number]
            first, together = groups.get(tuple(signature), (identity, 0))
            groups[tuple(signature)] = first, together | bits
            rest &= ~bits
        told = list(groups.values())
        unnamed = next((identity for n, identity in enumerate(self._identities) if n not in signatures), None)
        return told if unnamed is None else [*told, (unnamed, rest)]

    def _holds_for(self, atom: _Atom) -> Sequence[int]:
        what, wanted = atom
        if isinstance(wanted, ServiceAccountMatch):
            return self._exactly.get((what, (wanted.namespace, wanted.service_account)), ())
        if wanted.kind is MatchKind.EXACT:
            return self._exactly.get((what, wanted.value), ())
        found = self._found.get(atom)
        if found is None:
            found = self._found[atom] = [
                number
                for (of, text), numbers in self._exactly.items()
                if of == what and isinstance(text, str) and any_equals((wanted,), text)
                for number in numbers
            ]
        return found


def _atoms(matches: Iterable[Match]) -> Iterator[_Atom]:
    for match in matches:
        for what, wanted in (
            ("namespace", (*match.namespaces, *match.not_namespaces)),
            ("principal", (*match.principals, *match.not_principals)),
            ("account", (*match.service_accounts, *match.not_service_accounts)),
        ):
            for one in wanted:
                yield what, one
