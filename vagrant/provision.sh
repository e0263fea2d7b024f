#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What turns a Debian 12 or 13 machine into a place where the kernel's tests run on a chosen kernel. Root, by Vagrant or
# by hand, on a machine that is there for nothing else:
#
#     provision.sh kernel CHECKOUT LINE     installs the kernel of that line and makes it the default; reboot afterwards
#     provision.sh tests CHECKOUT           installs what the tests need, and runs them
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive

install_kernel() {
	local line=$1 release
	# Which one, and from where, is decided in one place: that of the matrix.
	python3 -m vagrant.matrix --only-fetch "$line"
	apt-get update -qq
	apt-get install -y -qq --no-install-recommends "./build/kernels/$line/packages/"linux-*.deb >/dev/null
	release=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["release"])' \
		"build/kernels/$line/kernel.json")
	mkdir -p /etc/default/grub.d
	echo "GRUB_DEFAULT='Advanced options for Debian GNU/Linux>Debian GNU/Linux, with Linux $release'" \
		>/etc/default/grub.d/nodeagent-kernels.cfg
	update-grub
	echo "installed Linux $release; it runs after a reboot"
}

run_tests() {
	echo "running on Linux $(uname -r)"
	command -v make >/dev/null || { apt-get update -qq && apt-get install -y -qq make >/dev/null; }
	make build/.developer
	.venv/bin/python -m vagrant.inside
}

case "${1:-}/$#" in
kernel/3) cd "$2" && install_kernel "$3" ;;
tests/2) cd "$2" && run_tests ;;
*)
	sed -n '3,8s/^# \{0,1\}//p' "$0" >&2
	exit 2
	;;
esac
