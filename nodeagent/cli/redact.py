# SPDX-License-Identifier: Apache-2.0
"""Takes secrets out of text that shall leave the node. Pure.

Nothing of ours writes a key or a token anywhere; what operators add (a log, a configuration) may have any. What looks
like one goes: private keys in PEM, whole or cut off, also as one line of JSON; tokens (JWT); what follows `Bearer`; and
long runs of base64, which may be a key without its frame. Certificates stay, since they are public.
"""

import re

_PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\Z)", re.DOTALL
)
_REST_OF_KEY = re.compile(r"\A.*-----END [A-Z0-9 ]*PRIVATE KEY-----", re.DOTALL)
"""Of one whose beginning was cut off; looked for when whole ones are gone."""
_TOKEN = re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]*)?")
_BEARER = re.compile(r"(?i)(\bbearer[ \t]+)(?!\[)\S+")
_CERTIFICATE = re.compile(r"(-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----)", re.DOTALL)
_RUN = re.compile(r"[A-Za-z0-9+/_-]{100,}={0,2}")
_PART = re.compile(r"[A-Za-z0-9_-]{100,}={0,2}")
"""Of a run that has signs of both alphabets of base64, so is none as a whole: a path, of which one part may be."""


def redact(text: str) -> tuple[str, int]:
    """The text without what looks like a secret, and how often something was taken out."""
    count = 0
    for pattern, words in (
        (_PRIVATE_KEY, "[private key]"),
        (_REST_OF_KEY, "[private key]"),
        (_TOKEN, "[token]"),
        (_BEARER, r"\1[token]"),
    ):
        text, found = pattern.subn(words, text)
        count += found
    parts = _CERTIFICATE.split(text)
    for number in range(0, len(parts), 2):  # the others are certificates
        parts[number], found = _without_runs(parts[number])
        count += found
    return "".join(parts), count


def _without_runs(text: str) -> tuple[str, int]:
    count = 0

    def replaced(run: re.Match[str]) -> str:
        nonlocal count
        is_path = not {"-", "_"}.isdisjoint(run[0]) and not {"+", "/"}.isdisjoint(run[0])
        made, found = _PART.subn("[base64]", run[0]) if is_path else ("[base64]", 1)
        count += found
        return made

    return _RUN.sub(replaced, text), count
