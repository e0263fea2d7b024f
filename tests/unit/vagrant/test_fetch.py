# SPDX-License-Identifier: Apache-2.0
"""What apt is told, which mirrors it is sent to, and that what was fetched is used again. Nothing is downloaded."""

import json
import lzma
from pathlib import Path

import pytest

from nodeagent.errors import NotPossible
from vagrant import fetch
from vagrant.fetch import ARCHIVE, LINES, PUBLIC_MIRROR, PUBLIC_SECURITY, Line, Mirrors, configuration, sources

HERE = Mirrors("http://mirror.example/debian", "http://mirror.example/security")
LINE = Line("6.1", ("bookworm", "bookworm-security"))


def test_apt_has_folders_and_sources_of_its_own(tmp_path: Path) -> None:
    told = configuration(tmp_path)
    for setting in ("Dir::State::lists", "Dir::Cache", "Dir::Etc::sourcelist"):
        assert f'{setting} "{tmp_path}/' in told
    assert 'Dir::Etc::sourceparts "/dev/null";' in told
    assert "#clear APT::Update::Post-Invoke;" in told, "hooks are about the machine's own packages"


def test_security_suites_have_their_own_mirror_and_all_are_signed() -> None:
    assert sources(LINE.suites, HERE, "/keys.gpg").splitlines() == [
        "deb [signed-by=/keys.gpg arch=amd64] http://mirror.example/debian bookworm main",
        "deb [signed-by=/keys.gpg arch=amd64] http://mirror.example/security bookworm-security main",
    ]


def test_only_the_archives_signatures_may_be_old() -> None:
    assert "check-valid-until=no" in sources(("bullseye",), Mirrors(ARCHIVE, ARCHIVE), "/keys.gpg")
    assert "check-valid-until" not in sources(("bullseye",), HERE, "/keys.gpg")


@pytest.mark.parametrize(
    ("targets", "mirrors"),
    [
        pytest.param("", Mirrors(PUBLIC_MIRROR, PUBLIC_SECURITY), id="no sources"),
        pytest.param("Other|Debian|http://other\n||\n", Mirrors(PUBLIC_MIRROR, PUBLIC_SECURITY), id="not Debian's"),
        pytest.param(
            "Debian|Debian|http://one/debian/\nDebian|Debian-Security|http://one/security/\nDebian|Debian|http://two/",
            Mirrors("http://one/debian", "http://one/security"),
            id="the first of each",
        ),
    ],
)
def test_the_machines_own_mirrors_are_used(targets: str, mirrors: Mirrors) -> None:
    assert fetch.own_mirrors(targets) == mirrors


def test_every_line_has_a_name_of_its_own() -> None:
    assert [line.name for line in LINES] == ["5.10", "6.1", "6.12", "newest"]


def test_what_was_fetched_is_used_again(tmp_path: Path) -> None:
    (tmp_path / "kernel.json").write_text(json.dumps({"release": "6.1.0-50-amd64"}))
    kernel = fetch.fetch(LINE, tmp_path, mirrors=())
    assert (kernel.release, kernel.line) == ("6.1.0-50-amd64", "6.1")
    assert kernel.modules == tmp_path / "root/usr/lib/modules/6.1.0-50-amd64"


def test_the_next_mirror_is_asked_and_the_first_ones_lack_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def download(_line: Line, _folder: Path, mirrors: Mirrors) -> list[str]:
        asked.append(mirrors.debian)
        raise NotPossible(f"nothing at {mirrors.debian}")

    monkeypatch.setattr(fetch, "_download", download)
    with pytest.raises(NotPossible, match=r"nothing at http://mirror\.example/debian"):
        fetch.fetch(LINE, tmp_path / "6.1", [HERE, Mirrors(ARCHIVE, ARCHIVE)])
    assert asked == [HERE.debian, ARCHIVE]


def test_modules_are_chosen_and_unpacked(tmp_path: Path) -> None:
    source, target = tmp_path / "from", tmp_path / "to"
    contents = {"kernel/net/core/a.ko.xz": lzma.compress(b"a"), "kernel/fs/mbcache.ko": b"b", "kernel/sound/c.ko": b"c"}
    for name, content in contents.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(content)
    (source / "modules.builtin").write_text("")
    fetch._keep_modules(source, target)
    found = {str(path.relative_to(target)): path.read_bytes() for path in target.rglob("*") if path.is_file()}
    assert found == {"kernel/net/core/a.ko": b"a", "kernel/fs/mbcache.ko": b"b", "modules.builtin": b""}


@pytest.mark.parametrize("path", ["boot/vmlinuz-7.3.4+deb13-amd64", "usr/lib/modules/7.3.4+deb13-amd64/vmlinuz"])
def test_the_kernel_is_found_where_packages_have_it(tmp_path: Path, path: str) -> None:
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).touch()
    assert fetch._find_image(tmp_path) == ("7.3.4+deb13-amd64", tmp_path / path)


def test_packages_without_a_kernel_are_told(tmp_path: Path) -> None:
    with pytest.raises(NotPossible, match="no kernel in the packages"):
        fetch._find_image(tmp_path)


def test_a_program_that_is_missing_or_fails_is_one_error() -> None:
    with pytest.raises(NotPossible, match="no-such-program is not installed") as caught:
        fetch.run("no-such-program")
    assert "make test-kernels" in caught.value.check
    with pytest.raises(NotPossible, match="sh -c failed: why"):
        fetch.run("sh", "-c", "echo why >&2; exit 3")
