# SPDX-License-Identifier: Apache-2.0
"""What the token for the control plane says of itself, for `nodeagent check`: read, not verified, and never printed.

Who made it, and whether that is trusted, only the control plane knows.
"""

import binascii
import datetime as dt
from base64 import urlsafe_b64decode
from pathlib import Path

import msgspec

from nodeagent.controlplane.token import AUDIENCE
from nodeagent.kernel.probe import Probe
from nodeagent.model.check import Check

SKEW_SECONDS = 60
"""A clock that is as much behind has no other consequence."""
_RENEWED = "The kubelet renews a projected token; one of `nodeagent token` has to be made again. Is the clock right?"
_PARTS = 3
_LONGEST_PATH = 4096


class Claims(msgspec.Struct, frozen=True):
    """RFC 7519, section 4.1; each may be missing."""

    aud: str | list[str] | None = None
    exp: float | None = None
    nbf: float | None = None
    iat: float | None = None


def token(path: str, *, is_expected: bool, now: float) -> Probe:
    """`is_expected`: an agent is known to use this file. `now`: seconds of the epoch."""
    try:
        text = Path(path).read_text(encoding="ascii").strip()
    except FileNotFoundError:
        evidence = f"no file {_place(path)}"
        return Probe(Check.TOKEN, not is_expected, evidence, "Name it with --token, as of the agent.", is_needed=False)
    except OSError as error:
        evidence = f"{_place(path)}: {error.strerror}"
        return Probe(Check.TOKEN, ok=False, evidence=evidence, advice="May the agent read it?", is_needed=False)
    except UnicodeDecodeError:
        text = ""
    claims = read_claims(text)
    if claims is None:
        evidence = f"{path} has no JWT: what it says is not known"
        return Probe(Check.TOKEN, bool(text), evidence, "A bearer token is expected there.", is_needed=False)
    return judge(claims, now)


def _place(path: str) -> str:
    """A token itself may stand where its file should be named: only what lies in a folder that exists is printed."""
    folder = Path(path).parent
    is_path = "/" in path.strip("/") and len(path) < _LONGEST_PATH and folder.is_dir()
    return path if is_path else "as --token or AUTH_TOKEN names it"


def read_claims(text: str) -> Claims | None:
    """None when it is no JWT with claims as RFC 7519 has them."""
    parts = text.split(".")
    if len(parts) != _PARTS:
        return None
    try:
        return msgspec.json.decode(urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)), type=Claims)
    except (binascii.Error, ValueError, RecursionError, msgspec.MsgspecError):
        return None


def judge(claims: Claims, now: float) -> Probe:
    """Expired it is refused by everybody. Other audiences than Istio's a control plane may have been told to take."""
    if claims.exp is not None and claims.exp <= now:
        evidence = f"ended at {_moment(claims.exp)}, {now - claims.exp:.9g} s ago"
        return Probe(Check.TOKEN, ok=False, evidence=evidence, advice=_RENEWED)
    made = max(claims.iat or 0.0, claims.nbf or 0.0)
    if made > now + SKEW_SECONDS:
        evidence = f"made {made - now:.9g} s from now, at {_moment(made)}: this node's clock is behind"
        return Probe(Check.TOKEN, ok=False, evidence=evidence, advice="Does it follow a time server?", is_needed=False)
    audiences = [claims.aud] if isinstance(claims.aud, str) else claims.aud or []
    ends = f"ends at {_moment(claims.exp)}" if claims.exp is not None else "does not end"
    return Probe(
        Check.TOKEN,
        AUDIENCE in audiences,
        f"for {', '.join(audiences) or 'nobody in particular'}, {ends}",
        f"An istiod takes tokens for {AUDIENCE} unless it is told otherwise: audience of the projected volume.",
        is_needed=False,
    )


def _moment(seconds: float) -> str:
    try:
        return f"{dt.datetime.fromtimestamp(seconds, dt.UTC):%Y-%m-%dT%H:%M:%SZ}"
    except (OverflowError, ValueError, OSError):  # any number is a valid claim
        return f"{seconds:g} s"
