# SPDX-License-Identifier: Apache-2.0
"""The trial of the kernel's TLS, in a namespace of its own: for workers, which cannot make it, and for `check`."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pyroute2 import IPRoute

from nodeagent.errors import KernelError
from nodeagent.kernel.netlink import explained
from nodeagent.kernel.netns import CLONE_NEWNET, unshare
from nodeagent.kernel.probe import Probe
from nodeagent.model.check import Check
from nodeagent.proxy.kernel_trial import KernelTls, try_kernel_tls

_ULP, _MODULE = Path("/proc/sys/net/ipv4/tcp_available_ulp"), Path("/sys/module/tls")
"""The first is there in the first network namespace only, the second only if it is not built in."""
_LOOPBACK = 1


def kernel_tls() -> Probe:
    """Only if the module is there: a trial by who may would load it."""
    try:
        known = _ULP.read_text(encoding="ascii").split()
    except OSError:
        known = []
    if "tls" not in known and not _MODULE.exists():
        evidence = f"{_ULP.name}: {' '.join(known) or 'none'}"
        advice = "`kernel_tls: auto` has it loaded (CONFIG_TLS, modprobe tls) and tries it; the default needs none."
        return Probe(Check.KERNEL_TLS, ok=False, evidence=evidence, advice=advice, is_needed=False)
    found = try_aside()
    advice = "With `kernel_tls: auto` the workers make the records."
    return Probe(Check.KERNEL_TLS, found.works, str(found), advice, is_needed=False)


def try_aside() -> KernelTls:
    """Blocks for some milliseconds. A trial that cannot be made is one that did not work."""
    with ThreadPoolExecutor(1) as thread:  # whose namespace ends with it
        try:
            return thread.submit(_try).result()
        except (OSError, KernelError) as error:
            return KernelTls(why=str(error))


def _try() -> KernelTls:
    unshare(CLONE_NEWNET)
    with IPRoute() as link, explained("setting lo up"):
        link.link("set", index=_LOOPBACK, state="up")
    return try_kernel_tls()
