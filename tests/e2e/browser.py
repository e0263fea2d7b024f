# SPDX-License-Identifier: Apache-2.0
"""A headless Chromium, driven by its debugging pipe: JSON messages, each ended by a NUL, and no library between."""

import base64
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nodeagent.lab.demo.claims import eventually
from nodeagent.lab.ready import readable

PROGRAM = "chromium"
WITHIN_SECONDS = 120.0
_QUIET = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-sandbox",  # it refuses to run as root with one, and sees nothing but this project's own page
    "--no-first-run",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # whatever it thinks of by itself, it does not find
    "--window-size=1280,1500",
)
_BEGIN = 'exec "$0" "$@" 3<&"$IN" 4>&"$OUT"'


class Browser:
    """One page. Whatever it complains about is in `complaints`."""

    def __init__(self, to: int, answers: int) -> None:
        self._to, self._answers = to, answers
        self._received = b""
        self._last = 0
        self._session = ""
        self.complaints: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for part in ("Page", "Runtime", "Log"):
            self.call(f"{part}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Raises AssertionError when the browser refuses or says nothing."""
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._last:
                assert "error" not in answer, f"{method}: {answer['error']}"
                result: dict[str, Any] = answer["result"]
                return result
            self._note(answer)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._received:
            assert readable([self._answers], WITHIN_SECONDS), "the browser says nothing"
            some = os.read(self._answers, 1 << 16)
            assert some, "the browser has ended"
            self._received += some
        message, _, self._received = self._received.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found

    def _note(self, event: dict[str, Any]) -> None:
        match event.get("method"):
            case "Runtime.exceptionThrown":
                details = event["params"]["exceptionDetails"]
                self.complaints.append(details.get("exception", {}).get("description", details["text"]))
            case "Log.entryAdded" if event["params"]["entry"]["level"] == "error":
                self.complaints.append(event["params"]["entry"]["text"])
            case _:
                pass

    def visit(self, url: str) -> None:
        self.call("Page.navigate", url=url)

    def evaluate(self, expression: str) -> Any:
        """The value of JavaScript in the page, a promise awaited."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, expression: str, words: str) -> None:
        eventually(lambda: bool(self.evaluate(expression)), WITHIN_SECONDS, words)

    def picture(self, path: Path) -> None:
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(shot["data"]))


@contextlib.contextmanager
def browsing() -> Iterator[Browser]:
    """Ends with the block, and takes its profile along."""
    program = shutil.which(PROGRAM)
    assert program is not None, f"there is no {PROGRAM}: `make test` installs it"
    to_read, to_write = os.pipe()
    from_read, from_write = os.pipe()
    with tempfile.TemporaryDirectory(prefix="nodeagent-browser-", ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            ["bash", "-c", _BEGIN, program, *_QUIET, f"--user-data-dir={profile}"],
            env=os.environ | {"IN": str(to_read), "OUT": str(from_write), "HOME": profile},
            pass_fds=(to_read, from_write),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=None if "-s" in sys.argv else subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(from_write)
        try:
            browser = Browser(to_write, from_read)
            yield browser
            with contextlib.suppress(AssertionError):  # it may be gone before it has answered
                browser.call("Browser.close")
        finally:
            os.close(to_write)  # the end of its pipe is an order to leave
            try:
                process.wait(WITHIN_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            os.close(from_read)
