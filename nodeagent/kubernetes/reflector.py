# SPDX-License-Identifier: Apache-2.0
"""The conversation that keeps a copy of one kind of objects true: list, watch, resume, list again. Sans-I/O.

    begin          list: any state that the server has (resourceVersion=0), whole or in pages of LIST_LIMIT; after a
                   predecessor none that is older than what it had seen
    listed whole   watch from the version of the list, with bookmarks
    event          its version is where the next watch begins; a bookmark moves that alone
    end, cut       watch again from there: nothing is missed, an event that was half sent comes again
    410, Expired   the server has forgotten that version, of a watch or of a page: list anew, the newest state
    504, 400       the server does not come to the version that the first list has to have: the same
    nonsense       the same: what cannot be read may have been a change

After a list everything that is not in it is gone. Source: "Efficient detection of changes" of the Kubernetes API
concepts, and the reflector of client-go.
"""

from dataclasses import dataclass
from urllib.parse import urlencode

from nodeagent.errors import ControlPlaneError
from nodeagent.kubernetes.objects import BadAnswer, KubeObject, Status, read_event, read_page

LIST_LIMIT = 500
"""Objects a page, as client-go has it."""
WATCH_SECONDS = 300
"""After which the server ends a watch, drawn up to twice as long so that agents do not come in step."""
GONE = 410
_ANY_OR_NEWEST = frozenset({"0", ""})
"""With another version the server's cache answers in one page or not at all, as client-go knows, too."""
_TOO_NEW = frozenset({400, 504})
"""Answers to a version that the server has not come to within its patience (its data may be a backup's), or does not
take for one."""
_CHANGES = frozenset({"ADDED", "MODIFIED"})


class Expired(ControlPlaneError):
    """Nothing is wrong: the conversation begins anew."""

    check = "The API server keeps its history for minutes; the agent lists again by itself."


class WatchRefused(ControlPlaneError):
    """In the middle of a watch that had been accepted. It goes on from the last version."""

    check = "The API server's own log says why; the agent tries again by itself."


@dataclass(frozen=True)
class Ask:
    target: str
    """Path and query."""
    is_watch: bool


@dataclass(frozen=True)
class Replaced:
    """These are all that there are."""

    objects: tuple[KubeObject, ...]


@dataclass(frozen=True)
class Changed:
    object: KubeObject


@dataclass(frozen=True)
class Removed:
    object: KubeObject


Change = Replaced | Changed | Removed


class Reflector:
    def __init__(self, path: str, **selection: str) -> None:
        """`selection`: query parameters of both list and watch, such as fieldSelector."""
        self._path, self._selection = path, selection
        self._version, self._oldest = "", "0"
        """Where the next watch begins, empty: list; and how old a list may be, 0: as it likes, empty: not at all."""
        self._continue = ""
        self._collected: list[KubeObject] = []
        self.last = ""
        """Version of what was told last; empty before the first list."""

    def begin_at(self, version: str) -> None:
        """Before the first question. `version`: the `last` of a predecessor; empty: there was none."""
        self._oldest = version or "0"

    def ask(self, pick: float) -> Ask:
        """What to ask for next. `pick` of [0, 1) spreads the ends of watches."""
        if self._version:
            wanted = {
                "watch": "1",
                "allowWatchBookmarks": "true",
                "resourceVersion": self._version,
                "timeoutSeconds": str(WATCH_SECONDS + int(pick * WATCH_SECONDS)),
            }
            return Ask(f"{self._path}?{urlencode(self._selection | wanted)}", is_watch=True)
        wanted = {"limit": str(LIST_LIMIT)}
        if self._continue:
            wanted["continue"] = self._continue  # of the version of the first page: none may be named
        else:
            wanted = wanted if self._oldest in _ANY_OR_NEWEST else {"resourceVersionMatch": "NotOlderThan"}
            wanted |= {"resourceVersion": self._oldest} if self._oldest else {}
            self._collected = []
        return Ask(f"{self._path}?{urlencode(self._selection | wanted)}", is_watch=False)

    def listed(self, body: bytes) -> Replaced | None:
        """A page; None when more are to come. Raises BadAnswer."""
        page = read_page(body)
        self._collected += page.items or ()
        self._continue = page.metadata.continue_ or ""
        if self._continue:
            return None
        if not page.metadata.resource_version:
            raise BadAnswer(f"the list of {self._path} has no resourceVersion")
        self._version = self.last = page.metadata.resource_version
        found, self._collected = tuple(self._collected), []
        return Replaced(found)

    def told(self, line: bytes) -> Changed | Removed | None:
        """An event of the watch; None for a bookmark. Raises BadAnswer, Expired or WatchRefused: the watch is over."""
        try:
            kind, about = read_event(line)
        except BadAnswer:
            self.restart()
            raise
        if isinstance(about, Status):
            if about.code == GONE or about.reason == "Expired":
                self.restart()
                raise Expired(f"watching {self._path}: {about.message or 'the version is too old'}")
            raise WatchRefused(f"watching {self._path}: {about.message or about.reason} ({about.code})")
        self._version = self.last = about.metadata.resource_version or self._version
        if kind in _CHANGES:
            return Changed(about)
        return Removed(about) if kind == "DELETED" else None

    def refused(self, status: int) -> None:
        """The last question was, with this status of HTTP."""
        is_first = not self._version and self._oldest not in _ANY_OR_NEWEST
        if status == GONE or (is_first and status in _TOO_NEW):
            self.restart()

    def restart(self) -> None:
        """The next question is for a list, of the newest state: any other could be what was too old."""
        self._version = self._oldest = self._continue = ""
