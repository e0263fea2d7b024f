# SPDX-License-Identifier: Apache-2.0
"""Changes of the directory are told by file, soon, and never before a file is complete."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from nodeagent.controlplane.watch import DirectoryWatch

WITHIN_SECONDS = 60
"""Only for what fails."""
NextChange = Callable[[], Awaitable[list[str] | None]]
"""Names in order; None: look at everything."""


@asynccontextmanager
async def watching(
    directory: Path, *, allows_inotify: bool = True
) -> AsyncIterator[Callable[[], Awaitable[list[str] | None]]]:
    watch = DirectoryWatch(directory, allows_inotify=allows_inotify)

    async def changed() -> list[str] | None:
        async with asyncio.timeout(WITHIN_SECONDS):
            names = await watch.changed()
        return None if names is None else sorted(names)

    try:
        yield changed
    finally:
        watch.close()


def test_each_way_to_change_a_file_is_told(tmp_path: Path) -> None:
    directory = tmp_path / "mesh.d"
    directory.mkdir()
    path = directory / "a.yaml"

    async def story() -> None:
        async with watching(directory) as changed:
            path.write_text("x")
            assert await changed() == ["a.yaml"]
            path.write_text("y")
            assert await changed() == ["a.yaml"]
            (directory / "a.yaml.tmp").write_text("z")
            (directory / "a.yaml.tmp").rename(path)
            assert await changed() == ["a.yaml"]
            path.rename(directory / "b.yaml")
            assert await changed() == ["a.yaml", "b.yaml"]
            (directory / "b.yaml").unlink()
            assert await changed() == ["b.yaml"]
            (directory / "c.yaml").symlink_to(tmp_path / "elsewhere")
            assert await changed() == ["c.yaml"]

    asyncio.run(story())


def test_a_file_is_told_when_its_writer_has_closed_it(tmp_path: Path) -> None:
    async def story() -> None:
        async with watching(tmp_path) as changed:
            with (tmp_path / "slow.yaml").open("w") as slow:
                slow.write("half")
                slow.flush()
                (tmp_path / "fast.yaml").write_text("whole")
                assert await changed() == ["fast.yaml"]
            assert await changed() == ["slow.yaml"]

    asyncio.run(story())


def test_other_files_are_not_told(tmp_path: Path) -> None:
    async def story() -> None:
        async with watching(tmp_path) as changed:
            for name in (".a.yaml.swp", "4913", "a.yaml~", "notes.txt"):
                (tmp_path / name).write_text("x")
            (tmp_path / "b.yaml").write_text("x")
            assert await changed() == ["b.yaml"]

    asyncio.run(story())


def test_a_swapped_directory_is_looked_at_as_a_whole(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    link = tmp_path / "mesh.d"
    link.symlink_to("one")

    async def story() -> None:
        async with watching(link) as changed:
            (tmp_path / "next").symlink_to("two")
            (tmp_path / "next").rename(link)
            assert await changed() is None
            (tmp_path / "two" / "a.yaml").write_text("x")
            assert await changed() == ["a.yaml"]

    asyncio.run(story())


def test_a_directory_may_go_and_come_back(tmp_path: Path) -> None:
    directory = tmp_path / "mesh.d"
    directory.mkdir()

    async def story() -> None:
        async with watching(directory) as changed:
            directory.rmdir()
            assert await changed() is None
            directory.mkdir()
            while await changed() is None and not (directory / "a.yaml").exists():
                (directory / "a.yaml").write_text("x")

    asyncio.run(story())


def test_a_mounted_configmap_swaps_its_data_behind_the_files(tmp_path: Path) -> None:
    for generation in ("..1", "..2"):
        (tmp_path / generation).mkdir()
        (tmp_path / generation / "a.yaml").write_text(generation)
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "a.yaml").symlink_to("..data/a.yaml")

    async def story() -> None:
        async with watching(tmp_path) as changed:
            (tmp_path / "..data_tmp").symlink_to("..2")
            (tmp_path / "..data_tmp").rename(tmp_path / "..data")
            assert await changed() is None

    asyncio.run(story())


@pytest.mark.parametrize("allows_inotify", [True, False])
def test_polling_tells_the_same(tmp_path: Path, *, allows_inotify: bool) -> None:
    async def story() -> None:
        async with watching(tmp_path, allows_inotify=allows_inotify) as changed:
            (tmp_path / "a.yaml").write_text("x")
            assert await changed() == ["a.yaml"]
            (tmp_path / "a.yaml").unlink()
            assert await changed() == ["a.yaml"]

    asyncio.run(story())
