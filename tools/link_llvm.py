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

NOT_NEEDED = ("libz3.so", "libxml2.so", "libicu", "libedit.so", "libbsd.so", "libmd.so")
"""What only Debian's libLLVM is linked with."""


class LinkFailed(Exception):
    """Says what to do."""


def slim_llvm(base: Path, archives: Path) -> list[Path]:
    """Replaces the two libraries in `base`, where packages are unpacked; fetches what it links into `archives`.

    Returns the packages whose code is in what was linked. Raises LinkFailed.
    """
    [libbcc] = (path for path in base.glob("usr/lib/*/libbcc.so.*") if not path.is_symlink())
    libraries = libbcc.parent
    needed = re.findall(r"\(NEEDED\).*\[(.+)\]", _run("readelf", "--dynamic", "--wide", libbcc))
    llvm, clang = (_one(needed, pattern) for pattern in (r"libLLVM.*\.so\..*", r"libclang-cpp\.so\..*"))
    release = clang.rpartition(".so.")[2].partition(".")[0]
    packages = fetch(
        archives, *(f"{name}-dev" for name in (f"llvm-{release}", f"libclang-{release}", f"libpolly-{release}"))
    )
    scratch = archives / "unpacked"
    shutil.rmtree(scratch, ignore_errors=True)
    for package in packages:
        _run("dpkg-deb", "--extract", package, scratch)
    whole = {name: _resolve(base, libraries / name) for name in (llvm, clang)}
    roots, exports, version = _symbols(libbcc, *whole.values())
    made = scratch / "linked"
    (scratch / "roots").write_text("".join(f"-Wl,-u,{symbol}\n" for symbol in roots))
    (scratch / "versions").write_text(
        f"{version} {{ global:\n{''.join(f'{one};{chr(10)}' for one in exports)}local: *; }};\n"
    )
    code = sorted(
        path
        for path in scratch.glob("usr/lib/llvm-*/lib/*.a")
        if path.name.startswith(("libLLVM", "libclang", "libPolly"))
    )
    others = [_resolve(base, next(base.glob(pattern))) for pattern in _LINKED_WITH]
    _link(made, llvm, scratch, [*code], others)
    for path in {*whole.values(), libraries / clang}:
        path.unlink(missing_ok=True)
    shutil.move(made, whole[llvm])
    whole[llvm].chmod(0o644)
    (libraries / clang).symlink_to(llvm)
    shutil.rmtree(scratch)
    for path in list(libraries.iterdir()):
        if path.name.startswith(NOT_NEEDED):
            path.unlink()
    return packages


_LINKED_WITH = ("usr/lib/*/libstdc++.so.6", "*lib/*/libgcc_s.so.1", "*lib/*/libtinfo.so.6", "*lib/*/libz.so.1")


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


def _symbols(libbcc: Path, *whole: Path) -> tuple[list[str], list[str], str]:
    """What must be there, what is shown, and the version of both.

    Shown is also what libbcc has itself, as templates and what they keep: there must be one of each.
    """
    found = {line.split()[-1] for path in whole for line in _dynamic(path, "--defined-only")}
    theirs = {symbol.partition("@")[0] for symbol in found}
    wanted = {line.split()[-1] for line in _dynamic(libbcc, "--undefined-only")}
    own = {line.split()[-1] for line in _dynamic(libbcc, "--defined-only")}
    [version] = {symbol.rpartition("@")[2] for symbol in wanted if "@LLVM_" in symbol}
    roots = theirs & {symbol.partition("@")[0] for symbol in wanted}
    return sorted(roots), sorted(roots | theirs & {symbol.partition("@")[0] for symbol in own}), version


def _dynamic(path: Path, which: str) -> Iterator[str]:
    yield from _run("nm", "--dynamic", which, path).splitlines()


def _link(made: Path, name: str, scratch: Path, code: list[Path], others: list[Path]) -> None:
    options = (
        "--gc-sections",
        "--build-id=none",
        "-z,defs",
        f"-soname,{name}",
        f"--version-script={scratch / 'versions'}",
    )
    group = ["-Wl,--start-group", *code, "-Wl,--end-group", *others, "-lm"]
    words = [
        "cc",
        "-shared",
        "-s",
        "-o",
        made,
        *(f"-Wl,{option}" for option in options),
        f"@{scratch / 'roots'}",
        *group,
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = " / ".join(done.stderr.splitlines()[-3:])
        raise LinkFailed(f"LLVM of this Debian cannot be linked so ({said}): use --whole-llvm")


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
