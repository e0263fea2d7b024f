# SPDX-License-Identifier: Apache-2.0
"""Control files: the newest kernel of some suites, its parts, and what an installed package needs."""

import pytest

from vagrant.debian import closure, dependencies, kernel_packages, newest_kernel, parse_stanzas, release

SHOWN = """\
Package: linux-image-amd64
Version: 7.2.13-1
Depends: linux-base-amd64 (= 7.2.13-1), linux-image-7.2.13+deb14-amd64 (= 7.2.13-1)
Description: Linux for 64-bit PCs
 A continuation: not a field.

Package: linux-image-amd64
Version: 7.10.1-1~bpo13+1
Depends: linux-image-7.10.1+deb13-amd64 (= 7.10.1-1~bpo13+1), linux-modules-amd64 (= 7.10.1-1~bpo13+1)

Package: linux-image-cloud-amd64
Version: 9.0-1
Depends: linux-image-9.0-cloud-amd64 (= 9.0-1)
"""


def test_stanzas_have_their_fields_and_no_continuation() -> None:
    first, second, third = parse_stanzas(SHOWN)
    assert first["Version"] == "7.2.13-1"
    assert second["Package"] == third["Package"].replace("-cloud", "")
    assert "A continuation" not in " ".join(first)


@pytest.mark.parametrize("text", ["", "\n\n\n", "no field\n"])
def test_no_stanza(text: str) -> None:
    assert [stanza for stanza in parse_stanzas(text) if stanza] == []


def test_dependencies_are_names_with_their_alternatives() -> None:
    stanza = {"Pre-Depends": "libc6 (>= 2.36)", "Depends": "awk:any | mawk [amd64], python3 <!nocheck>,"}
    assert dependencies(stanza) == [["libc6"], ["awk", "mawk"], ["python3"]]


@pytest.mark.parametrize(
    ("version", "numbers"), [("5.10.262-1", (5, 10, 262)), ("7.3.4-1~bpo13+1", (7, 3, 4)), ("", ())]
)
def test_the_release_in_a_version(version: str, numbers: tuple[int, ...]) -> None:
    assert release(version) == numbers


def test_the_newest_kernel_is_that_of_the_highest_release() -> None:
    assert newest_kernel(parse_stanzas(SHOWN)) == "linux-image-7.10.1+deb13-amd64"


@pytest.mark.parametrize("text", ["", "Package: linux-image-amd64\nVersion: 1.0-1\nDepends: nothing\n"])
def test_without_a_kernel_it_says_so(text: str) -> None:
    with pytest.raises(ValueError, match="names a kernel"):
        newest_kernel(parse_stanzas(text))


def test_a_kernel_in_parts_is_fetched_whole() -> None:
    name = "linux-image-7.3.4+deb13-amd64"
    needs = "dracut | initramfs-tools, linux-base-7.3.4+deb13-amd64, linux-binary-7.3.4+deb13-amd64 (= 1), "
    found = {name: {"Package": name, "Depends": needs + "linux-modules-7.3.4+deb13-amd64 (= 1)"}}
    parts = ["linux-base-7.3.4+deb13-amd64", "linux-binary-7.3.4+deb13-amd64", "linux-modules-7.3.4+deb13-amd64"]
    assert kernel_packages(name, found) == [name, *parts]
    assert kernel_packages(name, {name: {"Depends": "kmod, linux-base (>= 4.3~)"}}) == [name]


STATUS = """\
Package: python3
Status: install ok installed
Version: 3.11
Depends: python3-minimal (= 3.11), default-thing | awk
Pre-Depends: libc6

Package: python3-minimal
Status: install ok installed
Version: 3.11-m
Depends: python3

Package: mawk
Status: install ok installed
Version: 1.3
Provides: awk (= 1), other

Package: libc6
Status: install ok installed
Version: 2.36

Package: removed
Status: deinstall ok config-files
Version: 1
"""


def test_what_a_package_needs_is_followed_through_alternatives_and_provides() -> None:
    found = closure(parse_stanzas(STATUS), ["python3", "removed", "unknown"])
    assert found == {"libc6": "2.36", "mawk": "1.3", "python3": "3.11", "python3-minimal": "3.11-m"}
