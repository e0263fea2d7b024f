# SPDX-License-Identifier: Apache-2.0
"""Puts the CNI plugin on a node, keeps it there, and takes it away again; never touches what is another's.

A file is written beside its place and renamed into it, so whoever reads it finds the former one or the whole of this
one, also after a crash. Just before, it is read once more: what its owner has written meanwhile is not taken away, but
changed in its turn. That leaves the time of two system calls, and nothing to lock that its owner would heed. The
program comes before the list that names it: by one that names a program which is not there
no pod starts.
"""

import asyncio
import contextlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from nodeagent.errors import ConfigError, ControlPlaneError, MissingPrivilege, NodeagentError, NotPossible
from nodeagent.kubernetes.api import ApiRefused, ApiServer
from nodeagent.kubernetes.conflist import PLUGIN, SUFFIXES, BadConflist, Entry, in_force, with_plugin, without_plugin
from nodeagent.kubernetes.objects import read_object

LOOK_SECONDS = 0.2
"""Between looks whether anything was changed, a few stat(2) each: as long a pod may start unasked, when another plugin
has written its list anew."""
RETRY_SECONDS = 1.0
ATTEMPTS = 5
"""To change a list before its owner does so again; after that there is another look."""
QUESTIONS, QUESTION_SECONDS = 3, 5.0
"""Whether the DaemonSet is being removed is asked within the grace period of a pod."""
CERTAIN_REFUSALS = 30
"""In a row, RETRY_SECONDS apart: an API server that starts may know no role for some seconds."""
_TEMPORARY = f".{PLUGIN}-"
"""What such a name begins with; no runtime takes it for a list."""
_GONE = 404
_SHUT_OUT = frozenset({401, 403})
"""The account or its role has been removed with the DaemonSet, or is of another moment: an API server that starts or a
token webhook that is away says so, too. Also what a token is told whose pod was deleted by force."""

log = logging.getLogger(__name__)


class NotInstalled(NotPossible):
    check = "`nodeagent cni install` keeps it there; its log says what stands in the way."


class CniPlugin:
    def __init__(self, program: Path, entry: Entry, net_dir: Path, bin_dir: Path) -> None:
        """`program`: what is put into `bin_dir`. `entry`: what is put into the list of `net_dir` that is in force."""
        self._program, self._entry, self._net_dir, self._bin_dir = program, entry, net_dir, bin_dir
        self._seen: object = None
        self._error = ""

    # ---- once ------------------------------------------------------------------------------------------------------

    def install(self) -> list[str]:
        """What was done, in words. Raises NotPossible, or ConfigError for a list that is none."""
        with _explained():
            return [*self._put_program(), *self._put_entry()]

    def uninstall(self, *, is_whole: bool = False) -> list[str]:
        """Out of the lists, so nothing is held any more. What was done, in words. Raises as `install`.

        The program stays unless `is_whole`: CRI-O remembers the list by which it has started a pod, and runs the
        plugins of that list when it removes the pod. Without one of them it could not.
        """
        with _explained():
            done = [f"removed {PLUGIN} from {path}" for path in self._lists() if self._take_entry(path)]
            program = [self._bin_dir / PLUGIN] if is_whole and (self._bin_dir / PLUGIN).exists() else []
            for path in (*program, *self._left_over()):
                path.unlink(missing_ok=True)
                done.append(f"removed {path}")
            return done

    def check(self) -> None:
        """Raises NotInstalled, or as `install`."""
        with _explained():
            if not self._has_program():
                raise NotInstalled(f"{self._bin_dir / PLUGIN} is missing, or of another release")
            path = self._list_in_force()
            text = path.read_bytes()
            if self._wanted(path, text) != text:
                raise NotInstalled(f"{path} lacks {PLUGIN}, or has it with other settings")

    # ---- for as long as it runs --------------------------------------------------------------------------------------

    async def keep(self) -> None:
        """Until cancelled. What stands in the way is logged when it comes, and tried again. Raises as `install`."""
        with _explained():
            for path in self._left_over():
                path.unlink(missing_ok=True)
        while True:
            self.look()
            await asyncio.sleep(LOOK_SECONDS)

    def look(self) -> None:
        seen = self._stamp()
        if seen == self._seen and not self._error:
            return
        try:
            done = self.install()
        except NodeagentError as error:
            if str(error) != self._error:
                log.error("%s; tried again. %s", error, error.check)
            self._error = str(error)
            return
        for words in done:
            log.info(words)
        if self._error:
            log.info("%s is in force again", PLUGIN)
        # Of before this look, or none after a change: what others changed meanwhile differs from it at the next one.
        self._error, self._seen = "", None if done else seen

    # ---- files -----------------------------------------------------------------------------------------------------

    def _has_program(self) -> bool:
        path = self._bin_dir / PLUGIN
        return path.exists() and path.read_bytes() == self._program.read_bytes() and os.access(path, os.X_OK)

    def _put_program(self) -> Iterator[str]:
        if not self._has_program():
            _replace(self._bin_dir / PLUGIN, self._program.read_bytes(), 0o755)
            yield f"wrote {self._bin_dir / PLUGIN}"

    def _put_entry(self) -> Iterator[str]:
        path = self._list_in_force()
        if _rewrite(path, lambda text: self._wanted(path, text)):
            yield f"added {PLUGIN} to {path}"
        for other in self._lists():
            if other != path and self._take_entry(other):
                yield f"removed {PLUGIN} from {other}, which is not in force"

    def _wanted(self, path: Path, text: bytes) -> bytes:
        try:
            return with_plugin(text, self._entry)
        except BadConflist as error:
            raise BadConflist(f"{path}: {error}", check=error.check) from error

    def _take_entry(self, path: Path) -> bool:
        """False when it is not there."""
        if path.is_symlink():
            return False  # nor was ours put behind it
        try:
            return _rewrite(path, without_plugin)
        except BadConflist:
            return False  # nor was ours put into it

    def _lists(self) -> list[Path]:
        """What the runtime takes for one, be it a link that leads nowhere."""
        names = (path for path in self._net_dir.iterdir() if path.name.endswith(SUFFIXES))
        return sorted(path for path in names if path.is_file() or path.is_symlink())

    def _list_in_force(self) -> Path:
        name = in_force(path.name for path in self._lists())
        if name is None:
            raise NotPossible(
                f"no list of CNI plugins in {self._net_dir}",
                check="Has the node's CNI been installed, and is this the directory that the container runtime reads?",
            )
        path = self._net_dir / name
        if path.is_symlink():
            raise NotPossible(
                f"{path} is a symbolic link, to {path.readlink()}",
                check="Give the runtime the list itself: where a link leads on the node need not be seen from here, "
                "and a file in its place would part the runtime from what the list's owner writes.",
            )
        return path

    def _left_over(self) -> list[Path]:
        return [path for place in (self._net_dir, self._bin_dir) for path in place.glob(f"{_TEMPORARY}*")]

    def _stamp(self) -> object:
        """Changes whenever what is kept may not be so any more."""
        try:
            paths = [*self._lists(), self._bin_dir / PLUGIN]
            stats = [(path, path.lstat()) for path in paths]
        except OSError as error:
            return error.errno, error.filename
        return [(path, one.st_ino, one.st_size, one.st_mtime_ns, one.st_mode) for path, one in stats]


