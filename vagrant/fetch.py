# SPDX-License-Identifier: Apache-2.0
"""Debian's kernels from Debian's mirrors, by an apt of our own: folders of ours, the machine's proxies and keyring.

apt checks the signature of the suite and the checksums of indexes and packages. Nothing is installed: a package is
unpacked with dpkg-deb. What was fetched once is used again until `build/kernels` is removed or --fetch is said.
"""

import json
import lzma
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nodeagent.errors import NotPossible
from vagrant.debian import METAPACKAGE, kernel_packages, newest_kernel, parse_stanzas

KEYRINGS = ("/usr/share/keyrings/debian-archive-keyring.gpg", "/usr/share/keyrings/debian-archive-keyring.pgp")
PUBLIC_MIRROR, PUBLIC_SECURITY = "http://deb.debian.org/debian", "http://deb.debian.org/debian-security"
ARCHIVE, ARCHIVE_SECURITY = "http://archive.debian.org/debian", "http://archive.debian.org/debian-security"
"""Where a release goes some years after its end."""
SECONDS = 600
SYSTEM_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
"""mke2fs and depmod are not in the path of who is not root."""


@dataclass(frozen=True)
class Line:
    """A line of kernels that we claim to run on."""

    name: str
    suites: tuple[str, ...]
    """The newest kernel in any of them is taken."""


LINES = tuple(
    Line(each["name"], tuple(each["suites"]))
    for each in json.loads(Path(__file__).with_name("lines.json").read_text(encoding="utf-8"))
)
"""A file, since the Vagrantfile reads it, too."""


@dataclass(frozen=True)
class Mirrors:
    debian: str
    security: str


@dataclass(frozen=True)
class Kernel:
    line: str
    release: str
    """As uname says it: 6.1.0-50-amd64."""
    folder: Path

    @property
    def image(self) -> Path:
        return self.folder / "vmlinuz"

    @property
    def root(self) -> Path:
        """A tree with usr/lib/modules/<release>."""
        return self.folder / "root"

    @property
    def modules(self) -> Path:
        return self.root / "usr/lib/modules" / self.release

    @property
    def busybox(self) -> Path:
        return self.folder / "busybox"


# ---- what apt is told ------------------------------------------------------------------------------------------------


def configuration(folder: Path) -> str:
    """Read after the machine's own configuration, so that proxies and the like stay in force."""
    return f"""\
Dir::State::lists "{folder}/lists";
Dir::Cache "{folder}/cache";
Dir::Etc::sourcelist "{folder}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
APT::Architecture "amd64";
APT::Architectures "amd64";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::IndexTargets::deb::DEP-11-icons-small::DefaultEnabled "false";
Acquire::IndexTargets::deb::DEP-11-icons::DefaultEnabled "false";
Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled "false";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
"""


def sources(suites: Sequence[str], mirrors: Mirrors, keyring: str) -> str:
    options = f"signed-by={keyring} arch=amd64"
    if mirrors.debian == ARCHIVE:
        options += " check-valid-until=no"  # nobody signs a release again that has ended
    lines = [
        f"deb [{options}] {mirrors.security if suite.endswith('-security') else mirrors.debian} {suite} main"
        for suite in suites
    ]
    return "\n".join(lines) + "\n"


def own_mirrors(targets: str) -> Mirrors:
    """Those that the machine uses itself, from lines `origin|label|address` of apt-get indextargets."""
    rows = [line.split("|") for line in targets.splitlines() if line.count("|") == 2]
    found = {label: address.rstrip("/") for origin, label, address in reversed(rows) if origin == "Debian"}
    return Mirrors(found.get("Debian", PUBLIC_MIRROR), found.get("Debian-Security", PUBLIC_SECURITY))


# ---- asking it -------------------------------------------------------------------------------------------------------


