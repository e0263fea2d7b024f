# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: INP001, T201 - a script, not a package; it speaks to a terminal
"""Builds the container image of the agent from Debian's packages and our wheel, without any base image.

    build/image/base     unpacked packages of this machine's Debian: Python, bcc with LLVM; no shell, no package manager
    build/image/app      ours: the wheel, what it depends on (by the hashes of uv.lock), the two programs in C
    build/image/nodeagent-VERSION.tar   both as layers of an OCI archive, for `podman load`, `skopeo copy`, `ctr import`
    build/image/sbom.cdx.json           what is in it, with versions and hashes (CycloneDX 1.5)

The same sources, packages and SOURCE_DATE_EPOCH (default: the last commit's) give the same bytes: files have that time
and root as their owner, compiled Python carries hashes in place of times. With --root nothing is packed. LLVM is linked
anew of what is used of it (tools/link_llvm.py), unless --whole-llvm is given. Needs to be root (without a capability
beyond files), mmdebstrap, a C compiler and, to pack, umoci.
"""

import argparse
import compileall
import hashlib
import importlib.metadata
import io
import json
import os
import py_compile
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

from link_llvm import LinkFailed, slim_llvm

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build/image"
UV = ROOT / "build/tools/bin/uv"
PACKAGES = ("python3", "python3-bpfcc", "libc-bin", "base-files")
"""bcc brings LLVM and clang as libraries; libc-bin has ldconfig's place in /etc."""
UNWANTED = (
    *(
        "usr/share/doc/*/*[!t]",
        "usr/share/man",
        "usr/share/locale",
        "usr/share/info",
        "usr/share/lintian",
        "usr/share/icons",
    ),
    *("usr/share/pixmaps", "usr/share/applications", "usr/share/polkit-1", "usr/share/bash-completion", "var/lib/apt"),
    *("usr/lib/*/gconv", "usr/lib/python3.*/ensurepip", "usr/lib/python3.*/lib2to3", "usr/lib/python3.*/pydoc_data"),
    *("usr/lib/python3.*/test", "usr/lib/python3.*/idlelib", "usr/lib/python3.*/turtle*", "usr/lib/python3.*/tkinter"),
    *(
        "var/cache/*",
        "var/log/*",
        "usr/share/perl5",
        "usr/sbin/*",
        "usr/lib/locale",
        "etc/apt",
        "etc/dpkg",
        "usr/lib/dpkg",
    ),
    *("usr/bin/dpkg*", "usr/bin/tar", "bin/tar", "etc/resolv.conf", "etc/hostname", "usr/share/dpkg", "var/lib/dpkg"),
    *("etc/logrotate.d", "etc/cron.daily", "etc/init.d", "etc/default", "etc/alternatives", "lib/systemd"),
    *("usr/lib/systemd", "usr/lib/mime", "etc/kernel", "usr/share/bug", "usr/libexec/dpkg"),
    *("dev/*", "var/local", "var/lock", "var/mail", "var/opt", "var/backups", "boot", "home", "etc/fstab", "etc/skel"),
)
"""What no one who runs the agent opens. Of usr/share/doc the licences stay, which are in files named copyright."""
USERS = "root:x:0:0:root:/:/usr/sbin/nologin\nnodeagent-worker:x:15008:15008:tunnel workers:/:/usr/sbin/nologin\n"
GROUPS = "root:x:0:\nnodeagent-worker:x:15008:\n"
DIRECTORIES = ("proc", "sys", "dev", "run", "tmp", "var/tmp")
LAUNCHER = "#!/usr/bin/python3\nimport sys\n\nfrom nodeagent.cli.main import main\n\nsys.exit(main())\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--root", action="store_true", help="unpacked only, for a test")
    parser.add_argument("--whole-llvm", action="store_true", help="as Debian has it: 155 MB more")
    options = parser.parse_args()
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH") or run("git", "log", "-1", "--format=%ct").strip())
    os.environ["SOURCE_DATE_EPOCH"] = str(epoch)
    missing = [
        tool for tool in ("mmdebstrap", "cc", *([] if options.root else ["umoci"])) if shutil.which(tool) is None
    ]
    if missing:
        print(f"make_image: {' and '.join(missing)} not found; `make image` installs what it needs", file=sys.stderr)
        return 5
    BUILD.mkdir(parents=True, exist_ok=True)
    try:
        components = [*make_base(BUILD / "base", is_whole=options.whole_llvm), *make_app(BUILD / "app")]
    except LinkFailed as failure:
        print(f"make_image: {failure}", file=sys.stderr)
        return 5
    settle(BUILD / "base", epoch)
    settle(BUILD / "app", epoch)
    write_sbom(components, epoch)
    base, app = (size_of(BUILD / name) / 1e6 for name in ("base", "app"))
    print(f"unpacked: {base + app:.0f} MB (Debian {base:.0f}, ours {app:.0f})")
    if not options.root:
        archive = pack(epoch)
        digest = hashlib.sha256(archive.read_bytes()).hexdigest()
        print(f"{archive.relative_to(ROOT)}: {archive.stat().st_size / 1e6:.0f} MB, sha256 {digest}")
    return 0


