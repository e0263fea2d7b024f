# SPDX-License-Identifier: Apache-2.0
"""What a guest sees as its files: this machine's own programs and Python, and this checkout, at the same paths.

Two trees, since one changes with every edit and the other with the machine's packages only. Files are taken by dpkg's
lists and not by guessing at libraries, so a package comes whole. Nothing of /etc that is this machine's own is taken.
"""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

from vagrant.debian import closure, parse_stanzas
from vagrant.fetch import run

ROOTS = (
    *("base-files", "base-passwd", "bash", "coreutils", "dash", "findutils", "grep", "libc-bin", "mount", "sed"),
    *("bpftool", "iproute2", "kmod", "netbase", "nftables", "openssl", "procps", "util-linux"),
    *("python3", "python3-bpfcc"),
)
"""What the product, the lab and the tests call. Compilers and linters stay outside."""
_DPKG = Path("/var/lib/dpkg")
_LEFT_OUT = ("/usr/share/doc/", "/usr/share/man/", "/usr/share/locale/", "/usr/share/info/", "/usr/share/lintian/")
_NOT_OF_THE_CHECKOUT = (".git", ".venv", "build", ".*_cache", ".hypothesis")
_FOLDERS = ("proc", "sys", "dev", "run", "tmp", "root", "var/tmp", "mnt")


def packages() -> dict[str, str]:
    return closure(parse_stanzas((_DPKG / "status").read_text(encoding="utf-8")), ROOTS)


def envoy(checkout: Path) -> Path | None:
    """The program that `make test` has installed for the tests, and not the script that starts it."""
    return next(iter(checkout.glob("build/envoy/lib/python3*/site-packages/envoy/_bin/envoy")), None)


def key(found: dict[str, str], lock: bytes, program: Path | None = None) -> str:
    """Changes when the tree would: with a package, with uv's lock, with what this module does and where it lies."""
    parts = [__file__, *(f"{name}={version}" for name, version in found.items())]
    parts += [f"envoy={program.stat().st_size}"] if program is not None else []
    digest = hashlib.sha256("\n".join(parts).encode() + lock + Path(__file__).read_bytes())
    return digest.hexdigest()[:16]


def stage(found: Iterable[str], checkout: Path, target: Path) -> None:
    """The machine's part: packages, and the virtual environment of `checkout`, compiled."""
    for folder in _FOLDERS:
        (target / folder).mkdir(parents=True, exist_ok=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        if Path("/", name).is_symlink():
            (target / "usr" / name).mkdir(parents=True, exist_ok=True)
            (target / name).symlink_to(f"usr/{name}")
    for path in sorted({path for package in found for path in _files(package)}):
        _copy(path, target)
    for name in ("passwd", "group"):
        shutil.copy(f"/usr/share/base-passwd/{name}.master", target / "etc" / name)
    (target / "etc/hosts").write_text("127.0.0.1 localhost\n::1 localhost\n", encoding="ascii")
    program = envoy(checkout)
    if program is not None:
        (target / "usr/local/bin").mkdir(parents=True, exist_ok=True)
        shutil.copy2(program, target / "usr/local/bin/envoy")
    inside = target / checkout.relative_to("/")
    shutil.copytree(checkout / ".venv", inside / ".venv", symlinks=True)
    compiled = [target / "usr/lib/python3", *(target / "usr/lib").glob("python3.*"), inside / ".venv/lib"]
    # Some of Debian's files are templates that do not compile; what fails is compiled in the guest, or never.
    command = [str(checkout / ".venv/bin/python"), "-m", "compileall", "-q", "-j", "0", "-s", str(target), "-p", "/"]
    subprocess.run([*command, *map(str, compiled)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


def compile_checkout(checkout: Path, selection: Iterable[str]) -> None:
    """In place, as any run of these tests would.

    Pytest rewrites each test that it collects, which takes an emulated processor half a minute. What does not compile
    is told by the run itself.
    """
    python = str(checkout / ".venv/bin/python")
    writing = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    for arguments in (
        ("compileall", "-q", "nodeagent", "vagrant"),
        ("pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *selection),
    ):
        command = [python, "-m", *arguments]
        subprocess.run(command, cwd=checkout, env=writing, stdout=subprocess.DEVNULL, check=False)


def stage_checkout(checkout: Path, target: Path) -> None:
    """The part that changes: what is written by hand, and what Python and pytest have compiled of it."""
    inside = target / checkout.relative_to("/")
    shutil.copytree(checkout, inside, symlinks=True, ignore=shutil.ignore_patterns(*_NOT_OF_THE_CHECKOUT))


def write_image(tree: Path, image: Path) -> None:
    """A read-only ext4 file system of `tree`, made without mounting anything."""
    sizes = [path.lstat().st_size for path in tree.rglob("*")]
    # Blocks of 4 KiB: half of one is lost for each file; then what ext4 keeps for itself.
    room = sum(sizes) + len(sizes) * 4096 + (16 << 20)
    unfinished = image.with_name(image.name + ".unfinished")
    unfinished.unlink(missing_ok=True)
    run(
        "mke2fs", "-q", "-t", "ext4", "-O", "^has_journal,^metadata_csum,^resize_inode", "-m", "0",
        "-N", str(len(sizes) + 64), "-d", tree, unfinished, f"{room * 11 // 10 >> 10}k",
    )  # fmt: skip
    unfinished.rename(image)


def _files(package: str) -> Iterator[str]:
    """Of an installed package, without documents."""
    lists = [*(_DPKG / "info").glob(f"{package}:*.list"), _DPKG / "info" / f"{package}.list"]
    for listed in lists:
        if listed.exists():
            for path in listed.read_text(encoding="utf-8").splitlines():
                if not path.startswith(_LEFT_OUT):
                    yield path


def _copy(path: str, target: Path) -> None:
    """Files and links; folders come with them. What dpkg diverted or an administrator removed is not there."""
    source = Path(path)
    if not (source.is_symlink() or source.is_file()):
        return
    copied = target / source.parent.resolve().relative_to("/") / source.name
    copied.parent.mkdir(parents=True, exist_ok=True)
    if copied.is_symlink() or copied.exists():
        return
    try:
        shutil.copy2(source, copied, follow_symlinks=False)
    except PermissionError:
        return  # for root's eyes only: nothing that a test reads