def run(*words: str | Path, cwd: Path | None = None) -> str:
    """Output of a command. Raises NotPossible with the end of what it said."""
    environment = {**os.environ, "PATH": SYSTEM_PATH, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            [str(word) for word in words],
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    except FileNotFoundError as error:
        raise NotPossible(
            f"{words[0]} is not installed", check="`make test-kernels` installs what it needs."
        ) from error
    except subprocess.TimeoutExpired as error:
        raise NotPossible(f"{words[0]} took more than {SECONDS} s", check="Is the mirror reachable?") from error
    if done.returncode != 0:
        told = " / ".join(done.stderr.splitlines()[-3:])
        raise NotPossible(f"{' '.join(map(str, words[:2]))} failed: {told}", check="Is the mirror reachable?")
    return done.stdout


def machine_mirrors() -> Mirrors:
    return own_mirrors(run("apt-get", "indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(REPO_URI)"))


def fetch(line: Line, folder: Path, mirrors: Sequence[Mirrors], *, again: bool = False) -> Kernel:
    """The newest kernel of `line`, unpacked below `folder`. Raises NotPossible when no mirror has it."""
    kept = folder / "kernel.json"
    if kept.exists() and not again:
        return Kernel(line.name, json.loads(kept.read_text(encoding="utf-8"))["release"], folder)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    packages = _from_any(line, folder, mirrors)
    release = _unpack(folder)
    kept.write_text(json.dumps({"release": release, "packages": packages}, indent=1) + "\n", encoding="utf-8")
    return Kernel(line.name, release, folder)


def _from_any(line: Line, folder: Path, mirrors: Sequence[Mirrors]) -> list[str]:
    """From the first mirror that has it; what is said in the end is what the first one lacked."""
    failures = []
    for mirror in mirrors:
        try:
            return _download(line, folder, mirror)
        except NotPossible as error:
            failures.append(error)
    raise failures[0]


def _download(line: Line, folder: Path, mirrors: Mirrors) -> list[str]:
    apt = folder / "apt"
    shutil.rmtree(apt, ignore_errors=True)
    for needed in (apt / "lists/partial", apt / "cache/archives/partial", folder / "packages"):
        needed.mkdir(parents=True, exist_ok=True)
    keyring = next((path for path in KEYRINGS if Path(path).exists()), KEYRINGS[0])
    (apt / "sources.list").write_text(sources(line.suites, mirrors, keyring), encoding="utf-8")
    (apt / "apt.conf").write_text(configuration(apt), encoding="utf-8")
    options = ("-c", apt / "apt.conf")
    run("apt-get", *options, "-qq", "update")
    try:
        name = newest_kernel(parse_stanzas(run("apt-cache", *options, "show", METAPACKAGE)))
    except ValueError as error:
        raise NotPossible(f"{line.name}: {error}", check="Name another mirror with --mirror.") from error
    shown = parse_stanzas(run("apt-cache", *options, "show", name))
    wanted = [*kernel_packages(name, {stanza["Package"]: stanza for stanza in reversed(shown)}), "busybox-static"]
    run("apt-get", *options, "-qq", "download", *wanted, cwd=folder / "packages")
    shutil.rmtree(apt)
    return sorted(path.name for path in (folder / "packages").iterdir())


def _unpack(folder: Path) -> str:
    """Leaves kernel, modules and busybox; returns the release."""
    root = folder / "unpacked"
    for package in sorted((folder / "packages").glob("*.deb")):
        run("dpkg-deb", "-x", package, root)
    release, image = _find_image(root)
    shutil.copy(image, folder / "vmlinuz")
    # Newer packages are for a merged /usr.
    shutil.copy(_first(root / "bin/busybox", root / "usr/bin/busybox"), folder / "busybox")
    modules = _first(root / "lib/modules" / release, root / "usr/lib/modules" / release)
    _keep_modules(modules, folder / "root/usr/lib/modules" / release)
    # depmod looks into lib, a guest with merged /usr into usr/lib.
    run("depmod", "-b", folder / "root/usr", release)
    shutil.rmtree(root)
    return release


def _find_image(root: Path) -> tuple[str, Path]:
    """The release, and the kernel: in /boot, or beside its modules in newer packages. Raises NotPossible."""
    for path in sorted((root / "boot").glob("vmlinuz-*")):
        return path.name.removeprefix("vmlinuz-"), path
    for path in sorted(root.glob("usr/lib/modules/*/vmlinuz")):
        return path.parent.name, path
    raise NotPossible(f"no kernel in the packages of {root}", check="Has Debian changed their layout?")


def _first(*paths: Path) -> Path:
    return next((path for path in paths if path.exists()), paths[0])


_MODULES = (
    *("arch", "crypto", "lib", "net", "fs/ext4", "fs/jbd2", "fs/overlayfs", "fs/mbcache.ko"),
    *("drivers/block/virtio_blk.ko", "drivers/virtio", "drivers/char/hw_random/virtio-rng.ko"),
    *("drivers/net/veth.ko", "drivers/net/dummy.ko", "drivers/net/tun.ko", "drivers/net/netkit.ko"),
)
"""What a node of pods needs, and what this machine is made of."""


def _keep_modules(source: Path, target: Path) -> None:
    """These modules only, uncompressed: the loader of an initramfs has no xz."""
    for path in _wanted(source / "kernel"):
        copied = target / path.relative_to(source)
        copied.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".xz":
            copied.with_suffix("").write_bytes(lzma.decompress(path.read_bytes()))
        else:
            shutil.copy(path, copied)
    for name in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
        if (source / name).exists():
            shutil.copy(source / name, target / name)


def _wanted(folder: Path) -> Iterator[Path]:
    for part in _MODULES:
        for place in sorted(folder.glob(f"{part}*")):
            yield from sorted(place.rglob("*.ko*")) if place.is_dir() else [place]
