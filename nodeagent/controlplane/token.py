# SPDX-License-Identifier: Apache-2.0
"""Bearer tokens that say which node asks: small JWTs (RFC 7519, HS256) signed with the state directory's token-key.

A token is for one node and expires; there is no list of tokens, so the way to withdraw them all is to remove token-key
and restart. Pure, but for the making of a key.
"""

import base64
import binascii
import hashlib
import hmac
import secrets

import msgspec

AUDIENCE = "istio-ca"
KEY_FILE = "token-key"
_ISSUER = "nodeagent-control-plane"
_KEY_BYTES = 32
# Compared whole, so that no header can choose another algorithm.
_HEADER = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').rstrip(b"=").decode()
_MAX_TOKEN_CHARACTERS = 4096


class TokenRefused(Exception):
    """Its text is for the control plane's log; the caller only learns that it was refused."""


class Claims(msgspec.Struct, frozen=True):
    iss: str
    sub: str
    aud: list[str]
    iat: int
    exp: int


def make_key() -> bytes:
    """For the file: hexadecimal, so that it survives editors."""
    return secrets.token_hex(_KEY_BYTES).encode()


def make_token(key: bytes, node: str, *, now: float, ttl_seconds: int) -> str:
    claims = Claims(_ISSUER, f"node:{node}", [AUDIENCE], int(now), int(now) + ttl_seconds)
    signed = f"{_HEADER}.{_encoded(msgspec.json.encode(claims))}"
    return f"{signed}.{_encoded(_sign(key, signed))}"


def verify_token(key: bytes, token: str, *, now: float) -> str:
    """The node's name. Raises TokenRefused."""
    signed, _, signature = token.rpartition(".")
    header, _, payload = signed.partition(".")
    if len(token) > _MAX_TOKEN_CHARACTERS or header != _HEADER:
        raise TokenRefused("not a token of this control plane")
    if not hmac.compare_digest(_sign(key, signed), _decoded(signature)):
        raise TokenRefused("its signature is wrong: was it made with another state directory?")
    try:
        claims = msgspec.json.decode(_decoded(payload), type=Claims)
    except msgspec.MsgspecError as error:
        raise TokenRefused(f"its claims cannot be read: {error}") from error
    kind, _, node = claims.sub.partition(":")
    if claims.iss != _ISSUER or AUDIENCE not in claims.aud or kind != "node" or not node:
        raise TokenRefused("it is for another purpose")
    if now >= claims.exp:
        raise TokenRefused(f"the token of node {node} expired {int(now) - claims.exp} s ago")
    return node


def _sign(key: bytes, signed: str) -> bytes:
    return hmac.new(key, signed.encode(errors="surrogateescape"), hashlib.sha256).digest()


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise TokenRefused("it is cut or garbled") from error
