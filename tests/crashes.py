# SPDX-License-Identifier: Apache-2.0
"""Kills a process with SIGKILL at each line that a write of state consists of, and looks at what is left.

A process of its own: it forks, which a test run with threads must not. `python -m tests.crashes xds DIRECTORY` for the
agent's last good state, `control-plane` for the control plane's; it prints at how many lines it has killed.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from nodeagent.controlplane.catalog import Accepted, Catalog, Content, admit
from nodeagent.controlplane.last_good import LastGood as Documents
from nodeagent.controlplane.objects import Key
from nodeagent.controlplane.state import StateDirectory
from nodeagent.model.mesh import Changes
from nodeagent.model.workload import Workload
from nodeagent.xds import saved, store
from nodeagent.xds.delta import LastGood, Step

_NOW = 1_800_000_000.0


def kill_at_each_line(act: Callable[[], object], within: set[CodeType]) -> Iterator[int]:
    """Yields after each death, with the number of the line that was to come next; ends when `act` lives through it."""
    number = 0
    while True:
        number += 1
        child = os.fork()
        if child == 0:
            _die_at(number, within)
            act()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            return
        assert os.WTERMSIG(status) == signal.SIGKILL
        yield number


def _die_at(number: int, within: set[CodeType]) -> None:
    lines = 0

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal lines
        if frame.f_code not in within:
            return None
        if event == "line":
            lines += 1
            if lines == number:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)


def xds(directory: Path) -> int:
    """The old state or the new one, whole; nothing else is ever believed, and the next write works.

    A whole state is written, and one to which a change is appended.
    """
    path = str(directory / "state")
    old, new = _last_good("old"), _last_good("new" * 100_000)
    step = Step(new, removed_addresses=("old",))

    def save() -> None:
        store.Store(path, cluster="c", node="node-a").save(new, _NOW)

    def append() -> None:
        successor = store.Store(path, cluster="c", node="node-a")
        successor.save(old, _NOW)
        successor.append(step, _NOW)

    steps = {store._write.__code__, store._sync_directory.__code__}
    wholes = steps | {store.Store.save.__code__, saved.encode_whole.__code__}
    appends = steps | {store.Store.append.__code__, saved.encode_step.__code__}
    acts = (save, wholes), (append, appends)
    return sum(_killed_at_each_line(path, act, within, (old, new)) for act, within in acts)


def _killed_at_each_line(
    path: str, act: Callable[[], object], within: set[CodeType], states: tuple[LastGood, LastGood]
) -> int:
    kept, lines, seen = store.Store(path, cluster="c", node="node-a"), 0, set()
    old, new = states
    kept.save(old, _NOW)
    for lines in kill_at_each_line(act, within):
        found = kept.load(_NOW)
        assert found is not None, f"line {lines}: nothing is left"
        assert found.last_good in states, f"line {lines}: neither the old nor the new"
        seen.add(found.last_good == new)
        kept.save(old, _NOW)
        assert [each.name for each in Path(path).parent.iterdir()] == ["state"], f"line {lines}: something was left"
    assert seen == {False, True}, "it was killed before it counted, and after it"
    return lines


def _last_good(name: str) -> LastGood:
    return LastGood(Changes(workloads=(Workload(uid=name, name=name, namespace="shop"),)), {name: "1"}, {})


def control_plane(directory: Path) -> int:
    """The old documents or the new ones; and the next write removes what a dead process has left.

    All of them are written, and a change is appended.
    """
    old, new = (_catalog(labels).objects for labels in ("{a: old}", "{a: new}"))

    def save() -> None:
        Documents(StateDirectory(directory)).save(new)

    def append() -> None:
        successor = Documents(StateDirectory(directory))
        successor.save(old)
        successor.save(new)

    writes = {StateDirectory.write.__code__, StateDirectory._sync.__code__}
    appends = writes | {StateDirectory.append.__code__, Documents.save.__code__, Documents._append.__code__}
    return _killed_while_saving(directory, save, writes, old) + _killed_while_saving(directory, append, appends, old)


def _killed_while_saving(
    directory: Path, act: Callable[[], None], within: set[CodeType], old: Mapping[Key, Accepted]
) -> int:
    lines, seen = 0, set()
    Documents(StateDirectory(directory)).save(old)
    for lines in kill_at_each_line(act, within):
        kept = Documents(StateDirectory(directory))
        label = kept.load().objects[Key("Node", "", "node")].value.meta.labels["a"]
        assert label in {"old", "new"}, f"line {lines}"
        seen.add(label)
        kept.save(old)
        assert [path.name for path in directory.iterdir()] == ["last-good.jsonl"], f"line {lines}: a scratch is left"
    assert seen == {"old", "new"}
    return lines


def _catalog(labels: str) -> Catalog:
    text = f"apiVersion: v1\nkind: Node\nmetadata: {{name: node, labels: {labels}}}\n"
    return admit(Catalog(), {"a.yaml": Content("mesh.d/a.yaml", text)})


if __name__ == "__main__":
    print({"xds": xds, "control-plane": control_plane}[sys.argv[1]](Path(sys.argv[2])))
