# SPDX-License-Identifier: Apache-2.0
"""The one error of the decoders."""

from nodeagent.errors import ControlPlaneError

MAX_REASON_TEXT = 200
"""Characters: reasons quote what the control plane sent."""


class BadResource(ControlPlaneError):
    """A resource that cannot be used: it is refused by name, the rest of its response is applied."""

    check = "The control plane sent it: do its version and this agent's agree? `nodeagent status` counts refusals."

    def __init__(self, name: str, reason: str) -> None:
        self.name = name if name.isprintable() else repr(name)
        self.reason = reason if len(reason) <= MAX_REASON_TEXT else f"{reason[:MAX_REASON_TEXT]}..."
        super().__init__(f"{self.name}: {self.reason}")