def run(*words: str | Path, **environment: str) -> str:
    done = subprocess.run(
        words, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )
    return done.stdout


def version() -> str:
    found = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


# ---- Debian ----------------------------------------------------------------------------------------------------------


def make_base(place: Path, *, is_whole: bool) -> Iterator[dict[str, object]]:
    """Unpacks packages of this machine's release, from where this machine has them. What is in them, for the SBOM."""
    told = Path("/etc/os-release").read_text(encoding="utf-8").splitlines()
    release = dict(line.split("=", 1) for line in told if "=" in line)
    shutil.rmtree(place, ignore_errors=True)
    sources = [
        path
        for path in (Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list"))
        if path.exists()
    ]
    cache = BUILD / "packages"
    cache.mkdir(exist_ok=True)
    fill = f'mkdir -p "$1"/var/cache/apt/archives && cp -a {cache}/. "$1"/var/cache/apt/archives/'
    run(
        *("mmdebstrap", "--quiet", "--mode=chrootless", "--variant=extract", f"--include={','.join(PACKAGES)}"),
        *("--format=directory", "--skip=cleanup/apt/cache,cleanup/apt/lists", f"--setup-hook={fill}"),
        *(release["VERSION_CODENAME"], place, sources[0]),
    )
    fetched = [Path(shutil.move(path, cache / path.name)) for path in (place / "var/cache/apt/archives").glob("*.deb")]
    linked = [] if is_whole else slim_llvm(place, BUILD / "archives")
    for pattern in UNWANTED:
        for path in place.glob(pattern):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for name in DIRECTORIES:
        (place / name).mkdir(parents=True, exist_ok=True)
    for name in ("tmp", "var/tmp"):
        (place / name).chmod(0o1777)
    (place / "etc/passwd").write_text(USERS)
    (place / "etc/group").write_text(GROUPS)
    run("ldconfig", "-r", place)
    (place / "var/cache/ldconfig/aux-cache").unlink(missing_ok=True)  # has inode numbers
    for path in sorted(fetched):
        if is_left(path, place):
            yield describe_package(path)
        else:
            shutil.rmtree(place / "usr/share/doc" / path.name.partition("_")[0], ignore_errors=True)
    yield from map(describe_package, linked)


def is_left(package: Path, place: Path) -> bool:
    """Whether more of it is in the image than its licence."""
    packed = subprocess.run(["dpkg-deb", "--fsys-tarfile", package], check=True, stdout=subprocess.PIPE).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as content:
        names = [entry.name for entry in content if entry.isfile() and "/share/doc/" not in entry.name]
    return any((place / name).exists() for name in names)


def describe_package(path: Path) -> dict[str, object]:
    fields = run("dpkg-deb", "--show", "--showformat=${Package}\n${Version}\n${Architecture}\n", path).split()
    name, package_version, architecture = fields
    return {
        "type": "library",
        "name": name,
        "version": package_version,
        "purl": f"pkg:deb/debian/{name}@{package_version}?arch={architecture}",
        "hashes": [{"alg": "SHA-256", "content": hashlib.sha256(path.read_bytes()).hexdigest()}],
    }


# ---- ours ------------------------------------------------------------------------------------------------------------


def make_app(place: Path) -> Iterator[dict[str, object]]:
    shutil.rmtree(place, ignore_errors=True)
    site = place / f"usr/local/lib/python{sys.version_info.major}.{sys.version_info.minor}/dist-packages"
    site.mkdir(parents=True)
    requirements, wheels = BUILD / "requirements.txt", BUILD / "wheel"
    shutil.rmtree(wheels, ignore_errors=True)
    what = ("--locked", "--no-default-groups", "--no-emit-project", "--format", "requirements-txt")
    run(UV, "export", "--quiet", *what, "-o", requirements)
    run(UV, "build", "--quiet", "--wheel", "-o", wheels)
    if not list(wheels.glob("*-abi3-*.whl")):
        raise SystemExit("make_image: the wheel has no compiled hot path; tools/make_lane.py says why")
    target = ("--quiet", "--python", sys.executable, "--target", site)
    run(UV, "pip", "install", *target, "--require-hashes", "-r", requirements)
    run(UV, "pip", "install", *target, "--no-deps", *wheels.glob("*.whl"))
    shutil.rmtree(site / "bin", ignore_errors=True)
    for name in ("RECORD", "direct_url.json", "uv_cache.json"):  # of an installation, each time another
        for path in site.glob(f"*.dist-info/{name}"):
            path.unlink()
    (site / ".lock").unlink(missing_ok=True)
    programs = place / "usr/local/bin"
    programs.mkdir()
    (programs / "nodeagent").write_text(LAUNCHER)
    (programs / "nodeagent").chmod(0o755)
    for name, source in (("supervise", "supervise.c"), ("nodeagent-cni", "cni.c")):
        run("cc", "-O2", "-static", "-s", "-Wl,--build-id=none", "-o", programs / name, f"daemonset/{source}")
    for found in importlib.metadata.distributions(path=[str(site)]):
        name = found.metadata["Name"]
        yield {"type": "library", "name": name, "version": found.version, "purl": f"pkg:pypi/{name}@{found.version}"}


# ---- the same bytes every time ---------------------------------------------------------------------------------------


def settle(place: Path, epoch: int) -> None:
    """Compiles Python, which nobody can on a read-only root, and gives every file one time."""
    for path in place.rglob("__pycache__"):
        shutil.rmtree(path)
    compileall.compile_dir(
        place,
        quiet=2,
        stripdir=str(place),
        prependdir="/",
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )
    for path in (place, *place.rglob("*")):
        os.utime(path, (epoch, epoch), follow_symlinks=False)


def size_of(place: Path) -> int:
    return sum(path.lstat().st_size for path in place.rglob("*") if path.is_file() and not path.is_symlink())


def write_sbom(components: list[dict[str, object]], epoch: int) -> None:
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": moment(epoch),
            "component": {"type": "container", "name": "nodeagent", "version": version()},
        },
        "components": sorted(components, key=lambda one: str(one["purl"])),
    }
    (BUILD / "sbom.cdx.json").write_text(json.dumps(document, indent=1) + "\n")


