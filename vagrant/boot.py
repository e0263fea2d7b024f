# SPDX-License-Identifier: Apache-2.0
"""The first file system of a guest: a shell, the modules that reach the disks, and a script that joins the disks.

The disks are layers of one overlay, the last one on top; what the guest writes stays in its memory.
"""

from pathlib import Path

from vagrant.cpio import Entry, archive
from vagrant.fetch import Kernel

EARLY = ("virtio_pci", "virtio_blk", "ext4", "overlay", "crc32c_generic", "crc32c")
"""Where one of them is part of the kernel, or does not exist, there is nothing to load."""
DISKS = ("vda", "vdb", "vdc")

_INIT = """\
#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
for module in @MODULES@; do $b insmod /modules/$module || echo "cannot load $module"; done
$b mount -t devtmpfs dev /dev
$b mount -t tmpfs -o mode=755 memory /memory
$b mkdir /memory/upper /memory/work
lower=
for disk in @DISKS@; do
	for attempt in 0 1 2 3 4 5 6 7 8 9; do [ -b /dev/$disk ] && break; $b sleep 1; done
	$b mkdir -p /layers/$disk
	$b mount -t ext4 -o ro /dev/$disk /layers/$disk || echo "cannot mount $disk"
	lower=/layers/$disk${lower:+:$lower}
done
$b mount -t overlay -o lowerdir=$lower,upperdir=/memory/upper,workdir=/memory/work root /root
$b umount /proc /sys
$b mount --move /dev /root/dev
exec $b switch_root /root /bin/sh @CHECKOUT@/vagrant/first_process.sh @CHECKOUT@
"""


_PROBE = """\
#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t devtmpfs dev /dev
echo ready >/dev/ttyS1
echo o >/proc/sysrq-trigger
$b sleep 60
"""


def probe(kernel: Kernel) -> bytes:
    """In place of the initramfs: says that it runs, and ends."""
    return archive(
        [
            *map(Entry.directory, ("bin", "dev", "proc")),
            Entry.console(),
            Entry.file("bin/busybox", kernel.busybox.read_bytes(), is_program=True),
            Entry.file("init", _PROBE.encode(), is_program=True),
        ]
    )


def initramfs(kernel: Kernel, checkout: Path) -> bytes:
    folder = kernel.modules
    chosen = load_order((folder / "modules.dep").read_text(encoding="utf-8"), EARLY)
    script = _INIT.replace("@CHECKOUT@", str(checkout)).replace("@DISKS@", " ".join(DISKS))
    script = script.replace("@MODULES@", " ".join(Path(path).name for path in chosen))
    folders = ("bin", "dev", "proc", "sys", "modules", "memory", "layers", "root")
    entries = [
        *map(Entry.directory, folders),
        Entry.console(),
        Entry.file("bin/busybox", kernel.busybox.read_bytes(), is_program=True),
        Entry.file("init", script.encode(), is_program=True),
        *(Entry.file(f"modules/{Path(path).name}", (folder / path).read_bytes()) for path in chosen),
    ]
    return archive(entries)


def load_order(modules_dep: str, names: tuple[str, ...]) -> list[str]:
    """Paths of these modules and of what they need, each behind what it needs.

    depmod writes `path: needs...` so that the last need has to be loaded first.
    """
    needs = {}
    for line in modules_dep.splitlines():
        path, _, others = line.partition(":")
        needs[path] = others.split()
    paths = {Path(path).stem.replace("-", "_"): path for path in needs}
    ordered: dict[str, None] = {}
    for name in names:
        if name in paths:
            ordered.update(dict.fromkeys([*reversed(needs[paths[name]]), paths[name]]))
    return list(ordered)
