# SPDX-License-Identifier: Apache-2.0
"""A pod of this node that may be enrolled, as the file of `--pods` or Kubernetes names it."""

import msgspec


class LocalPod(msgspec.Struct, frozen=True, order=True):
    namespace: str
    name: str
    netns: str
    """Path of its network namespace, such as /run/netns/<name>."""
    uid: str = ""
    """Kubernetes' own name for it, which no other pod ever has; empty where nobody gives one."""
