# SPDX-License-Identifier: Apache-2.0
"""The first file system: which modules it loads and in which order, and that everything is in it."""

from pathlib import Path

import pytest

from vagrant.boot import DISKS, initramfs, load_order, probe
from vagrant.fetch import Kernel

MODULES_DEP = """\
kernel/fs/ext4/ext4.ko: kernel/fs/jbd2/jbd2.ko kernel/fs/mbcache.ko kernel/lib/crc16.ko
kernel/fs/jbd2/jbd2.ko: kernel/lib/crc16.ko
kernel/fs/mbcache.ko:
kernel/lib/crc16.ko:
kernel/drivers/virtio/virtio_pci.ko: kernel/drivers/virtio/virtio.ko
kernel/drivers/virtio/virtio.ko:
kernel/crypto/crc32c-generic.ko:
"""


def test_a_module_comes_behind_what_it_needs_and_once() -> None:
    order = [Path(path).name for path in load_order(MODULES_DEP, ("virtio_pci", "ext4", "jbd2", "crc32c_generic"))]
    assert order == [
        "virtio.ko", "virtio_pci.ko", "crc16.ko", "mbcache.ko", "jbd2.ko", "ext4.ko", "crc32c-generic.ko",
    ]  # fmt: skip


def test_what_a_kernel_has_built_in_is_not_loaded() -> None:
    assert load_order(MODULES_DEP, ("virtio_blk", "mbcache")) == ["kernel/fs/mbcache.ko"]


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    made = Kernel("6.1", "6.1.0-50-amd64", tmp_path)
    for line in MODULES_DEP.splitlines():
        path = made.modules / line.partition(":")[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(path.name.encode())
    (made.modules / "modules.dep").write_text(MODULES_DEP)
    made.busybox.write_bytes(b"a shell")
    return made


def test_it_holds_a_shell_the_modules_and_the_script(kernel: Kernel) -> None:
    whole = initramfs(kernel, Path("/home/me/checkout"))
    assert b"a shell" in whole
    assert b"modules/ext4.ko\0" in whole
    assert b"in virtio.ko virtio_pci.ko crc16.ko mbcache.ko jbd2.ko ext4.ko crc32c-generic.ko; do" in whole
    assert f"for disk in {' '.join(DISKS)}; do".encode() in whole
    assert b"/bin/sh /home/me/checkout/vagrant/first_process.sh /home/me/checkout" in whole
    assert b"@" not in whole.split(b"#!/bin/busybox sh", maxsplit=1)[1].split(b"070701", maxsplit=1)[0]


def test_the_probe_needs_no_module_and_says_that_it_is_ready(kernel: Kernel) -> None:
    assert b"echo ready >/dev/ttyS1" in probe(kernel)
    assert b"modules/" not in probe(kernel)
