# SPDX-License-Identifier: Apache-2.0
"""Which programs are attached where, as the kernel lists them."""

from pyroute2 import IPRoute

_HOOKS = (("ingress", 0xFFFFFFF2), ("egress", 0xFFFFFFF3))  # the parents of clsact's filters


def attached_filters() -> dict[str, list[str]]:
    """BPF filters of the calling thread's namespace by `<device> <hook>`, each with the name it was attached by."""
    found: dict[str, list[str]] = {}
    with IPRoute() as ip:
        for link in ip.get_links():
            for hook, parent in _HOOKS:
                for row in ip.get_filters(index=link["index"], parent=parent):
                    options = row.get_attr("TCA_OPTIONS")
                    name = options.get_attr("TCA_BPF_NAME") if options is not None else None
                    if name is not None:
                        found.setdefault(f"{link.get_attr('IFLA_IFNAME')} {hook}", []).append(str(name))
    return found
