# SPDX-License-Identifier: Apache-2.0
"""From a handshake that OpenSSL has finished to a RecordChannel, or the decision to stay with OpenSSL.

Both directions begin with record 0 of their first application secret, so nothing may have been sealed or opened by
OpenSSL behind the handshake. That holds if a server sends no tickets (`SSLContext.num_tickets = 0`, else it seals them
within the handshake), nobody called `write`, nobody called `read`, and what OpenSSL has queued is sent before what we
seal. OpenSSL reads one record at a time, so what the peer has sent behind its handshake is still in the incoming BIO.
"""

from nodeagent.tls.channel import RecordChannel
from nodeagent.tls.key_schedule import Cipher
from nodeagent.tls.keylog import TrafficSecrets
from nodeagent.tls.output import Output
from nodeagent.tls.traffic_key import TrafficKey


def take_over(
    secrets: TrafficSecrets, cipher: str, unread: bytes, unsent: bytes = b"", *, is_server: bool
) -> RecordChannel | None:
    """None: stay with OpenSSL, since the suite is none of ours, or a secret was not logged.

    Args:
        secrets: of this handshake; they are wiped if they are taken.
        cipher: `SSLObject.cipher()[0]`. The AES-GCM suites of TLS 1.3 have names that no older version knows.
        unread: what is left in the incoming MemoryBIO. The caller empties it only when we take over, or puts it back.
            There may be plaintext at once: call `open_into` without waiting for the socket.
        unsent: what OpenSSL has queued and no socket has taken.
        is_server: our role.
    """
    suite = Cipher.find(cipher)
    if suite is None or secrets.client is None or secrets.server is None:
        return None
    if not len(secrets.client) == len(secrets.server) == suite.secret_bytes:
        return None
    client, server = TrafficKey(suite, secrets.client), TrafficKey(suite, secrets.server)
    secrets.wipe()
    writing, reading = (server, client) if is_server else (client, server)
    channel = RecordChannel(writing, reading, is_server=is_server, output=Output(unsent))
    if unread:
        channel.received(memoryview(unread))
    return channel
