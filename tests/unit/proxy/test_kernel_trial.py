# SPDX-License-Identifier: Apache-2.0
"""A kernel that does what it should, one that keeps its keys, none at all, and such as do something else."""

import socket
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from nodeagent.proxy import kernel_tls, kernel_trial
from nodeagent.proxy.kernel_trial import KernelTls, try_kernel_tls
from nodeagent.proxy.messages import Start, WorkerConfig
from nodeagent.tls.alert import Alert
from nodeagent.tls.key_schedule import Cipher
from nodeagent.tls.record import ALERT
from tests.unit.proxy.emulated import RX, TX, EmulatedSocket, Key

BOTH = frozenset(Cipher)
Emulate = Callable[..., None]


@pytest.fixture
def emulate(emulation: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> Emulate:
    """Whoever dials from here on has a kernel with TLS."""

    def start(kind: type[EmulatedSocket] = EmulatedSocket, **options: Any) -> None:
        emulation()
        monkeypatch.setattr(kernel_trial, "sequence", kernel_tls.sequence)
        dial = socket.create_connection
        monkeypatch.setattr(kernel_trial, "create_connection", lambda *to, **more: kind(dial(*to, **more), **options))

    return start


def test_a_kernel_that_can_do_everything(emulate: Emulate) -> None:
    emulate()
    found = try_kernel_tls()
    assert found == KernelTls(BOTH, can_rekey=True)
    assert found.works
    assert str(found) == "TLS_AES_128_GCM_SHA256, TLS_AES_256_GCM_SHA384 with new keys"


def test_a_kernel_that_keeps_its_keys(emulate: Emulate) -> None:
    emulate(can_rekey=False)
    found = try_kernel_tls()
    assert found == KernelTls(BOTH)
    assert "one key for each tunnel (Linux before 6.14)" in str(found)


@pytest.mark.parametrize(
    ("refuses", "words"), [(31, "No such file or directory"), (TX, "Device or resource busy"), (RX, "busy")]
)
def test_a_kernel_that_refuses(emulate: Emulate, refuses: int, words: str) -> None:
    emulate(refuses=refuses)
    found = try_kernel_tls()
    assert not found.works
    assert str(found).startswith("does not work: TLS_AES_128_GCM_SHA256: ")
    assert words in str(found)


class _Sealing(EmulatedSocket):
    def _seal(self, plain: bytes, kind: int) -> int:
        return super()._seal(b"y" + plain[1:], kind)


class _Opening(EmulatedSocket):
    def _open(self, record: bytes) -> tuple[bytes, int]:
        content, kind = super()._open(record)
        return content[:-1] + b"y", kind


class _Typing(EmulatedSocket):
    def _open(self, record: bytes) -> tuple[bytes, int]:
        return super()._open(record)[0], 24


class _Believing(EmulatedSocket):
    def _open(self, record: bytes) -> tuple[bytes, int]:
        try:
            return super()._open(record)
        except OSError:
            return b"forged", 23


class _Talking(EmulatedSocket):
    def _seal(self, plain: bytes, kind: int) -> int:
        return super()._seal(Alert.BAD_RECORD_MAC.content if kind == ALERT else plain, kind)


class _OneSuite(EmulatedSocket):
    def setsockopt(self, level: int, option: int, value: Any, *more: Any) -> None:
        super().setsockopt(level, option, value, *more)
        if isinstance(self.keys.get(option), Key) and len(value) == 56:
            raise OSError(22, "Invalid argument")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (_Sealing, "what the kernel sealed is wrong"),
        (_Opening, "what the kernel opened is wrong"),
        (_Typing, "the type of a record is wrong"),
        (_Believing, "the kernel opened a forged record"),
        (_Talking, "the peer says bad record mac"),
    ],
)
def test_a_kernel_that_does_something_else(emulate: Emulate, kind: type[EmulatedSocket], words: str) -> None:
    emulate(kind)
    found = try_kernel_tls()
    assert not found.works
    assert words in str(found)


def test_a_kernel_that_counts_wrongly(emulate: Emulate, monkeypatch: pytest.MonkeyPatch) -> None:
    emulate()
    right = kernel_tls.sequence
    monkeypatch.setattr(kernel_trial, "sequence", lambda *arguments: right(*arguments) + 1)
    found = try_kernel_tls()
    assert not found.works
    assert "the count of its records is wrong" in str(found)


def test_one_suite_that_works_is_used(emulate: Emulate) -> None:
    emulate(_OneSuite)
    found = try_kernel_tls()
    assert found.ciphers == {Cipher.AES_128_GCM}
    assert found.can_rekey
    assert str(found).endswith("with new keys; TLS_AES_256_GCM_SHA384: Invalid argument")


@pytest.mark.parametrize(
    ("can_rekey", "both_keep_keys", "is_taken"),
    [(False, False, False), (False, True, True), (True, False, True), (True, True, True)],
)
def test_a_tunnel_whose_keys_may_change_needs_a_kernel_that_follows(
    *, can_rekey: bool, both_keep_keys: bool, is_taken: bool
) -> None:
    found = KernelTls(frozenset({Cipher.AES_128_GCM}), can_rekey=can_rekey)
    assert found.takes(Cipher.AES_128_GCM, both_keep_keys=both_keep_keys) is is_taken
    assert not found.takes(Cipher.AES_256_GCM, both_keep_keys=both_keep_keys)


@pytest.mark.vm
def test_the_real_kernel() -> None:
    kernel_tls.load_module()
    found = try_kernel_tls()
    if not found.works:
        pytest.skip(f"this kernel's TLS {found}")
    assert found.ciphers == BOTH
    assert not found.why


@pytest.mark.parametrize("found", [KernelTls(BOTH, can_rekey=True), KernelTls(frozenset(), why="no such file")])
def test_it_goes_to_workers_as_it_was_found(config: WorkerConfig, found: KernelTls) -> None:
    message = Start(config, kernel_tls=found)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=Start) == message