async def confirm(api: ApiServer, daemon_set: str) -> None:
    """Returns when the API has told of the DaemonSet. Raises ApiRefused when it is not there, or not for this account.

    Who could not tell an upgrade from a removal must not stay. An API that is away is waited for.
    """
    told, shut_out = "", 0
    while True:
        try:
            await is_kept(api, daemon_set)
        except ControlPlaneError as error:
            status = error.status if isinstance(error, ApiRefused) else 0
            shut_out = shut_out + 1 if status in _SHUT_OUT else 0
            if status == _GONE or shut_out == CERTAIN_REFUSALS:
                raise
            if str(error) != told:
                log.warning("%s. %s", error, error.check)
            told = str(error)
            await asyncio.sleep(RETRY_SECONDS)
        else:
            return


def parse_name(daemon_set: str) -> tuple[str, str]:
    """Namespace and name. Raises ConfigError."""
    namespace, _, name = daemon_set.partition("/")
    if not namespace or not name or "/" in name:
        raise ConfigError(f"{daemon_set!r} is no DaemonSet", check="Expected: namespace/name.")
    return namespace, name


async def is_kept(api: ApiServer, daemon_set: str) -> bool:
    """Whether the DaemonSet `namespace/name` is there and stays. Raises ControlPlaneError, and as `parse_name`."""
    namespace, name = parse_name(daemon_set)
    found = read_object(await api.fetch(f"/apis/apps/v1/namespaces/{namespace}/daemonsets/{name}"))
    return not found.is_terminating


async def is_removed(api: ApiServer, daemon_set: str) -> bool:
    """Asked by one that is told to stop. False in doubt: then the plugin stays, and holds pods until a successor.

    That this account is shut out is doubt, unless nothing else is said: its role may have been removed first.
    """
    shut_out = 0
    for attempt in range(QUESTIONS):
        try:
            async with asyncio.timeout(QUESTION_SECONDS):
                return not await is_kept(api, daemon_set)
        except ApiRefused as error:
            if error.status == _GONE:
                return True
            shut_out += error.status in _SHUT_OUT
            log.warning("asking for DaemonSet %s: %s", daemon_set, error)
        except (ControlPlaneError, TimeoutError) as error:
            log.warning("asking for DaemonSet %s: %s", daemon_set, str(error) or "no answer in time")
        if attempt < QUESTIONS - 1:
            await asyncio.sleep(RETRY_SECONDS)
    return shut_out == QUESTIONS


def _rewrite(path: Path, change: Callable[[bytes], bytes]) -> bool:
    """False when there is nothing to change. Raises what `change` does, NotPossible and OSError."""
    for _ in range(ATTEMPTS):
        text = path.read_bytes()
        wanted = change(text)
        if wanted == text:
            return False
        if _replace(path, wanted, path.stat().st_mode & 0o777, expected=text):
            return True
    raise NotPossible(f"{path} is written anew all the time", check="Does another program take turns with this one?")


def _replace(path: Path, content: bytes, mode: int, *, expected: bytes | None = None) -> bool:
    """False when there is something else than what was `expected`; None: whatever there is."""
    descriptor, beside = tempfile.mkstemp(prefix=_TEMPORARY, dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        if expected is None or path.read_bytes() == expected:
            Path(beside).replace(path)
            return True
    except OSError:
        with contextlib.suppress(OSError):
            Path(beside).unlink()
        raise
    Path(beside).unlink()
    return False


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise MissingPrivilege(
            f"{error.filename}: {error.strerror}", check="Is it root's, and mounted writable?"
        ) from error
    except OSError as error:
        raise NotPossible(
            f"{error.filename}: {error.strerror}",
            check="Are these the directories of the node's CNI: --net-dir, --bin-dir?",
        ) from error
