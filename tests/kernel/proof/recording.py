# SPDX-License-Identifier: Apache-2.0
"""The programs as a test build that shows what they decide where BPF_PROG_TEST_RUN has no effects.

The product's loader compiles the product's text behind recording.h, and its programs share the product's pinned maps.
`python -m tests.kernel.proof.recording BPFFS` is the child that does so, as the loader is the product's.
"""

import errno
import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from nodeagent.kernel import loader, pins, syscall
from nodeagent.kernel.pins import Pins
from nodeagent.kernel.sources import program_text

PREFIX = Path(__file__).with_name("recording.h")
FOLDER = "recording"
"""In place of the source hash, so that the product's programs stay as they are."""
COOKIE = 0xC00C0000
"""The acknowledgement that is a SYN cookie of the listener whose port is added."""

_MARK, _PRIORITY, _INGRESS, _IFINDEX, _CB, _SECRET, _CONTEXT_BYTES = 8, 32, 36, 40, 48, 56, 192
"""Offsets in struct __sk_buff."""
_FLAGS_SHIFT, _CALL_SHIFT, _TYPE_SHIFT = 28, 30, 16
REFUSAL = 1 << 31
"""In the flow hash: the kernel refuses the assignment."""
_CALLS = {1: "redirect", 2: "redirect_peer"}


class Redirect(NamedTuple):
    call: str
    device: int
    flags: int


class Seen(NamedTuple):
    """What a program made of a packet."""

    verdict: int
    mark: int
    frame: bytes
    redirect: Redirect | None
    is_for_host: bool
    """Its type was set to PACKET_HOST."""
    listener: int
    """Port of the listener that it was given to, or 0."""
    secret: int
    """In the packet's control block."""


class Recorder:
    """Runs packets through one set of pinned programs. Nothing is kept between packets.

    `ingress_at`: where the programs look for the ingress_ifindex.
    """

    def __init__(self, programs: Path, ingress_at: int) -> None:
        self._ingress_at = ingress_at
        self._programs = {path.name: syscall.open_pinned(str(path)) for path in programs.iterdir()}

    def run(
        self,
        program: str,
        frame: bytes,
        device: int,
        *,
        ingress: int = 0,
        mark: int = 0,
        flow_hash: int = 0,
        secret: int = 0,
    ) -> Seen:
        context = bytearray(_CONTEXT_BYTES)
        struct.pack_into("=I", context, _MARK, mark)
        struct.pack_into("=I", context, self._ingress_at, ingress)
        struct.pack_into("=I", context, _IFINDEX, device)
        struct.pack_into("=I", context, _CB, flow_hash)
        struct.pack_into("=Q", context, _SECRET, secret)
        verdict, left, after = syscall.run_program(self._programs[program], frame, bytes(context))
        _, redirect, secret, given = struct.unpack_from("=IIQI", after, _CB)  # mostly 0 in the product's own programs
        made, port = divmod(given, 1 << _TYPE_SHIFT)
        return Seen(
            verdict,
            struct.unpack_from("=I", after, _MARK)[0],
            left,
            _redirect(redirect) if redirect else None,
            is_for_host=made == 1,
            listener=port,
            secret=secret,
        )

    def can_come_from_elsewhere(self, frame: bytes, device: int) -> bool:
        """Whether this kernel lets a packet have another ingress_ifindex than 0 here."""
        try:
            self.run("to_pod", frame, device, ingress=device)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return False
        return True

    def close(self) -> None:
        for descriptor in self._programs.values():
            os.close(descriptor)


def _redirect(recorded: int) -> Redirect:
    call, rest = divmod(recorded, 1 << _CALL_SHIFT)
    flags, device = divmod(rest, 1 << _FLAGS_SHIFT)
    return Redirect(_CALLS[call], device, flags)


def open_product(bpffs: Path) -> Recorder:
    """The product's own programs, whose decisions are not recorded."""
    return Recorder(Pins(bpffs).programs, _INGRESS)


def load_recording(bpffs: Path) -> Recorder:
    """Compiles, loads and opens the test build."""
    child = subprocess.run(
        [sys.executable, "-m", "tests.kernel.proof.recording", str(bpffs)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[3],
    )
    assert child.returncode == 0, child.stderr
    return Recorder(Pins(bpffs).programs.with_name(FOLDER), _PRIORITY)


def main() -> int:
    text = PREFIX.read_text(encoding="utf-8").replace("#pragma once", "") + program_text()
    loader.program_text = lambda: text  # type: ignore[attr-defined, assignment]
    pins.source_hash = lambda flags=(): FOLDER  # type: ignore[attr-defined, assignment]  # noqa: ARG005 - a name of its callers
    sys.stdout.write(json.dumps(loader.compile_and_pin(Pins(Path(sys.argv[1])))) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
