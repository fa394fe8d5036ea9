"""One replica's memory cgroup: the kernel holds the limit, counts every descendant, and keeps the evidence.

The replica's own process enters its group when it is born and sets the limit when it takes an order, before user code
starts: no other process has to be quick enough. Where groups may be made is the node agent's finding; it writes it to
`cgroup.json` in the node's folder (`Place`). No place, or a group that cannot be made: the agent's watchdog holds the
replica instead.

What the process had touched before it entered stays charged to whoever started it (neither version moves a charge), so
Ray and the worker's imports are not the job's; `OWN_MEMORY_BYTES` is for what the worker touches later.

Source: Linux Documentation/admin-guide/cgroup-v1/memory.rst (limits §6, OOM control §10) and cgroup-v2.rst, "Memory".
A replica runs as the user who made the group, so that its code could leave it: this is accounting between departments
that mean well, not a wall (DESIGN §1: a Ray cluster is one trust domain).
"""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path

from factory.domain.resources import MIB
from factory.worker.folders import NodeFolder, read_json

__all__ = [
    "OWN_MEMORY_BYTES",
    "MemoryGroup",
    "Place",
    "enter_group",
    "hold_to",
    "make_folder",
    "place_of",
    "remove_folder",
    "write",
]

# beyond what was asked, for what the factory's own code loads once the job has begun: measured 3 MiB of a function or a
# command, 119 MiB with the readers of datasets (pandas, Arrow, DuckDB, Delta)
OWN_MEMORY_BYTES = 128 * MIB
_UNLIMITED_V1 = 1 << 62  # the kernel shows the largest multiple of a page below 2^63
_NEAR = 4 * MIB  # charges go by batches of pages: a peak so near to the limit has met it


@dataclass(frozen=True, slots=True)
class Place:
    """Where groups of a node's replicas are made."""

    base: Path  # an existing group of the machine
    version: int  # of cgroups: 1 or 2
    prefix: str  # of the groups' names: no two nodes (data folders) on a machine share it

    def group(self, replica: str) -> MemoryGroup:
        """Return a replica's group; it may not be there."""
        return MemoryGroup(self.base / f"{self.prefix}{replica}", self.version)

    def replicas(self) -> list[str]:
        """Return the replicas whose groups are there, sorted."""
        with contextlib.suppress(OSError):
            names = sorted(entry.name for entry in os.scandir(self.base) if entry.is_dir(follow_symlinks=False))
            return [name.removeprefix(self.prefix) for name in names if name.startswith(self.prefix)]
        return []


@dataclass(frozen=True, slots=True)
class MemoryGroup:
    """One group. Every method may raise OSError: the group went, or the kernel says no."""

    path: Path
    version: int

    def create(self) -> None:
        """Make it; fine if it is there."""
        with contextlib.suppress(FileExistsError):
            make_folder(self.path)
        if self.version == 2:
            with contextlib.suppress(FileNotFoundError):  # Linux 4.19: all of the group goes, or none
                write(self.path / "memory.oom.group", "1")

    def add(self, pid: int) -> None:
        """Put a process into it; its later children are born in it."""
        write(self.path / "cgroup.procs", str(pid))

    def set_limit(self, limit_bytes: int) -> None:
        """Limit memory and swap together. Kernels that do not count swap: memory alone."""
        if self.version == 2:
            self._write_if_there("memory.swap.max", "0")
            write(self.path / "memory.max", str(limit_bytes))
            return
        write(self.path / "memory.limit_in_bytes", str(limit_bytes))
        self._write_if_there("memory.memsw.limit_in_bytes", str(limit_bytes))

    def limit_bytes(self) -> int | None:
        """Return the limit; None = there is none."""
        text = self._read("memory.max" if self.version == 2 else "memory.limit_in_bytes")
        return None if text == "max" or int(text) >= _UNLIMITED_V1 else int(text)

    def used_bytes(self) -> int:
        """Return what it holds now, caches included."""
        return int(self._read("memory.current" if self.version == 2 else "memory.usage_in_bytes"))

    def peak_bytes(self) -> int | None:
        """Return the most that it held; None: the kernel does not tell (version 2 before Linux 5.19)."""
        with contextlib.suppress(FileNotFoundError):
            return int(self._read("memory.peak" if self.version == 2 else "memory.max_usage_in_bytes"))
        return None

    def oom_kills(self) -> int:
        """Return how many processes of it the kernel has killed for want of memory. Raises: KeyError: not counted."""
        lines = self._read("memory.events" if self.version == 2 else "memory.oom_control").splitlines()
        return int(dict(line.split() for line in lines)["oom_kill"])

    def has_met_its_limit(self) -> bool:
        """True if its own limit was the cause of an OOM kill, false if the machine had no memory left."""
        if self.version == 2:
            lines = self._read("memory.events").splitlines()
            return int(dict(line.split() for line in lines).get("oom", "0")) > 0
        limit, peak = self.limit_bytes(), self.peak_bytes()
        return limit is not None and peak is not None and peak > limit - _NEAR

    def pids(self) -> frozenset[int]:
        """Return its processes; none if it is not there."""
        with contextlib.suppress(OSError):
            return frozenset(int(pid) for pid in self._read("cgroup.procs").split())
        return frozenset()

    def kill(self) -> None:
        """SIGKILL every process of it: in one go where the kernel can (version 2, Linux 5.14), else one by one."""
        if self.version == 2:
            with contextlib.suppress(OSError):
                write(self.path / "cgroup.kill", "1")
                return
        for pid in self.pids():
            with contextlib.suppress(OSError):
                descriptor = os.pidfd_open(pid)
                try:
                    if pid in self.pids():  # its number has not become somebody else's
                        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                finally:
                    os.close(descriptor)

    def remove(self) -> bool:
        """Remove it; False if some process is still in it."""
        try:
            remove_folder(self.path)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True

    def _read(self, name: str) -> str:
        return (self.path / name).read_text().strip()

    def _write_if_there(self, name: str, text: str) -> None:
        if (self.path / name).exists():
            write(self.path / name, text)


def place_of(node: NodeFolder) -> Place | None:
    """Return where the node's agent lets groups be made; None: nowhere, its watchdog holds the limits."""
    match read_json(node.cgroup):
        case {"base": str(base), "version": int(version), "prefix": str(prefix)}:
            return Place(Path(base), version, prefix)
        case _:
            return None


def enter_group(node: NodeFolder, replica: str) -> None:
    """Put this process into the replica's group, without a limit yet: its attempt is not known."""
    place = place_of(node)
    if place is not None:
        with contextlib.suppress(OSError):  # then it is in no group, which the agent sees: its watchdog holds it
            group = place.group(replica)
            group.create()
            group.add(os.getpid())


def hold_to(node: NodeFolder, replica: str, memory_bytes: int) -> None:
    """Let the kernel hold this process and all that it starts to what its attempt asked for. 0: it asked for none."""
    place = place_of(node)
    if place is None or not memory_bytes:
        return
    with contextlib.suppress(OSError):  # then its group has no limit, which the agent sees: its watchdog holds it
        group = place.group(replica)
        if os.getpid() in group.pids():
            group.set_limit(memory_bytes + group.used_bytes() + OWN_MEMORY_BYTES)


def make_folder(path: Path) -> None:
    """Make a group."""
    os.mkdir(path, 0o755)


def remove_folder(path: Path) -> None:
    """Remove a group. Its files need not be removed before."""
    os.rmdir(path)


def write(path: Path, text: str) -> None:
    """Write to a group's file, in one call: a second one would be a second order."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
