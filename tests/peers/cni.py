# SPDX-License-Identifier: Apache-2.0
"""What Istio's CNI plugin is to a ztunnel: it hands over the pods' network namespaces, and redirects inside of them.

The protocol is ztunnel's `proto/zds.proto`, one message a packet: hello from ztunnel, then each pod with its namespace
as a descriptor, then the end of the list, every message with an answer. The rules are those that the plugin makes in a
pod for TCP (istio, `cni/pkg/iptables`), as nftables.
"""

import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from nodeagent.errors import NotPossible
from nodeagent.lab import netlink
from nodeagent.lab.namespaces import Node, Pod

_OWN_MARK, _APPLICATION_MARK, _TABLE = 0x539, 0x111, 100
_HOST_SCOPE = 254
_RULES = f"""
table inet istio {{
  chain mark_application {{
    type filter hook prerouting priority mangle;
    meta mark {_OWN_MARK} ct mark set {_APPLICATION_MARK}
  }}
  chain bring_back {{
    type route hook output priority mangle;
    ct mark {_APPLICATION_MARK} meta mark set ct mark
  }}
  chain passthrough {{
    meta l4proto tcp redirect to :15006
  }}
  chain inbound {{
    type nat hook prerouting priority dstnat;
    meta l4proto tcp fib daddr type local ip daddr != 127.0.0.1 tcp dport != 15008 mark != {_OWN_MARK} goto passthrough
    meta l4proto tcp fib daddr type local ip6 daddr != ::1 tcp dport != 15008 mark != {_OWN_MARK} goto passthrough
  }}
  chain outbound {{
    type nat hook output priority -100;
    meta mark {{ {_OWN_MARK}, {_APPLICATION_MARK} }} accept
    oifname "lo" accept
    meta l4proto tcp redirect to :15001
  }}
}}
"""
_HELLO = bytes([0x08, 1])  # ZdsHello{version: V1}
_SNAPSHOT_SENT = bytes([0x1A, 0])  # WorkloadRequest{snapshot_sent: {}}
_ACK = bytes([0x0A, 0])  # WorkloadResponse{ack: {}}


class CniPlugin:
    """Of one node. `path` of its socket is the node's; pods may come and go (`add`, `remove`) while a ztunnel runs."""

    def __init__(self, node: Node, path: Path) -> None:
        self._node = node
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        node.call(lambda: self._listener.bind(str(path)))
        self._listener.listen()
        self._connection: socket.socket | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        if self._connection is not None:
            self._connection.close()

    def serve(self, pods: Sequence[Pod], seconds: float) -> None:
        """Waits for the ztunnel, and tells it of all the pods. Raises NotPossible with what it answers."""
        self._listener.settimeout(seconds)
        self._connection, _ = self._listener.accept()
        self._connection.settimeout(seconds)
        if (hello := self._connection.recv(1024)) != _HELLO:
            raise NotPossible(f"the ztunnel's hello is {hello!r}, and version 1 is spoken here")
        for pod in pods:
            self.add(pod)
        self._tell(_SNAPSHOT_SENT)

    def add(self, pod: Pod) -> None:
        _redirect(pod)
        described = b"".join(
            _field(n, word) for n, word in enumerate((pod.name, pod.namespace, pod.service_account), 1)
        )
        with pod.netns.open("rb") as netns:
            self._tell(_field(1, _field(1, _uid(pod)) + _field(2, described)), netns.fileno())

    def remove(self, pod: Pod) -> None:
        self._tell(_field(2, _field(2, _uid(pod))))

    def _tell(self, message: bytes, *descriptors: int) -> None:
        assert self._connection is not None, "nobody has come"
        socket.send_fds(self._connection, [message], descriptors)
        if (answer := self._connection.recv(1024)) != _ACK:
            raise NotPossible(f"the ztunnel refuses {message!r}: {answer!r}")


def _uid(pod: Pod) -> str:
    return f"uid-{pod.name}"


def _field(number: int, value: bytes | str) -> bytes:
    """A protobuf field of wire type 2; short, so that its length is one byte."""
    encoded = value.encode() if isinstance(value, str) else value
    assert len(encoded) < 128
    return bytes([number << 3 | 2, len(encoded)]) + encoded


def _redirect(pod: Pod) -> None:
    done = pod.run(["nft", _RULES])
    if done.returncode:
        raise NotPossible(f"nft in {pod.name}: {done.stderr.strip()}", check="Has this kernel nf_tables with NAT?")
    netlink.with_netlink(_bring_back_marked, pod.netns)


def _bring_back_marked(ip: Any) -> None:  # pyroute2 has no types
    """To ztunnel, what an application answers to a connection that ztunnel has opened with its client's address."""
    [loopback] = ip.link_lookup(ifname="lo")
    for family, everything in ((socket.AF_INET, "0.0.0.0/0"), (socket.AF_INET6, "::/0")):
        ip.rule("add", family=family, fwmark=_APPLICATION_MARK, fwmask=0xFFF, table=_TABLE, priority=32764)
        ip.route("add", family=family, type="local", scope=_HOST_SCOPE, dst=everything, oif=loopback, table=_TABLE)
