"""Files on a node that join replicas and attempts, and hold the evidence of how they ended.

    <node folder>/
      cgroup.json                   where replicas make their memory groups; not there: the agent's watchdog holds them
      agent.fifo                    replicas say here that something changed; the agent then looks
      replicas/<replica id>.json    a replica process was born: its pid and start time
      cache/<sha256 hex>            code as fetched; checked against its digest at every use
      attempts/<attempt>/<rank>/
        claim.json                  which replica serves this rank: made once, synced before any user code starts
        order.json                  what it shall do, without secrets
        began.json                  user code begins now
        stop.json                   it was told to stop: when (the runner's clock), why
        killed.json                 the agent killed it while its main process lived
        evidence.json               what the agent knows of its end (over its memory limit)
        outcome.json                its own word on how it ended, synced
        stdout, stderr              append-only, shipped by offset
        control.fifo                the agent writes "stop" here
        work/                       working folder; code/ the unpacked bundle

The replica writes its own files, the agent the others; both read all. Files appear whole (temporary name, rename).
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = [
    "STREAMS",
    "NodeFolder",
    "RankFolder",
    "proportional_bytes",
    "read_json",
    "start_ticks",
    "write_durably",
    "write_once",
]

STREAMS = ("stdout", "stderr")


def start_ticks(pid: int) -> int | None:
    """Return when the process started (clock ticks since boot): with the pid its identity. None = no such process.

    A zombie counts as gone: it runs nothing any more.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def proportional_bytes(pid: int) -> int:
    """Return the resident bytes of a process, its part of what several share; 0 = no such process."""
    with contextlib.suppress(OSError, ValueError), open(f"/proc/{pid}/smaps_rollup", "rb") as file:
        for line in file:
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the object in a file; None if there is no such file or it is not JSON."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def write_durably(path: Path, value: dict[str, Any]) -> None:
    """Write a file that is whole or not there, and is there after a crash of the machine once this returns."""
    temporary = _temporary(path, value)
    os.replace(temporary, path)
    _sync_folder(path.parent)


def write_once(path: Path, value: dict[str, Any]) -> bool:
    """As `write_durably`, but only the first writer wins: False if the file is there already."""
    temporary = _temporary(path, value)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    _sync_folder(path.parent)
    return True


def _temporary(path: Path, value: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())
    return temporary


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class NodeFolder:
    """Everything of one node."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.births = root / "replicas"
        self.attempts = root / "attempts"
        self.cache = root / "cache"
        self.fifo = root / "agent.fifo"
        self.cgroup = root / "cgroup.json"

    def create(self) -> None:
        """Make the folders and the agent's pipe; nobody else may read them."""
        for folder in (self.root, self.births, self.attempts, self.cache):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with contextlib.suppress(FileExistsError):
            os.mkfifo(self.fifo, 0o600)

    def birth(self, replica: str) -> Path:
        """Return the file that says that a replica was born."""
        return self.births / f"{replica}.json"

    def rank(self, attempt: str, rank: int) -> RankFolder:
        """Return the folder of one rank of an attempt."""
        return RankFolder(self.attempts / attempt / str(rank))

    def ranks(self) -> Iterator[tuple[str, int, RankFolder]]:
        """Yield (attempt, rank, folder) of all that are there."""
        for attempt in _entries(self.attempts):
            for rank in _entries(self.attempts / attempt):
                if rank.isdecimal():
                    yield attempt, int(rank), RankFolder(self.attempts / attempt / rank)

    def nudge(self) -> None:
        """Tell the agent to look; nobody may be there to hear it, it looks by itself now and then."""
        write_to_fifo(self.fifo, b"!\n")


class RankFolder:
    """Everything of one rank of an attempt."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.claim = path / "claim.json"
        self.order = path / "order.json"
        self.began = path / "began.json"
        self.stop = path / "stop.json"
        self.killed = path / "killed.json"
        self.evidence = path / "evidence.json"
        self.outcome = path / "outcome.json"
        self.control = path / "control.fifo"
        self.work = path / "work"
        self.code = path / "code"

    def stream(self, name: str) -> Path:
        """Return the file of "stdout" or "stderr"."""
        return self.path / name


def write_to_fifo(path: Path, message: bytes) -> bool:
    """Write a short message to a pipe without waiting; False if nobody listens."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        os.write(descriptor, message)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _entries(path: Path) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except OSError:
        return []
