# SPDX-License-Identifier: Apache-2.0
"""The HBONE codec against the h2 library, in memory: `python -m tests.bench.hbone_codec`.

Both carry the same payload from a client to a server with the same windows and frame sizes, without TLS and sockets, so
the ratio is that of the codecs alone. The subject proves its bytes equal before it is timed.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived
from h2.settings import SettingCodes, Settings

from nodeagent.hbone.connection import Connection
from nodeagent.hbone.headers import ConnectRequest
from nodeagent.hbone.limits import Role

READ = 256 << 10
"""What a worker reads and decrypts at once."""


@dataclass(frozen=True)
class Comparison:
    name: str
    ours_microseconds: float
    """CPU time per chunk, sending, receiving and window updates together."""
    ratio: float
    """Of h2's."""
    lowest: float
    highest: float


class Ours:
    def __init__(self, streams: int) -> None:
        self.client, self.server = Connection(Role.CLIENT), Connection(Role.SERVER)
        self._wire = memoryview(bytearray(4 << 20))
        self.received: dict[int, bytes] | None = None
        self._carry(self.client, self.server)
        self._carry(self.server, self.client)
        for _ in range(streams):
            self.client.open(ConnectRequest("10.0.0.2:80"))
        self._carry(self.client, self.server)
        self._carry(self.server, self.client)
        self.ids = [2 * n + 1 for n in range(streams)]

    def turn(self, payload: bytes) -> None:
        """Each stream sends `payload`; one flush for all."""
        for stream_id in self.ids:
            views = self.client.reserve(stream_id, len(payload))
            if self.received is not None:
                views[0][:] = payload  # where recvmsg_into would have written
            self.client.commit(stream_id, len(payload))
        self._carry(self.client, self.server)
        self._carry(self.server, self.client)

    def _carry(self, sender: Connection, receiver: Connection) -> None:
        while pending := sender.pending():
            length = len(pending)
            self._wire[:length] = pending
            sender.taken(length)
            for start in range(0, length, READ):
                events = receiver.received(self._wire[start : min(start + READ, length)])
                for request in events.opened:
                    receiver.respond(request.stream_id, 200)
                for stream_id, slices in events.data.items():
                    if self.received is not None:
                        self.received[stream_id] = self.received.get(stream_id, b"") + b"".join(slices)
                    receiver.delivered(stream_id, sum(map(len, slices)))


class Library:
    def __init__(self, streams: int) -> None:
        self.client, self.server = self._end(client=True), self._end(client=False)
        for stream_id in (2 * n + 1 for n in range(streams)):
            self.client.send_headers(stream_id, [(":method", "CONNECT"), (":authority", "10.0.0.2:80")])
        self._carry(self.client, self.server)
        self._carry(self.server, self.client)
        self.ids = [2 * n + 1 for n in range(streams)]

    @staticmethod
    def _end(*, client: bool) -> H2Connection:
        end = H2Connection(H2Configuration(client_side=client, validate_outbound_headers=False))
        end.local_settings = Settings(
            client=client,
            initial_values={SettingCodes.INITIAL_WINDOW_SIZE: 4 << 20, SettingCodes.MAX_FRAME_SIZE: 1 << 20},
        )
        end.max_inbound_frame_size = 1 << 20
        end.initiate_connection()
        end.increment_flow_control_window((16 << 20) - 65535)
        return end

    def turn(self, payload: bytes) -> None:
        for stream_id in self.ids:
            self.client.send_data(stream_id, payload)
        self._carry(self.client, self.server)
        self._carry(self.server, self.client)

    @staticmethod
    def _carry(sender: H2Connection, receiver: H2Connection) -> None:
        wire = sender.data_to_send()
        for start in range(0, len(wire), READ):
            for event in receiver.receive_data(wire[start : start + READ]):
                if isinstance(event, DataReceived):
                    receiver.acknowledge_received_data(event.flow_controlled_length, event.stream_id)


def prove(streams: int, payload: bytes) -> None:
    """The bytes come out as they went in. Raises SystemExit when not."""
    ours = Ours(streams)
    ours.received = {}
    for _ in range(20):
        ours.turn(payload)
    if ours.received != dict.fromkeys(ours.ids, payload * 20):
        raise SystemExit("the codec lost or changed bytes")


def seconds(turn: Callable[[bytes], None], payload: bytes, turns: int) -> float:
    start = time.process_time()
    for _ in range(turns):
        turn(payload)
    return time.process_time() - start


def compare(name: str, streams: int, size: int, turns: int, rounds: int = 7) -> Comparison:
    """Both in turn, so that drift hits both."""
    payload = bytes(range(256)) * (size // 256)
    prove(streams, payload)
    ours, library = Ours(streams), Library(streams)
    pairs = [(seconds(ours.turn, payload, turns), seconds(library.turn, payload, turns)) for _ in range(rounds)]
    ratios = sorted(mine / theirs for mine, theirs in pairs)
    each = min(mine for mine, _ in pairs) / turns / streams * 1e6
    return Comparison(name, round(each, 2), round(statistics.median(ratios), 3), ratios[0], ratios[-1])


def main() -> None:
    for name, streams, size, turns in (
        ("256 KiB chunks, 1 stream", 1, 256 << 10, 400),
        ("1 KiB messages, 1 stream", 1, 1 << 10, 5000),
        ("1 KiB messages, 64 streams a flush", 64, 1 << 10, 100),
    ):
        result = compare(name, streams, size, turns)
        print(f"{name}: {result.ours_microseconds} us each, {result.ratio:.3f} x the CPU of h2")
        print(json.dumps(asdict(result)), file=sys.stderr)


if __name__ == "__main__":
    main()
