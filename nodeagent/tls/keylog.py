# SPDX-License-Identifier: Apache-2.0
"""The traffic secrets of one handshake, out of lines as OpenSSL logs them, told from those of others.

A line is `label client-random secret`, the last two in hex (draft-ietf-tls-keylogfile). The client random is in the
ClientHello, which passes through our hands on both sides. Two labels are of use, and they may come in two steps: a
server derives the client's secret only when the client has finished.
"""

_CLIENT, _SERVER = b"CLIENT_TRAFFIC_SECRET_0", b"SERVER_TRAFFIC_SECRET_0"

_HELLO_BYTES = 11
"""In front of the random: the record's header (5), that of the message (4), the legacy version (2)."""
_RANDOM_BYTES = 32
_HANDSHAKE, _CLIENT_HELLO = 22, 1


class ClientRandom:
    """Reads the first bytes that the client sends, in whatever pieces they come."""

    __slots__ = ("_first",)

    def __init__(self) -> None:
        self._first = b""

    def received(self, ciphertext: bytes | memoryview) -> None:
        missing = _HELLO_BYTES + _RANDOM_BYTES - len(self._first)
        if missing > 0:
            self._first += bytes(ciphertext[:missing])

    @property
    def value(self) -> bytes | None:
        """None until it is whole, and for ever if its place is not where it is with everybody.

        That is a hello cut into records of a few bytes, which is legal and nobody's habit.
        """
        first = self._first
        if len(first) < _HELLO_BYTES + _RANDOM_BYTES or first[0] != _HANDSHAKE or first[5] != _CLIENT_HELLO:
            return None
        length = int.from_bytes(first[3:5], "big")
        return first[_HELLO_BYTES:] if length >= len(first) - 5 else None


class TrafficSecrets:
    """Of one handshake. Give `hello` what the client sends, then `logged` what OpenSSL logs."""

    __slots__ = ("client", "hello", "server")

    def __init__(self) -> None:
        self.hello = ClientRandom()
        self.client: bytearray | None = None
        self.server: bytearray | None = None

    def logged(self, lines: bytes | bytearray) -> None:
        """Takes the secrets of this handshake; whatever else was logged is passed over, a torn line as well."""
        if self.hello.value is None:
            return
        wanted = self.hello.value.hex().encode()
        *whole, _ = lines.split(b"\n")
        for line in whole:
            words = line.split(b" ")
            if len(words) == 3 and words[1] == wanted:
                self._take(bytes(words[0]), words[2])

    def wipe(self) -> None:
        """Overwrites them, as far as that goes: the lines that they came in were bytes of their own."""
        for secret in (self.client, self.server):
            if secret is not None:
                secret[:] = bytes(len(secret))
        self.client = self.server = None

    def _take(self, label: bytes, digits: bytes | bytearray) -> None:
        try:
            secret = bytearray.fromhex(digits.decode("ascii"))
        except ValueError:
            return
        if label == _CLIENT:
            self.client = secret
        elif label == _SERVER:
            self.server = secret

    def __repr__(self) -> str:
        return f"TrafficSecrets(client={self.client is not None}, server={self.server is not None})"
