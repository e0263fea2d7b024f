# SPDX-License-Identifier: Apache-2.0
"""What Debian's control files say: stanzas, dependencies, which kernel is the newest, what a package needs.

Pure: text in, names out. Who asks apt and dpkg is fetch.py and userland.py.
"""

import re
from collections.abc import Iterable, Iterator, Mapping

Stanza = Mapping[str, str]

METAPACKAGE = "linux-image-amd64"
"""Depends on the newest kernel of its suite: the generic flavour, since the cloud flavour lacks drivers."""


def parse_stanzas(text: str) -> list[Stanza]:
    """Of a Packages index, of `apt-cache show` or of dpkg's status file. Continuation lines are left out."""
    return [dict(_fields(block)) for block in re.split(r"\n\s*\n", text) if block.strip()]


def _fields(block: str) -> Iterator[tuple[str, str]]:
    for line in block.splitlines():
        name, colon, value = line.partition(":")
        if colon and not line.startswith((" ", "\t")):
            yield name, value.strip()


def dependencies(stanza: Stanza) -> list[list[str]]:
    """Each as its alternatives, without versions, architectures and build profiles."""
    both = ", ".join(filter(None, (stanza.get("Pre-Depends", ""), stanza.get("Depends", ""))))
    return [_names(alternatives.split("|")) for alternatives in both.split(",") if alternatives.strip()]


def _names(relations: Iterable[str]) -> list[str]:
    return [re.split(r"[\s(:\[<]", relation.strip(), maxsplit=1)[0] for relation in relations]


def release(version: str) -> tuple[int, ...]:
    """The kernel's release in a package's version: 7.3.4-1~bpo13+1 is (7, 3, 4)."""
    return tuple(int(number) for number in re.findall(r"\d+", version.split("-", maxsplit=1)[0]))


def newest_kernel(metapackages: Iterable[Stanza]) -> str:
    """The name of the package `linux-image-<release>-amd64`. Raises ValueError when there is none.

    By the kernel's release and not by apt's priorities, by which a backport loses against every other suite.
    """
    ours = [stanza for stanza in metapackages if stanza.get("Package") == METAPACKAGE]
    for stanza in sorted(ours, key=lambda stanza: release(stanza.get("Version", "")), reverse=True):
        for name in (name for alternatives in dependencies(stanza) for name in alternatives):
            if re.fullmatch(r"linux-image-[\d.]+\S*-amd64", name):
                return name
    raise ValueError(f"no {METAPACKAGE} in these suites names a kernel")


def kernel_packages(name: str, find: Mapping[str, Stanza]) -> list[str]:
    """`name`, and those that hold a part of that kernel: newer suites split it."""
    parts = [part for alternatives in dependencies(find[name]) for part in alternatives]
    suffix = name.removeprefix("linux-image-")
    return [
        name,
        *(part for part in parts if re.match(r"linux-(base|binary|modules)-", part) and part.endswith(suffix)),
    ]


def closure(status: Iterable[Stanza], roots: Iterable[str]) -> dict[str, str]:
    """The installed packages that `roots` need, with their versions; a root that is not installed is left out."""
    installed = {stanza["Package"]: stanza for stanza in status if stanza.get("Status", "").endswith(" installed")}
    provided = {
        name: package
        for package, stanza in installed.items()
        for name in _names(stanza.get("Provides", "").split(","))
        if name
    }
    found: dict[str, str] = {}
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        package = name if name in installed else provided.get(name, "")
        if not package or package in found:
            continue
        found[package] = installed[package].get("Version", "")
        for alternatives in dependencies(installed[package]):
            waiting += [each for each in alternatives if each in installed or each in provided][:1]
    return dict(sorted(found.items()))
