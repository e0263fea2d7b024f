# SPDX-License-Identifier: Apache-2.0
"""Who else is on this node, before anything of ours is: at our ports, capturing pods, making their networks.

Read from /proc and the CNI's configuration; nothing is tried and nothing changed. In a container only what is mounted
and whose processes are seen can be told.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nodeagent.errors import KernelError
from nodeagent.kernel.probe import Probe
from nodeagent.model.address import Ip, split_host_port, unpack_ip
from nodeagent.model.check import Check

PROC, CNI_DIRECTORY = Path("/proc"), Path("/etc/cni/net.d")
MESHES = {
    "ztunnel": "Istio's ztunnel",
    "istio-cni": "istio-cni",
    "install-cni": "istio-cni",
    "kmesh-daemon": "Kmesh",
    "kmesh-cni": "Kmesh",
    "linkerd-cni": "Linkerd's CNI plugin",
    "kuma-cni": "Kuma's CNI plugin",
}
"""Names of processes, as the kernel cuts them to 15 characters, and types of CNI plugins, of who captures pods, too."""
_CILIUM = "cilium-cni"
_LISTENING = "0A"
"""TCP_LISTEN in /proc/net/tcp."""
_OURS = "nodeagent"


@dataclass(frozen=True)
class Listener:
    ip: Ip
    port: int
    inode: str


def probe_neighbours(wanted: Mapping[str, str], proc: Path = PROC, cni: Path = CNI_DIRECTORY) -> list[Probe]:
    """`wanted`: by setting, `address:port` that an agent would listen at, or nothing."""
    try:
        plugins, kind = cni_plugins(cni), None
    except KernelError as error:
        plugins, kind = [], Probe(Check.CNI, ok=False, evidence=str(error), advice="Is it JSON?", is_needed=False)
    return [ports(wanted, proc), other_meshes(plugins, proc), kind or cni_kind(plugins, cni)]


def ports(wanted: Mapping[str, str], proc: Path = PROC) -> Probe:
    """Whether somebody else listens at an address of ours; an agent that runs here is no stranger."""
    listeners = read_listeners(proc)
    taken: list[str] = []
    ours: list[str] = []
    for setting, address in wanted.items():
        if not address:
            continue
        host, port = split_host_port(address)
        found = next((one for one in listeners if one.port == port and _meets(one.ip, host)), None)
        if found is not None:
            owner = _owner(found.inode, proc)
            is_ours = owner is not None and _is_ours(owner)
            (ours if is_ours else taken).append(f"{port} of --{setting} ({_describe(owner)})")
    free = f"nobody listens at {', '.join(address for address in wanted.values() if address) or 'any of them'}"
    evidence = f"taken: {'; '.join(taken)}" if taken else f"an agent has {'; '.join(ours)}" if ours else free
    return Probe(Check.PORTS, not taken, evidence, "End who listens there, or give the agent another address, or ''.")


def read_listeners(proc: Path = PROC) -> list[Listener]:
    """Of this network namespace, both families."""
    found = []
    for name in ("tcp", "tcp6"):
        try:
            lines = (proc / "net" / name).read_text(encoding="ascii").splitlines()[1:]
        except OSError:  # a kernel without IPv6
            continue
        rows = (line.split() for line in lines)
        found += [_listener(row[1], row[9]) for row in rows if row[3] == _LISTENING]
    return found


def _listener(local: str, inode: str) -> Listener:
    """`local`: hexadecimal words in the machine's order, and a port."""
    address, _, port = local.partition(":")
    words = (int(address[start : start + 8], 16) for start in range(0, len(address), 8))
    packed = b"".join(word.to_bytes(4, sys.byteorder) for word in words)
    return Listener(unpack_ip(packed), int(port, 16), inode)


def _meets(bound: Ip, wanted: str) -> bool:
    """Two listeners at one port cannot be both, as far as addresses go. `[::]` of ours takes both families."""
    return bound == wanted or bound in {"0.0.0.0", "::"} or wanted in {"0.0.0.0", "::"}  # noqa: S104 - compared


def _owner(inode: str, proc: Path) -> Path | None:
    """The process's folder; None when it is not seen."""
    wanted = f"socket:[{inode}]"
    for folder in _processes(proc):
        try:
            if any(str(entry.readlink()) == wanted for entry in (folder / "fd").iterdir()):
                return folder
        except OSError:  # it ended, or is not ours to look at
            continue
    return None


def _processes(proc: Path) -> Iterator[Path]:
    return (folder for folder in proc.iterdir() if folder.name.isdigit())


def _describe(owner: Path | None) -> str:
    return f"{_name(owner)}, pid {owner.name}" if owner is not None else "a process that is not seen from here"


def _name(process: Path) -> str:
    try:
        return (process / "comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _is_ours(process: Path) -> bool:
    """A Python that was told to run us; the name of the process is the interpreter's, or our script's."""
    try:
        words = (process / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    except OSError:
        return False
    return any(Path(word).name == _OURS or word == "nodeagent.cli.main" for word in words[:4])


def other_meshes(plugins: Sequence[str], proc: Path = PROC) -> Probe:
    running = {
        MESHES[name]: f"process {folder.name}" for folder in _processes(proc) if (name := _name(folder)) in MESHES
    }
    configured = {MESHES[plugin]: "in the CNI's configuration" for plugin in plugins if plugin in MESHES}
    found = [f"{name} ({how})" for name, how in sorted({**configured, **running}.items())]
    return Probe(
        Check.OTHER_MESHES,
        not found,
        "; ".join(found) or "nobody known, neither as a process nor in the CNI's configuration",
        "Two that capture the same pods break them: leave nodes like this, or its pods, to one of them.",
        is_needed=False,
    )


def cni_plugins(directory: Path = CNI_DIRECTORY) -> list[str]:
    """Types of the first configuration in order, which is the one that is used. Raises KernelError for a broken one."""
    if not directory.is_dir():
        return []
    for path in sorted(directory.iterdir()):
        if path.suffix in {".conf", ".conflist", ".json"}:
            try:
                return list(_types(json.loads(path.read_text(encoding="utf-8"))))
            except (OSError, ValueError) as error:
                raise KernelError(f"{path}: {error}") from error
    return []


def _types(configuration: object) -> Iterator[str]:
    if isinstance(configuration, dict):
        plugins = configuration.get("plugins", [configuration])
        yield from (str(one.get("type", "")) for one in plugins if isinstance(one, dict))


def cni_kind(plugins: Sequence[str], directory: Path = CNI_DIRECTORY) -> Probe:
    evidence = f"{', '.join(plugins)} ({directory})" if plugins else f"no configuration in {directory}"
    return Probe(
        Check.CNI,
        _CILIUM not in plugins,
        evidence,
        "Cilium: turn off eBPF host routing (bpf.hostLegacyRouting) and cni.exclusive; see `nodeagent pods` for "
        "EGRESS_SKIPPED.",
        is_needed=False,
    )
