#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The first process of a guest, and its last: mounts, loads, runs the tests, switches the machine off. A shell, since it
# buries the orphans of the tests while it waits. $1: the checkout.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 CI=true
export TMPDIR=/mnt # not /tmp: a mount there would hide a checkout below it
mount -t proc proc /proc
mount -t sysfs sys /sys
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs -o mode=755 run /run
mount -t tmpfs -o mode=1777 tmp /mnt
mount -t cgroup2 cgroup /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
echo guest >/proc/sys/kernel/hostname
ip link set lo up
# Others come when they are asked for. These are asked for by programs that do not ask the kernel to load them.
for module in sch_ingress cls_bpf act_bpf veth bridge br_netfilter tcp_diag inet_diag nf_tables; do
	modprobe -q $module
done
cd "$1" || echo "no checkout at $1"
stty -F /dev/ttyS1 raw
.venv/bin/python -m vagrant.inside --report /dev/ttyS1
echo "the tests ended with status $?"
stty -F /dev/ttyS1 sane
echo o >/proc/sysrq-trigger
sleep 60
