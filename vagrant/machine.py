# SPDX-License-Identifier: Apache-2.0
"""A virtual machine from its start to its end: QEMU's command line, the wait, and what it left when it died.

Two serial ports: the kernel's console, and the tests' report. No network, no writable disk: nothing that a guest does
leaves it. It ends by itself, with its time, with Ctrl-C, or with the death of this process.
"""

import fcntl
import os
import select
import subprocess
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nodeagent.errors import NotPossible

Accelerator = Literal["kvm", "tcg"]

READY = b"ready"
_KVM_CREATE_VM = 0xAE01
MOST_CASES = 4
"""Of one test, where the processor is emulated: a sample of a table with hundreds of cases takes minutes enough."""
_DEAR = "la57=off,smap=off,smep=off,erms=off,fsrm=off"
"""What an emulated processor pays for and no test needs: a fifth level of page tables at each miss, a switch of modes
at each copy from and to a process, and copies by one repeated instruction, which cost it one step a byte."""
_REPEATED = "112,297,580"
"""The same for what the kernel believes of its processor by itself (REP_GOOD, ERMS, FSRM): its copies are unrolled."""
_CONSOLE_LINES = 12


@dataclass(frozen=True)
class Machine:
    line: str
    kernel: Path
    initramfs: Path
    disks: tuple[Path, ...]
    console: Path
    report: Path
    accelerator: Accelerator
    memory_mib: int
    cores: int
    tests: str = ""
    """Files that pytest is given in place of the usual selection, with commas."""


def has_kvm() -> bool:
    """Whether this process may make a machine, which does not yet mean that one runs: see boots()."""
    try:
        descriptor = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.close(fcntl.ioctl(descriptor, _KVM_CREATE_VM, 0))
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def boots(machine: Machine, seconds: float) -> bool:
    """Whether a machine whose first process says READY and switches it off does so in time.

    Inside another virtual machine KVM may make machines that never get to their first instruction.
    """
    return all(not lost and READY in machine.report.read_bytes() for _, lost in run_machines([machine], 1, seconds))


def command(machine: Machine) -> list[str]:
    """Of QEMU. setpriv ends it with the process that started it, however that ends."""
    processor = ["-accel", "kvm", "-cpu", "host"]
    if machine.accelerator == "tcg":
        # With a clock that counts the guest's own instructions, a billion a second, so that what has a second to do its
        # work has it on a slow and busy machine too; waiting takes its time.
        processor = ["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=on", "-cpu", f"max,{_DEAR}"]
    drives = [f"file={disk},format=raw,if=virtio,readonly=on,cache=unsafe,file.locking=off" for disk in machine.disks]
    arguments = "console=ttyS0 quiet loglevel=4 panic=-1 oops=panic mitigations=off random.trust_cpu=on"
    if machine.accelerator == "tcg":
        arguments += f" nodeagent.most_cases={MOST_CASES} clearcpuid={_REPEATED}"
    if machine.tests:
        arguments += f" nodeagent.tests={machine.tests}"
    return [
        "setpriv", "--pdeathsig", "KILL", "--",
        "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", *processor,
        "-m", f"{machine.memory_mib}M", "-smp", str(machine.cores),
        "-kernel", str(machine.kernel), "-initrd", str(machine.initramfs), "-append", arguments,
        "-serial", f"file:{machine.console}", "-serial", f"file:{machine.report}",
        *(word for drive in drives for word in ("-drive", drive)),
        "-device", "virtio-rng-pci",
    ]  # fmt: skip


class _Running:
    """A started machine. Its end is seen at a descriptor."""

    def __init__(self, machine: Machine, seconds: float) -> None:
        for file in (machine.console, machine.report):
            file.write_bytes(b"")
        self._complaints = machine.console.with_suffix(".qemu")
        with self._complaints.open("wb") as complaints:
            try:
                self._process = subprocess.Popen(
                    command(machine), stdin=subprocess.DEVNULL, stdout=complaints, stderr=complaints
                )
            except FileNotFoundError as error:
                check = "`make test-kernels` installs what it needs."
                raise NotPossible(f"{error.filename} is not installed", check=check) from error
        self._seconds, self.deadline = seconds, time.monotonic() + seconds
        self.descriptor = os.pidfd_open(self._process.pid)

    def end(self) -> str:
        """Why it was lost, or "" when it ended by itself."""
        is_late = self._process.poll() is None
        self._process.kill()
        status = self._process.wait()
        os.close(self.descriptor)
        if is_late:
            return f"it was not done after {self._seconds:g} s"
        told = self._complaints.read_text(encoding="utf-8").strip()[-300:]
        return f"QEMU ended with status {status}: {told}" if status else ""


def run_machines(
    machines: Sequence[Machine], at_once: int, seconds: float
) -> Generator[tuple[Machine, str], None, None]:
    """Each when it has ended, with why it was lost or "". None outlives the generator."""
    waiting, running = list(machines), dict[Machine, _Running]()
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                machine = waiting.pop(0)
                running[machine] = _Running(machine, seconds)
            pause = max(0, min(each.deadline for each in running.values()) - time.monotonic())
            ready, _, _ = select.select([each.descriptor for each in running.values()], [], [], pause)
            for machine, each in list(running.items()):
                if each.descriptor in ready or each.deadline <= time.monotonic():
                    del running[machine]
                    yield machine, each.end()
    finally:
        for each in running.values():
            each.end()


def last_lines(console: Path) -> str:
    """What the kernel said last."""
    text = console.read_bytes().decode("utf-8", "replace").replace("\r", "")
    return "\n".join(text.splitlines()[-_CONSOLE_LINES:])


def fitting(count: int, memory_mib: int, cores: int) -> int:
    """How many of `count` machines run at once: no more than cores, and half of what memory is free stays free."""
    free = next(
        int(line.split()[1]) >> 10
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        if line.startswith("MemAvailable:")
    )
    return max(1, min(count, cores, free // 2 // memory_mib))
