# SPDX-License-Identifier: Apache-2.0
"""The pinned maps as typed tables: model values in, model values out; bytes stop here.

A full map is an answer (`put` says False), not an error: what it means is decided where the value comes from.
"""

import errno
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Generic, TypeVar

from nodeagent.errors import KernelError
from nodeagent.kernel import codings, service_codings, syscall
from nodeagent.kernel.codings import Coding, Settings

Key = TypeVar("Key")
Value = TypeVar("Value")
_Answer = TypeVar("_Answer")

SLOTS = 4
"""Listener slots of each kind: SLOTS in bpf/maps.h."""


class Table(Generic[Key, Value]):
    """One pinned map. Methods raise KernelError for what only a broken system does."""

    def __init__(
        self, directory: Path, name: str, key: Coding[Key], value: Coding[Value], *, is_per_cpu: bool = False
    ) -> None:
        self.name = name
        self._key, self._value = key, value
        path = directory / name
        try:
            self.descriptor = syscall.open_pinned(str(path))
        except OSError as error:
            raise KernelError(f"map {path}: {error.strerror}", check="Did the loader run, on this bpffs?") from error
        info = syscall.map_info(self.descriptor)
        self._key_bytes = info.key_bytes
        self._entries = info.entries
        self._copies = syscall.possible_cpus() if is_per_cpu else 1
        self._value_bytes = info.value_bytes * self._copies

    def find(self, key: Key) -> Value | None:
        found = self._ask(lambda: syscall.map_lookup(self.descriptor, self._key.encode(key), self._value_bytes))
        return None if found is None else self._value.decode(found)

    def has(self, key: Key) -> bool:
        key_bytes = self._key.encode(key)
        return self._ask(lambda: syscall.map_lookup(self.descriptor, key_bytes, self._value_bytes)) is not None

    def put(self, key: Key, value: Value) -> bool:
        """False when the map is full."""
        try:
            syscall.map_update(self.descriptor, self._key.encode(key), self._value.encode(value) * self._copies)
        except OSError as error:
            if error.errno in {errno.E2BIG, errno.ENOSPC}:
                return False
            raise KernelError(f"map {self.name}: {error.strerror}") from error
        return True

    def remove(self, key: Key) -> bool:
        """False when it was not there."""
        return self._ask(lambda: syscall.map_delete(self.descriptor, self._key.encode(key)))

    def remove_all(self, keys: Sequence[Key]) -> None:
        """Those that are there."""
        encoded = [self._key.encode(key) for key in keys]
        self._ask(lambda: syscall.map_delete_batch(self.descriptor, encoded))

    def put_all(self, rows: Sequence[tuple[Key, Value]]) -> int:
        """How many were put, in their order, before the map was full."""
        keys = b"".join(self._key.encode(key) for key, _ in rows)
        values = b"".join(self._value.encode(value) for _, value in rows)
        return self._ask(lambda: syscall.map_update_batch(self.descriptor, keys, values, len(rows)))

    def keys(self) -> set[Key]:
        found = self._ask(lambda: syscall.map_keys(self.descriptor, self._key_bytes))
        return {self._key.decode(key) for key in found}

    def is_empty(self) -> bool:
        return not self._ask(lambda: syscall.map_keys(self.descriptor, self._key_bytes, most=1))

    def rows(self) -> dict[Key, Value]:
        return {self._key.decode(key): self._value.decode(value) for key, value in self._packed_rows()}

    def remove_where(self, is_meant: Callable[[bytes], bool]) -> int:
        """Rows of these keys, as they are packed: to decode a full table of flows takes seconds. How many it were."""
        gone = [key for key, _ in self._packed_rows() if is_meant(key)]
        self._ask(lambda: syscall.map_delete_batch(self.descriptor, gone))
        return len(gone)

    def rows_where(self, is_meant: Callable[[bytes], bool]) -> dict[Key, Value]:
        """Rows of these values, as they are packed."""
        found = self._packed_rows()
        return {self._key.decode(key): self._value.decode(value) for key, value in found if is_meant(value)}

    def close(self) -> None:
        os.close(self.descriptor)

    def _packed_rows(self) -> list[tuple[bytes, bytes]]:
        return self._ask(lambda: syscall.map_rows(self.descriptor, self._key_bytes, self._value_bytes, self._entries))

    def _ask(self, call: Callable[[], _Answer]) -> _Answer:
        try:
            return call()
        except OSError as error:
            raise KernelError(f"map {self.name}: {error.strerror}") from error


class Maps:
    """All maps of one layout, open. Descriptors are closed by `close`."""

    def __init__(self, directory: Path) -> None:
        with ExitStack() as opened:
            self.settings = _open(opened, directory, "settings", codings.of_number(), codings.of_settings())
            self.sources = _open(opened, directory, "sources", codings.of_source(), codings.of_source_row())
            self.pods = _open(opened, directory, "pods", codings.of_address(), codings.of_pod())
            self.pod_counts = _open(
                opened, directory, "pod_counts", codings.of_number(), codings.of_pod_count(), is_per_cpu=True
            )
            self.known = _open(opened, directory, "known", codings.of_address(), codings.of_number())
            blocks = codings.of_exclusion()
            self.known_blocks = _open(opened, directory, "known_blocks", blocks, codings.of_number())
            self.node_addresses = _open(opened, directory, "node_addresses", codings.of_address(), codings.of_number())
            self.excluded = _open(opened, directory, "excluded", codings.of_exclusion(), codings.of_number())
            self.verdicts = _open(opened, directory, "verdicts", codings.of_verdict_key(), codings.of_verdict())
            self.flows = _open(opened, directory, "flows", codings.of_flow_key(), codings.of_flow())
            self.kept_flows = _open(opened, directory, "kept_flows", codings.of_flow_key(), codings.of_flow())
            self.inbound_flows = _open(opened, directory, "inbound_flows", codings.of_flow_key(), codings.of_number())
            self.hairpins = _open(opened, directory, "hairpins", codings.of_flow_key(), codings.of_number())
            self.listeners = _open(opened, directory, "listeners", codings.of_number(), codings.of_number("=Q"))
            self.reason_counts = _open(
                opened, directory, "reason_counts", codings.of_number(), codings.of_sum(), is_per_cpu=True
            )
            self.namespaces = _open(opened, directory, "namespaces", codings.of_number("=Q"), codings.of_number())
            endpoint = service_codings.of_endpoint()
            self.services = _open(opened, directory, "services", endpoint, service_codings.of_service())
            self.draws = _open(opened, directory, "draws", service_codings.of_draw_key(), endpoint)
            self.by_service = _open(opened, directory, "by_service", service_codings.of_dial_key(), endpoint)
            self._opened = opened.pop_all()

    def close(self) -> None:
        self._opened.close()

    def read_settings(self) -> Settings:
        return self.settings.find(0) or Settings()


def _open(
    opened: ExitStack,
    directory: Path,
    name: str,
    key: Coding[Key],
    value: Coding[Value],
    *,
    is_per_cpu: bool = False,
) -> Table[Key, Value]:
    table = Table(directory, name, key, value, is_per_cpu=is_per_cpu)
    opened.callback(table.close)
    return table
