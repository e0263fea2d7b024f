# SPDX-License-Identifier: Apache-2.0
"""What an inbound stream makes of its request, as subject: a header block to fields, and each field to its meaning.

ValueError is the documented answer of what may refuse; everything else is total.
"""

import random

import hpack

from nodeagent.hbone.authority import parse_authority
from nodeagent.hbone.baggage import MAX_VALUE, parse_baggage
from nodeagent.hbone.error import H2Error
from nodeagent.hbone.forwarded import Forwarded, parse_forwarded
from nodeagent.hbone.headers import HeaderReader, parse_request, parse_response
from nodeagent.hbone.limits import Limits, Role
from nodeagent.model.address import parse_ip
from nodeagent.model.mesh import Mesh
from nodeagent.model.workload import TunnelProtocol, Workload
from nodeagent.routing.inbound import resolve_inbound
from nodeagent.routing.route import Refuse
from tests.fuzz.mutate import bend
from tests.fuzz.sessions import FIELDS
from tests.fuzz.subject import Input

_IP = parse_ip("10.0.0.2")
_LOCAL = Workload(uid="u", name="db", namespace="shop", addresses=(_IP,), protocol=TunnelProtocol.HBONE)
_MESH = Mesh()
_VALUES = (
    b"10.0.0.2:8080", b"[fd00::2]:80", b"[::ffff:10.0.0.2]:80", b"web.shop.svc.cluster.local:443", b"10.0.0.2", b"",
    b"user@10.0.0.2:80", b"[fd00::1%eth0]:80", b"10.0.0.2:65536", b"\xd9\xa1:80", b"a" * 300 + b":1",
    b"for=unknown", b"for=_hidden:_port", b'for="[fd00::1]:4711";host="a\\"b"', b"for=1.2.3.4, for=5.6.7.8;by=x",
    b'for="1.2.3.4:5', b"k=" + b"%41" * 99, b"service.name=a%00b,service.name=%ff", b"," * 5000, b"=;=;,=",
    b"CONNECT", b"GET", b"200", b"trailers",
)  # fmt: skip
_NAMES = (*(name.encode() for name, _ in FIELDS), b":path", b":protocol", b"te", b"x-forwarded-network", b"A", b"")


class Requests:
    name = "requests"

    def make(self, rng: random.Random) -> Input:
        fields = [(name.encode(), value.encode()) for name, value in FIELDS]
        for _ in range(rng.randint(0, 4)):
            at = rng.randrange(len(fields) + 1)
            name, value = rng.choice(_NAMES), rng.choice(_VALUES)
            match rng.randrange(5):
                case 0:
                    fields[at : at + 1] = [(name, value)]
                case 1:
                    fields.insert(at, (rng.choice(_NAMES), bend(rng, value)))
                case 2 if at < len(fields):
                    fields[at] = (fields[at][0], bend(rng, fields[at][1]))
                case 3 if at < len(fields):
                    fields[at] = (bend(rng, fields[at][0]), fields[at][1])
                case _:
                    del fields[at : at + 1]
        block = hpack.Encoder().encode(fields, huffman=bool(rng.randrange(2)))
        return Input(self.name, (bend(rng, block) if rng.randrange(5) == 0 else block,))

    def run(self, given: Input) -> None:
        try:
            fields = HeaderReader(Limits.of(Role.SERVER)).decode(given.pieces[0])
        except H2Error:
            return
        parse_response(1, fields)
        request = parse_request(1, fields)
        _check_baggage(request.baggage)
        if request.problem:
            return
        try:
            authority = parse_authority(request.authority)
            forwarded = parse_forwarded(request.forwarded) if request.forwarded else Forwarded(None)
        except ValueError:
            return
        assert (authority.ip is None) != (not authority.hostname)
        assert 1 <= authority.port <= 65535
        assert forwarded.port is None or 1 <= forwarded.port <= 65535
        for ip in (authority.ip, forwarded.ip):
            assert ip is None or parse_ip(ip) == ip
        host = authority.ip or authority.hostname
        route = resolve_inbound(host, authority.port, _IP, _LOCAL, _MESH, forwarded.host or "")
        assert isinstance(route, Refuse) or route.port == authority.port


def _check_baggage(text: str) -> None:
    """Whatever it says stands in logs and labels."""
    found = parse_baggage(text)
    for name in found.__struct_fields__:
        value = getattr(found, name)
        assert not value or (value.isprintable() and len(value) <= MAX_VALUE)
