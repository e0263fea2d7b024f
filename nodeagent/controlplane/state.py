# SPDX-License-Identifier: Apache-2.0
"""The state directory: keys of the mesh, findings, and the documents in force.

    root-key.pem     0600  key of the mesh's root certificate
    root-cert.pem    0644  the root certificate, for agents (istio-ca-root-cert in a cluster)
    intermediate-*   and next-root-key.pem: see `authority.py`
    revoked.json, ca-crl.pem    see `revocation.py`
    issued.json      0644  until when certificates of which roots are in use, see `rotation.py`
    token-key        0600  signs the nodes' tokens
    last-good.jsonl  0600  the documents in force, see `last_good.py`
    allocated.json   0600  addresses of hosts of ServiceEntries, see `allocations.py`
    findings.json    0644  what is wrong in the mesh directory at the moment

Every file but last-good.jsonl is replaced whole, so that a process that is killed leaves the old one or the new one;
what it had written beside is removed by the next write. A full disk is reported and stops nothing but the writing.
"""

import contextlib
import glob
import logging
import os
from pathlib import Path

import msgspec

from nodeagent.controlplane.finding import Finding
from nodeagent.errors import ConfigError, MissingPrivilege, NotPossible, StateFileUnwritable

_log = logging.getLogger(__name__)

PUBLIC, SECRET = 0o644, 0o600
SCHEMA = "nodeagent/v1"
_ROOT_CERTIFICATE = "root-cert.pem"


class Status(msgspec.Struct, frozen=True):
    """The content of findings.json."""

    generation: int
    changed_at: str
    workloads: int
    services: int
    policies: int
    findings: tuple[Finding, ...]
    schema: str = SCHEMA


class StateDirectory:
    def __init__(self, path: Path, *, is_made: bool = True) -> None:
        """Makes the directory, unless it is somebody else's. Raises ConfigError or MissingPrivilege."""
        self.path = path
        if not is_made:
            return
        try:
            path.mkdir(mode=0o755, parents=True, exist_ok=True)
        except PermissionError as error:
            raise MissingPrivilege(f"state directory {path}: {error.strerror}") from error
        except OSError as error:
            raise ConfigError(
                f"state directory {path}: {error.strerror}", check="Choose another with --state-dir."
            ) from error

    @property
    def root_certificate(self) -> Path:
        return self.path / _ROOT_CERTIFICATE

    def read(self, name: str) -> bytes | None:
        """None when there is no such file. Raises MissingPrivilege or ConfigError."""
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return None
        except PermissionError as error:
            raise MissingPrivilege(f"{self.path / name}: {error.strerror}") from error
        except OSError as error:
            raise ConfigError(f"{self.path / name}: {error.strerror}", check="Is --state-dir right?") from error

    def read_secret(self, name: str) -> bytes | None:
        """As `read`; refuses a secret that others may read. Raises ConfigError for that."""
        data = self.read(name)
        if data is not None and (self.path / name).stat().st_mode & 0o077:
            raise ConfigError(
                f"{self.path / name}: others than its owner may read it",
                check="Who has read it? If nobody: chmod 600; else remove it, and the root certificate beside it.",
            )
        return data

    def write(self, name: str, data: bytes, mode: int) -> None:
        """Atomic. Raises StateFileUnwritable."""
        path = self.path / name
        scratch = self._scratch(name)
        try:
            with open(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode), "wb") as file:  # noqa: PTH123
                os.fchmod(file.fileno(), mode)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            scratch.replace(path)
            self._sync()
        except OSError as error:
            with contextlib.suppress(OSError):
                scratch.unlink()
            raise StateFileUnwritable(f"{path}: {error.strerror}") from error

    def append(self, name: str, data: bytes) -> None:
        """At the end of a file that is there. What a full disk has cut off stays. Raises StateFileUnwritable."""
        path = self.path / name
        try:
            with open(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC), "wb", buffering=0) as file:  # noqa: PTH123
                written = file.write(data)
                os.fsync(file.fileno())
        except OSError as error:
            raise StateFileUnwritable(f"{path}: {error.strerror}") from error
        if written != len(data):
            raise StateFileUnwritable(f"{path}: {written} of {len(data)} bytes were written")

    def create_secret(self, name: str, data: bytes) -> bytes:
        """Writes the secret unless there is one, and returns the one that counts: of two starters, one wins."""
        path = self.path / name
        scratch = self._scratch(name)
        try:
            with open(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, SECRET), "wb") as file:  # noqa: PTH123
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):
                os.link(scratch, path)
            self._sync()
        except PermissionError as error:
            raise MissingPrivilege(f"{path}: {error.strerror}") from error
        except OSError as error:
            raise NotPossible(f"{path}: {error.strerror}", check="Is the disk full, or read-only?") from error
        finally:
            with contextlib.suppress(OSError):
                scratch.unlink()
        return self.read_secret(name) or data

    def _scratch(self, name: str) -> Path:
        """Where this process writes the file before it is renamed; those that dead processes have left are removed."""
        for left in self.path.glob(f".{glob.escape(name)}.*"):
            pid = left.name.rpartition(".")[2]
            if pid.isascii() and pid.isdigit() and not Path(f"/proc/{pid}").exists():
                with contextlib.suppress(OSError):
                    left.unlink()
        return self.path / f".{name}.{os.getpid()}"

    def _sync(self) -> None:
        """Without it the name itself may be lost with the power."""
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def save_status(self, status: Status) -> None:
        """Raises StateFileUnwritable."""
        self.write("findings.json", msgspec.json.format(msgspec.json.encode(status)) + b"\n", PUBLIC)
