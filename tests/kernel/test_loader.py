# SPDX-License-Identifier: Apache-2.0
"""The loader child: what it pins, what a reload keeps, that C and Python agree, and how it fails."""

import json
import logging
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nodeagent.errors import KernelError
from nodeagent.kernel import syscall
from nodeagent.kernel.codings import Flow, FlowKey, layouts
from nodeagent.kernel.layout import read_maps, read_rings
from nodeagent.kernel.loader import load_programs
from nodeagent.kernel.maps import Maps
from nodeagent.kernel.netns import mount, unmount
from nodeagent.kernel.pins import Pins, read_counters
from nodeagent.kernel.sources import PROGRAMS, SERVICES, bpf_folder, program_text, read_source
from nodeagent.model.address import Ip
from nodeagent.model.mark import Marks
from tests.kernel.conftest import Node, Packet
from tests.kernel.recorded import load_again

pytestmark = pytest.mark.kernel

MOST_INSTRUCTIONS = {"from_pod": 24000, "to_pod": 8000, "from_proxy": 4000, "at_proxy": 6000, "sockops": 2000}
MOST_INSTRUCTIONS |= dict.fromkeys(SERVICES, 1000)
"""The ceilings, on any kernel, of the verifier's million: up to twice what is seen. A program that grows beyond its own
has lost a bound or got a table too much, and wants to be looked at before an older verifier refuses it. from_pod has
most, since many of its rows write a flow, each into one of two tables and out of the other."""


@pytest.fixture(scope="module")
def verified(node: Node) -> dict[str, int]:
    """By the product's own loader, now or when the programs were recorded (tests/kernel/recorded.py)."""
    return load_again(Pins(node.bpffs))


def test_programs_and_maps_are_pinned_below_the_hash_of_the_layout(node: Node) -> None:
    pins = Pins(node.bpffs)
    assert {path.name for path in pins.programs.iterdir()} == set(PROGRAMS)
    assert {path.name for path in pins.maps.iterdir()} == set(read_maps(read_source("maps.h"))) | set(
        read_rings(read_source("maps.h"))
    )


def test_the_verifier_has_little_to_do(
    verified: dict[str, int], record_property: Callable[[str, object], None]
) -> None:
    record_property("verified", verified)  # `make test-kernels` shows it for each kernel

    assert verified.keys() == set(PROGRAMS)
    assert all(0 < count < MOST_INSTRUCTIONS[name] for name, count in verified.items()), verified


