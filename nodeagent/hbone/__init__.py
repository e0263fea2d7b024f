# SPDX-License-Identifier: Apache-2.0
"""HTTP/2 CONNECT streams over a byte stream: frames, windows, headers. Sans-I/O: no socket, no TLS, no clock.

Payload is never copied here: the sender lets it land behind gaps for the frame headers, the receiver is handed slices.
"""
