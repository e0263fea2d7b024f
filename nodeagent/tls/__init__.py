# SPDX-License-Identifier: Apache-2.0
"""TLS 1.3 records behind a handshake that somebody else made: AEAD straight between our buffers (RFC 8446 §5).

OpenSSL shakes hands and judges certificates. From its traffic secrets this room seals and opens what follows, with
half the copies and a newer AES-GCM than the interpreter's, and can hand a connection to another process. Sans-I/O:
no socket, no clock, no randomness, and no `ssl`. It never negotiates anything and knows AES-GCM only.
"""
