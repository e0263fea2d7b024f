# SPDX-License-Identifier: Apache-2.0
"""The settings under several writers, and maps that are made again under listeners that stay."""

import socket
from pathlib import Path
from typing import Any, ClassVar

import pytest

from nodeagent.errors import KernelError
from nodeagent.kernel import tables as module
from nodeagent.kernel.codings import Settings
from nodeagent.kernel.listeners import ListenerKind
from nodeagent.kernel.maps import SLOTS
from nodeagent.kernel.pins import Pins
from nodeagent.kernel.tables import Tables


class Rows(dict[int, Any]):
    """In place of a map of the kernel."""

    writes = 0

    def put(self, key: int, value: Any) -> None:
        self[key] = value
        self.writes += 1

    def remove(self, key: int) -> None:
        self.pop(key, None)

    def find(self, key: int) -> Any:
        return self.get(key)


class Maps:
    """In place of the opened ones."""

    made: ClassVar[list["Maps"]] = []

    def __init__(self, _folder: Path) -> None:
        self.settings, self.listeners, self.is_closed = Rows(), Rows(), False
        self.made.append(self)

    def read_settings(self) -> Settings:
        settings: Settings = self.settings.get(0, Settings())
        return settings

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tables:
    monkeypatch.setattr(module, "Maps", Maps)
    monkeypatch.setattr(Maps, "made", [])
    made = Tables(Pins(tmp_path))
    made.open()
    return made


@pytest.fixture
def sock() -> Any:
    with socket.socket() as made:
        yield made


def settings_of(tables: Tables) -> Settings:
    return tables.maps.read_settings()


def test_before_they_are_open_there_is_nothing_to_read(tmp_path: Path) -> None:
    tables = Tables(Pins(tmp_path))
    assert tables.opened is None
    for read in (lambda: tables.maps, lambda: tables.verdicts, lambda: tables.services, lambda: tables.slots):
        with pytest.raises(KernelError, match="not open yet"):
            read()


def test_to_open_twice_is_to_open_once(tables: Tables) -> None:
    tables.open()
    assert len(Maps.made) == 1
    assert tables.verdicts is tables.verdicts
    assert tables.services is tables.services


def test_what_is_closed_is_not_read(tables: Tables) -> None:
    tables.close()
    tables.close()
    assert Maps.made[0].is_closed
    assert tables.opened is None


def test_settings_say_up_to_which_slot_there_are_listeners(tables: Tables, sock: socket.socket) -> None:
    tables.put_listener(ListenerKind.HBONE, 0, sock)
    tables.put_listener(ListenerKind.OUTBOUND, 2, sock)
    assert (tables.slots, settings_of(tables).slots) == (3, 3)
    tables.put_listener(ListenerKind.OUTBOUND, 2, None)
    assert (tables.slots, settings_of(tables).slots) == (1, 1)
    written = Maps.made[0].settings.writes
    tables.put_listener(ListenerKind.PLAINTEXT, 0, sock)
    assert Maps.made[0].settings.writes == written


@pytest.mark.parametrize("slot", [-1, SLOTS])
def test_a_slot_that_there_is_not(tables: Tables, sock: socket.socket, slot: int) -> None:
    with pytest.raises(ValueError, match="is not below"):
        tables.put_listener(ListenerKind.HBONE, slot, sock)


def test_planned_settings_keep_what_others_have_written_since(tables: Tables, sock: socket.socket) -> None:
    planned = settings_of(tables)._replace(secret=5, generation=1, slots=9, is_changing=0)
    tables.put_listener(ListenerKind.HBONE, 0, sock)
    Maps.made[0].settings.put(0, settings_of(tables)._replace(generation=4, is_changing=1))
    tables.put_settings(planned)
    assert settings_of(tables) == Settings(secret=5, generation=4, slots=1, is_changing=1)


def test_the_first_settings_bring_the_first_generation(tables: Tables) -> None:
    tables.put_settings(Settings(generation=1))
    assert settings_of(tables).generation == 1


def test_one_field_leaves_the_others(tables: Tables) -> None:
    tables.put_settings(Settings(secret=5))
    tables.set_settling(is_settling=True)
    tables.set_registry_only(is_registry_only=True)
    assert settings_of(tables) == Settings(secret=5, is_settling=1, registry_only=1)
    written = Maps.made[0].settings.writes
    tables.set_registry_only(is_registry_only=True)
    assert Maps.made[0].settings.writes == written


def test_maps_that_are_made_again_get_the_listeners_that_are_open(tables: Tables, sock: socket.socket) -> None:
    former, verdicts = tables.maps, tables.verdicts
    closed = socket.socket()
    tables.put_listener(ListenerKind.HBONE, 0, sock)
    tables.put_listener(ListenerKind.HBONE, 1, closed)
    closed.close()
    tables.open_again(former)
    assert [maps.is_closed for maps in Maps.made] == [True, False]
    assert id(tables.maps) == id(Maps.made[1])
    assert Maps.made[1].listeners == {ListenerKind.HBONE * SLOTS: sock.fileno()}
    assert tables.verdicts is not verdicts
