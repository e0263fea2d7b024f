# SPDX-License-Identifier: Apache-2.0
"""A name for each certificate, by which lists of revoked ones are compared: issuer and serial (RFC 5280 §5.3), hashed.

Whoever checks a peer needs no parser of certificates and of lists for it, but the few bytes of DER that are read here.
What is read was verified before: by OpenSSL, in a handshake.
"""

import hashlib
from collections.abc import Iterator

NAME_BYTES = 32
"""SHA-256."""
MOST_REVOKED = 100_000
"""In one list: some 4 MB wherever it is, and one message to a worker. More is a wrong file, or a CA to be replaced."""

_SEQUENCE, _INTEGER, _VERSION = 0x30, 0x02, 0xA0


def certificate_name(issuer: bytes, serial: int) -> bytes:
    """`issuer`: its DER."""
    number = serial.to_bytes(serial.bit_length() // 8 + 1, "big", signed=True)
    return hashlib.sha256(issuer + _element(_INTEGER, number)).digest()


def name_of(certificate: bytes) -> bytes:
    """From its DER (RFC 5280 §4.1). Raises ValueError for what is none."""
    signed = _content(_content(certificate))
    elements = [(tag, whole) for tag, _, whole in _elements(signed)]
    if elements and elements[0][0] == _VERSION:
        del elements[0]
    # serialNumber, signature, issuer
    if [tag for tag, _ in elements[:3]] != [_INTEGER, _SEQUENCE, _SEQUENCE]:
        raise ValueError("no certificate")
    return hashlib.sha256(elements[2][1] + elements[0][1]).digest()


def _content(text: bytes) -> bytes:
    """Of the sequence that it begins with."""
    tag, content, _ = next(_elements(text), (0, b"", b""))
    if tag != _SEQUENCE:
        raise ValueError("no certificate")
    return content


def _elements(text: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Tag, content and whole of each element; DER's lengths are definite (X.690 §10.1)."""
    at = 0
    while at < len(text):
        head = text[at : at + 2]
        if len(head) < 2:
            raise ValueError("cut short")
        start, size = at + 2, head[1]
        if size & 0x80:
            start, size = start + (size & 0x7F), int.from_bytes(text[start : start + (size & 0x7F)], "big")
        end = start + size
        if end > len(text):
            raise ValueError("cut short")
        yield head[0], text[start:end], text[at:end]
        at = end


def _element(tag: int, content: bytes) -> bytes:
    """A short one."""
    return bytes((tag, len(content))) + content
