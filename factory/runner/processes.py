"""Which processes of this node belong to which replica: by the mark in their environment, by descent, by group.

The mark is what /proc shows of the environment at `exec` (a process cannot change it from inside). A process whose
environment was cleared is found as the child of one that is known, and stays known when its parent dies. Only
processes that name this node's id are looked at: two factories on one machine never touch each other's.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from factory.worker.folders import proportional_bytes, start_ticks

__all__ = ["NODE_MARKER", "REPLICA_MARKER", "Process", "ProcessTable", "proportional_memory"]

REPLICA_MARKER = "FACTORY_REPLICA"
NODE_MARKER = "FACTORY_NODE"
_YOUNG_TICKS = 1000  # 10 s: a process so young may be between fork and exec; its environment is read again
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Process:
    """A process by its identity: a pid alone may be used again."""

    pid: int
    start_ticks: int

    def is_alive(self) -> bool:
        """True if it runs (a zombie does not)."""
        return start_ticks(self.pid) == self.start_ticks

    def kill(self) -> None:
        """SIGKILL it, unless its pid has become somebody else's."""
        with contextlib.suppress(OSError):
            descriptor = os.pidfd_open(self.pid)
            try:
                if self.is_alive():
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            finally:
                os.close(descriptor)


class ProcessTable:
    """Remembers between scans what it has learnt; one thread at a time."""

    def __init__(self, node: str) -> None:
        self._node = f"{NODE_MARKER}={node}".encode()
        self._prefix = f"{REPLICA_MARKER}=".encode()
        self._known: dict[Process, str] = {}  # members: process -> replica
        self._strangers: set[Process] = set()  # old enough, and no mark

    def scan(self, grouped: Callable[[], Mapping[str, frozenset[int]]] = dict) -> dict[str, frozenset[Process]]:
        """Return every replica's living processes, as of now.

        Args:
            grouped: tells replica -> pids that are in its memory group: a net for what shed its mark and its parents.
        """
        uptime = _uptime_ticks()
        alive: dict[Process, int] = {}
        for entry in os.listdir("/proc"):
            if entry.isdecimal() and (seen := _stat(int(entry))) is not None:
                alive[seen[0]] = seen[1]
        self._known = {p: r for p, r in self._known.items() if p in alive}
        self._strangers &= alive.keys()
        for process in alive:
            if process in self._known or process in self._strangers:
                continue
            replica = self._mark_of(process.pid)
            if replica is not None:
                self._known[process] = replica
            elif uptime - process.start_ticks > _YOUNG_TICKS:
                self._strangers.add(process)
        self._add_grouped(alive, grouped())  # read after `alive`: a pid used again meanwhile has another start
        self._add_descendants(alive)
        members: dict[str, set[Process]] = {}
        for process, replica in self._known.items():
            members.setdefault(replica, set()).add(process)
        return {replica: frozenset(found) for replica, found in members.items()}

    def _mark_of(self, pid: int) -> str | None:
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                environ = file.read().split(b"\0")
        except OSError:
            return None
        if self._node not in environ:
            return None
        marks = [v[len(self._prefix) :] for v in environ if v.startswith(self._prefix)]
        return marks[0].decode("ascii", "replace") if marks and marks[0] else None

    def _add_grouped(self, alive: Iterable[Process], grouped: Mapping[str, frozenset[int]]) -> None:
        replica_of = {pid: replica for replica, pids in grouped.items() for pid in pids}
        for process in alive if replica_of else ():
            if process.pid in replica_of:
                self._known.setdefault(process, replica_of[process.pid])
                self._strangers.discard(process)

    def _add_descendants(self, alive: dict[Process, int]) -> None:
        by_pid = {process.pid: process for process in alive}
        for process in alive:
            chain: list[Process] = []
            current: Process | None = process
            while current is not None and current not in self._known and current not in chain:
                chain.append(current)
                parent = by_pid.get(alive[current])
                current = parent if parent is not None and parent.start_ticks <= current.start_ticks else None
            if current is not None and current in self._known:
                for descendant in chain:
                    self._known[descendant] = self._known[current]
                    self._strangers.discard(descendant)


def proportional_memory(processes: frozenset[Process], above: int) -> int:
    """Return the resident bytes of processes; pages that several share count once, if the plain sum is over `above`."""
    total = 0
    for process in processes:
        with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{process.pid}/statm", "rb") as file:
            total += int(file.read().split()[1]) * _PAGE
    if total <= above:
        return total
    return sum(proportional_bytes(process.pid) for process in processes)


def _stat(pid: int) -> tuple[Process, int] | None:
    """Return the process and its parent's pid; None if it is gone or a zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else (Process(pid, int(fields[19])), int(fields[1]))


def _uptime_ticks() -> int:
    with open("/proc/uptime", "rb") as file:
        return int(float(file.read().split()[0]) * os.sysconf("SC_CLK_TCK"))
