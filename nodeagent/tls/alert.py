# SPDX-License-Identifier: Apache-2.0
"""The words of TLS for how a connection ends (RFC 8446 §6), by their numbers on the wire."""

import enum


class Alert(enum.IntEnum):
    CLOSE_NOTIFY = 0
    UNEXPECTED_MESSAGE = 10
    BAD_RECORD_MAC = 20
    RECORD_OVERFLOW = 22
    HANDSHAKE_FAILURE = 40
    BAD_CERTIFICATE = 42
    UNSUPPORTED_CERTIFICATE = 43
    CERTIFICATE_REVOKED = 44
    CERTIFICATE_EXPIRED = 45
    CERTIFICATE_UNKNOWN = 46
    ILLEGAL_PARAMETER = 47
    UNKNOWN_CA = 48
    ACCESS_DENIED = 49
    DECODE_ERROR = 50
    DECRYPT_ERROR = 51
    PROTOCOL_VERSION = 70
    INSUFFICIENT_SECURITY = 71
    INTERNAL_ERROR = 80
    INAPPROPRIATE_FALLBACK = 86
    USER_CANCELED = 90
    MISSING_EXTENSION = 109
    UNSUPPORTED_EXTENSION = 110
    UNRECOGNIZED_NAME = 112
    BAD_CERTIFICATE_STATUS_RESPONSE = 113
    UNKNOWN_PSK_IDENTITY = 115
    CERTIFICATE_REQUIRED = 116
    NO_APPLICATION_PROTOCOL = 120

    @property
    def content(self) -> bytes:
        """Of its record. The level is for older versions: it follows from the number (§6)."""
        warns = self in {Alert.CLOSE_NOTIFY, Alert.USER_CANCELED}
        return bytes((1 if warns else 2, self))


def words_of(number: int) -> str:
    """For people, and for numbers that no RFC has named as well."""
    try:
        return Alert(number).name.lower().replace("_", " ")
    except ValueError:
        return f"alert {number}"
