# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: INP001 - a script's part, no package
"""Links of LLVM and clang what bcc calls, from Debian's own archives of the same version.

Debian's libLLVM and libclang-cpp have every target, every tool and every front end in them: 169 MB, and they are linked
with libxml2 (and by it with ICU) and Z3, which no compilation of BPF ever calls. The same code lies in the archives of
the -dev packages. So one library is linked of what the symbols lead to that libbcc has in common with the two, and
stands in their place, with the name and the symbols' version that libbcc asks for. It compiles the same bytes
(tests/e2e/test_image.py).
"""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

NOT_NEEDED = ("libz3.so", "libxml2.so", "libicu", "libedit.so", "libbsd.so", "libmd.so", "libclang-cpp.", "libLLVM")
"""What the two are linked with and nobody else, or what is replaced."""
_ARCHIVES = ("libLLVM", "libclang", "libPolly")


class LinkFailed(Exception):
    """Says what to do."""


def slim_llvm(base: Path, archives: Path) -> list[Path]:
    """Replaces the two libraries in `base`, where packages are unpacked; fetches what it links into `archives`.

    Returns the packages whose code is in what was linked. Raises LinkFailed.
    """
    [libbcc] = (path for path in base.glob("usr/lib/*/libbcc.so.*") if not path.is_symlink())
    libraries = libbcc.parent
    llvm, clang = (_one(_needed(libbcc), pattern) for pattern in (r"libLLVM.*\.so\..*", r"libclang-cpp\.so\..*"))
    release = clang.rpartition(".so.")[2].partition(".")[0]
    packages = fetch(archives, f"llvm-{release}-dev", f"libclang-{release}-dev", f"libpolly-{release}-dev")
    whole = {name: _resolve(base, libraries / name) for name in (llvm, clang)}
    scratch = archives / "unpacked"
    shutil.rmtree(scratch, ignore_errors=True)
    for package in packages:
        _run("dpkg-deb", "--extract", package, scratch)
    made = _link(scratch, llvm, _symbols(libbcc, *whole.values()), _linked_with(base, *whole.values()))
    for path in {*whole.values(), libraries / clang}:
        path.unlink(missing_ok=True)
    shutil.move(made, whole[llvm])
    whole[llvm].chmod(0o644)
    (libraries / clang).symlink_to(llvm)
    shutil.rmtree(scratch)
    kept = {libraries / llvm, libraries / clang, whole[llvm]}
    for path in list(libraries.iterdir()):
        if path.name.startswith(NOT_NEEDED) and path not in kept:
            path.unlink()
    return packages


def _linked_with(base: Path, *whole: Path) -> list[Path]:
    """What the two need themselves, but for what is not needed and for the C library, which `cc` brings."""
    names = {name for path in whole for name in _needed(path) if not name.startswith((*NOT_NEEDED, "libc.so", "ld-"))}
    places = [place for pattern in ("lib/*-linux-*", "usr/lib/*-linux-*") for place in base.glob(pattern)]
    found = {name: place / name for place in places for name in names if (place / name).is_file()}
    return sorted({_resolve(base, path) for path in found.values()})


def _needed(library: Path) -> list[str]:
    return re.findall(r"\(NEEDED\).*\[(.+)\]", _run("readelf", "--dynamic", "--wide", library))


def fetch(place: Path, *names: str) -> list[Path]:
    """Packages of this machine's release, in the versions that it would install."""
    place.mkdir(exist_ok=True)
    told = _run("apt-get", "--print-uris", "download", *names)
    files = [place / line.split()[1] for line in told.splitlines() if line.startswith("'")]
    if len(files) != len(names):
        raise LinkFailed(f"apt-get knows not all of {', '.join(names)}: run apt-get update, or use --whole-llvm")
    if not all(path.exists() for path in files):
        _run("apt-get", "--quiet", "--option", "APT::Sandbox::User=root", "download", *names, cwd=place)
    return files


class Symbols(NamedTuple):
    roots: list[str]
    """What must be there."""
    shown: list[str]
    """Also what libbcc has itself, as templates and what they keep: there must be one of each."""
    version: str


def _symbols(libbcc: Path, *whole: Path) -> Symbols:
    """Of what is linked, so that libbcc finds what it finds in `whole`."""
    theirs = {_plain(symbol) for path in whole for symbol in _dynamic(path, "--defined-only")}
    wanted, own = set(_dynamic(libbcc, "--undefined-only")), set(_dynamic(libbcc, "--defined-only"))
    [version] = {symbol.rpartition("@")[2] for symbol in wanted if "@LLVM_" in symbol}
    roots = theirs & set(map(_plain, wanted))
    return Symbols(sorted(roots), sorted(roots | theirs & set(map(_plain, own))), version)


def _plain(symbol: str) -> str:
    return symbol.partition("@")[0]


def _dynamic(path: Path, which: str) -> Iterator[str]:
    """Names, with @ and their version where they have one."""
    for line in _run("nm", "--dynamic", which, path).splitlines():
        yield line.split()[-1]


def _link(scratch: Path, name: str, symbols: Symbols, others: list[Path]) -> Path:
    code = [path for path in scratch.glob("usr/lib/llvm-*/lib/*.a") if path.name.startswith(_ARCHIVES)]
    made, roots, versions = (scratch / word for word in ("made", "roots", "versions"))
    roots.write_text("".join(f"-Wl,-u,{symbol}\n" for symbol in symbols.roots))
    shown = "".join(f"{symbol};\n" for symbol in symbols.shown)
    versions.write_text(f"{symbols.version} {{\nglobal:\n{shown}local: *;\n}};\n")
    options = ("--gc-sections", "--build-id=none", "-z,defs", f"-soname,{name}", f"--version-script={versions}")
    group: list[str | Path] = ["-Wl,--start-group", *sorted(code), "-Wl,--end-group", "-Wl,--as-needed", *others, "-lm"]
    words: list[str | Path] = [
        "-shared",
        "-s",
        "-o",
        made,
        *(f"-Wl,{option}" for option in options),
        f"@{roots}",
        *group,
    ]
    done = subprocess.run(["cc", *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = " / ".join(done.stderr.splitlines()[-3:])
        raise LinkFailed(f"LLVM of this Debian cannot be linked so ({said}): use --whole-llvm")
    return made


def _one(names: list[str], pattern: str) -> str:
    found = [name for name in names if re.fullmatch(pattern, name)]
    if len(found) != 1:
        raise LinkFailed(
            f"libbcc of this Debian needs {', '.join(names)}, and none or several are {pattern}: use --whole-llvm"
        )
    return found[0]


def _resolve(base: Path, path: Path) -> Path:
    """Of links that mean the image's root."""
    while path.is_symlink():
        target = path.readlink()
        path = base / target.relative_to("/") if target.is_absolute() else path.parent / target
    return path.resolve()


def _run(*words: str | Path, cwd: Path | None = None) -> str:
    return subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, cwd=cwd).stdout