def moment(epoch: int) -> str:
    return run("date", "-u", "-d", f"@{epoch}", "+%Y-%m-%dT%H:%M:%SZ").strip()


# ---- packing ---------------------------------------------------------------------------------------------------------


def pack(epoch: int) -> Path:
    layout, created = BUILD / "oci", moment(epoch)
    shutil.rmtree(layout, ignore_errors=True)
    image = f"{layout}:{version()}"
    run("umoci", "init", "--layout", layout)
    run("umoci", "new", "--image", image)
    for name, words in (("base", "Debian: Python, bcc, LLVM"), ("app", "nodeagent")):
        layer = BUILD / f"{name}.tar"
        with tarfile.open(layer, "w", format=tarfile.PAX_FORMAT) as archive:
            for path in sorted((BUILD / name).rglob("*")):
                archive.add(path, path.relative_to(BUILD / name), recursive=False, filter=owned_by_root)
        history = ("--history.created", created, "--history.created_by", words)
        run("umoci", "raw", "add-layer", "--image", image, *history, layer)
        layer.unlink()
    labels = {"title": "nodeagent", "version": version(), "licenses": "Apache-2.0 AND (GPL-2.0-only OR Apache-2.0)"}
    run(
        *("umoci", "config", "--image", image, "--created", created, "--no-history", "--config.cmd", "nodeagent"),
        *("--config.cmd", "agent", "--config.env", "PATH=/usr/local/bin:/usr/bin:/bin", "--config.user", "0:0"),
        *(
            word
            for key, value in labels.items()
            for word in ("--config.label", f"org.opencontainers.image.{key}={value}")
        ),
    )
    run("umoci", "gc", "--layout", layout)
    archive_path = BUILD / f"nodeagent-{version()}.tar"
    with tarfile.open(archive_path, "w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(layout.rglob("*")):
            os.utime(path, (epoch, epoch))
            archive.add(path, path.relative_to(layout), recursive=False, filter=owned_by_root)
    return archive_path


def owned_by_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


if __name__ == "__main__":
    sys.exit(main())