@pytest.mark.any_kernel
def test_where_the_kernel_keeps_no_count_the_verifiers_log_has_it(node: Node, verified: dict[str, int]) -> None:
    """As before Linux 5.16: there `verified` has it from the log, too."""
    program = """\
import dataclasses, json, sys
from pathlib import Path
from nodeagent.kernel import loader, syscall
from nodeagent.kernel.pins import Pins
told = syscall.program_info
syscall.program_info = lambda descriptor: dataclasses.replace(told(descriptor), verified_instructions=0)
print(json.dumps(loader.compile_and_pin(Pins(Path(sys.argv[1])))))
"""
    done = subprocess.run([sys.executable, "-c", program, str(node.bpffs)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    assert json.loads(done.stdout.splitlines()[-1]) == verified


@pytest.mark.any_kernel
def test_what_takes_a_programs_place_is_accepted_too(node: Node) -> None:
    """In a child: bcc never gives its memory back."""
    program = (
        "import os, sys; os.environ['BCC_KERNEL_SOURCE'] = sys.argv[1]\n"
        "from nodeagent.kernel.loader import KINDS, WITHOUT, import_bcc\n"
        "bcc = import_bcc(); module = bcc.BPF(text=sys.stdin.read(), cflags=['-DPIN_DIRECTORY=\"\"'])\n"
        "for name, other in WITHOUT.items(): module.load_func(other, getattr(bcc.BPF, KINDS[name]))\n"
    )
    child = subprocess.run(
        [sys.executable, "-c", program, str(bpf_folder())],
        input=program_text().replace('":" PIN_DIRECTORY "/maps/" #name', '""'),
        text=True,
        capture_output=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr


@pytest.mark.any_kernel
def test_a_reload_keeps_the_maps_and_what_is_in_them(node: Node) -> None:
    pins = Pins(node.bpffs)
    key, flow = FlowKey(Ip("10.99.1.2"), Ip("10.99.2.2"), 40000, 80), Flow(1, 3, 0)
    maps = Maps(pins.maps)
    maps.flows.put(key, flow)
    before = _map_ids(pins)
    load_programs(pins)
    assert _map_ids(pins) == before
    assert maps.flows.find(key) == flow
    maps.flows.remove(key)
    maps.close()
    for name in PROGRAMS:
        assert _maps_of_program(pins, name) <= set(before.values()), "a program with a map of its own"


@pytest.mark.any_kernel
def test_the_compilers_offsets_are_pythons(node: Node) -> None:
    """Each field of each struct, asserted by the compiler that builds the programs."""
    assertions = []
    for layout in layouts().values():
        codes = re.findall(r"\d*[a-zA-Z]", layout.packing.format)
        offset = 0
        for field, code in zip(layout.fields, codes, strict=True):
            place = f"__builtin_offsetof(struct {layout.name}, {field})"
            assertions.append(f'_Static_assert({place} == {offset}, "{layout.name}.{field}");')
            offset += struct.calcsize("=" + code)
        assertions.append(f'_Static_assert(sizeof(struct {layout.name}) == {layout.size}, "{layout.name}");')
    assert _compiles("\n".join(assertions))
    assert not _compiles(assertions[1].replace("==", "!="))


@pytest.mark.any_kernel
def test_other_marks_are_compiled_in(node: Node) -> None:
    """Over the same maps; bits outside the mask stay."""
    others = Marks(0x80000000, 0xF0000000)
    pins = Pins(node.bpffs, others)
    node.enrol(node.a)
    load_programs(pins)
    maps = Maps(pins.maps)
    secret = maps.read_settings().secret
    maps.close()
    context = bytearray(192)
    packet = Packet(node.a.addresses[0], Ip("203.0.113.9"))
    with syscall.opened(str(pins.programs / "from_pod")) as program:
        for mark, is_passed in ((0x1003, False), (others.value("PROXY"), True)):
            before = node.counted("PROXY_PASSAGE")["PROXY_PASSAGE"]
            struct.pack_into("=I", context, 8, 0x4000 | mark)
            struct.pack_into("=I", context, 40, node.ifindex(node.a))
            struct.pack_into("=Q", context, 56, secret)
            syscall.run_program(program, packet.frame(), bytes(context))
            assert node.counted("PROXY_PASSAGE")["PROXY_PASSAGE"] - before == int(is_passed)


def test_pinned_maps_are_as_declared(node: Node) -> None:
    sizes = {"u32": 4, "u64": 8, **{name: layout.size for name, layout in layouts().items()}}
    for shape in read_maps(read_source("maps.h")).values():
        with syscall.opened(str(Pins(node.bpffs).maps / shape.name)) as descriptor:
            info = syscall.map_info(descriptor)
        assert (info.key_bytes, info.value_bytes, info.entries) == (sizes[shape.key], sizes[shape.value], shape.entries)
    for name, size in read_rings(read_source("maps.h")).items():
        with syscall.opened(str(Pins(node.bpffs).maps / name)) as descriptor:
            assert syscall.map_info(descriptor).entries == size


def test_counters_are_read_from_the_pins_alone(node: Node) -> None:
    assert read_counters(str(node.bpffs)).keys() == node.steering.counters().keys()


def test_without_pins_there_are_no_counters(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match="counters cannot be read"):
        read_counters(str(tmp_path))


def test_no_bpffs_is_one_clear_error(node: Node, tmp_path: Path) -> None:
    with pytest.raises(KernelError, match="no bpffs is mounted") as caught:
        load_programs(Pins(tmp_path))
    assert caught.value.check == f"mount -t bpf bpf {tmp_path}"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.any_kernel
def test_what_bcc_says_goes_to_the_log(node: Node, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    mount("bpf", tmp_path, "bpf")
    pins = Pins(tmp_path)
    (pins.maps / "flows").mkdir(parents=True)  # in the place of a map
    with caplog.at_level(logging.ERROR), pytest.raises(KernelError, match="bcc could not compile") as caught:
        load_programs(pins)
    unmount(tmp_path)
    assert "\n" not in str(caught.value)
    assert f"failed to pin map: {pins.maps / 'flows'}" in caplog.text
    assert "Traceback" not in caplog.text


@pytest.mark.any_kernel
def test_a_child_that_dies_is_an_error_too(
    node: Node, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(KernelError, match="died with status 1"):
        load_programs(Pins(node.bpffs))


def _map_ids(pins: Pins) -> dict[str, int]:
    ids = {}
    for path in pins.maps.iterdir():
        with syscall.opened(str(path)) as descriptor:
            ids[path.name] = syscall.map_info(descriptor).id
    return ids


def _maps_of_program(pins: Pins, name: str) -> set[int]:
    shown = subprocess.run(
        ["bpftool", "prog", "show", "pinned", str(pins.programs / name)], capture_output=True, text=True, check=True
    ).stdout
    found = re.search(r"map_ids ([\d,]+)", shown)
    assert found is not None, shown
    return {int(number) for number in found[1].split(",")}


def _compiles(assertions: str) -> bool:
    """In a child: bcc never gives its memory back."""
    program = (
        "import os, sys; os.environ['BCC_KERNEL_SOURCE'] = sys.argv[1]\n"
        "from nodeagent.kernel.loader import import_bcc\n"
        "import_bcc().BPF(text=sys.stdin.read(), cflags=['-DPIN_DIRECTORY=\"\"'])\n"
    )
    # Pins are made by the table macro: without a path the maps are the child's own.
    text = program_text().replace('":" PIN_DIRECTORY "/maps/" #name', '""') + assertions
    child = subprocess.run(
        [sys.executable, "-c", program, str(bpf_folder())], input=text, text=True, capture_output=True, check=False
    )
    assert child.returncode == 0 or "static_assert failed" in child.stderr or "assertion failed" in child.stderr, (
        child.stderr
    )
    return child.returncode == 0
