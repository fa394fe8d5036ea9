"""The node agent: what is on this node, how it ended, and the hand that kills.

It is told nothing it could not find out: folders and /proc hold the truth, so that an agent that was killed is replaced
by one that knows as much. It looks when a replica nudges it, when a watched process ends (pidfd) and twice a second;
each look that differs from the last one is a new version for the runner, which waits for it.

Order of evidence for an end: the replica's own outcome, what the agent or the kernel saw (over its memory limit),
nothing (it vanished). An outcome that tells of trouble gives way to an OOM kill: that is what the trouble came from.

Memory is held by the kernel for what is in a limited group (`factory.runner.cgroups`). The watchdog, which looks at
resident memory four times a second, holds every replica of which a process is outside of one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from factory.domain.jobs import EndReason, Outcome
from factory.domain.resources import MIB
from factory.lifecycle.reconciling import Process as ProcessState
from factory.runner.cgroups import MemoryGroups, clear, oom_message
from factory.runner.fencing import NodeFence
from factory.runner.processes import Process, ProcessTable, proportional_memory
from factory.runner.shipping import LogShipper, Target
from factory.worker.cgroups import OWN_MEMORY_BYTES, MemoryGroup
from factory.worker.folders import NodeFolder, RankFolder, read_json, write_durably, write_once, write_to_fifo
from factory.worker.http import Http
from factory.worker.orders import OutcomeFile, ReplicaOrder

__all__ = ["AgentView", "NodeAgent", "ReplicaView"]

log = logging.getLogger(__name__)

_LOOK_S = 0.5  # a look at least so often
_MEMORY_S = 0.25  # between two checks of resident memory while something runs
_KEEP_S = 900.0  # evidence of what is no longer desired stays so long: a late order must find its rank taken
_KILL_S = 10.0
_TROUBLE = (EndReason.USER_ERROR, EndReason.WORKER_LOST, EndReason.ENVIRONMENT_FAILED)


@dataclass(frozen=True, slots=True)
class ReplicaView:
    """A replica as this node shows it."""

    id: str
    process: ProcessState
    attempt: str | None = None
    rank: int = 0
    began: bool = False
    code_digest: str = ""
    notified_at: int | None = None
    killed: bool = False
    outcome: Outcome | None = None
    logs_whole: bool = False


@dataclass(frozen=True, slots=True)
class AgentView:
    """One look at the node. `version` grows when `replicas` changed; `look` with every look."""

    node: str
    version: int
    look: int
    replicas: tuple[ReplicaView, ...]


class NodeAgent:
    """Everything but the Ray actor around it."""

    def __init__(self, node_id: str, folder: Path, http: Http, groups: MemoryGroups | None = None) -> None:
        """`groups`: from `open_groups`; None: the watchdog holds all limits."""
        self.id = node_id
        self.folder = NodeFolder(folder)
        self.folder.create()
        self.fence = NodeFence(self.folder)
        self._table = ProcessTable(node_id)
        self._groups = groups or MemoryGroups()
        self._shipper = LogShipper(http, resumes=[(attempt, rank) for attempt, rank, _ in self.folder.ranks()])
        self._lock = threading.RLock()  # one look, kill or forget at a time
        self._changed = threading.Condition()
        self._view = AgentView(node_id, 0, 0, ())
        self._members: dict[str, frozenset[Process]] = {}  # as of the last look
        self._limits: dict[
            str, tuple[int, int]
        ] = {}  # replica -> what was asked, what the worker itself may use (bytes)
        self._pidfds: dict[Process, int] = {}
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        # both ends, so that the pipe never reports an end when the last replica closes it
        self._fifo = os.open(self.folder.fifo, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._selector.register(self._fifo, selectors.EVENT_READ)

    def start(self) -> None:
        """Look once, then watch in a thread."""
        self._sweep_groups()
        self.look()
        self._shipper.start(self.wake)
        threading.Thread(target=self._watch, name="factory-agent", daemon=True).start()

    def wake(self) -> None:
        """Let the watching thread look now."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_write, b"!")

    # --- for the runner ---------------------------------------------------------------------------------------------

    def observe(self, after: int, wait_s: float) -> AgentView:
        """Return the newest view, as soon as its version is not `after`, at the latest in `wait_s`."""
        with self._changed:
            self._changed.wait_for(lambda: self._view.version != after, wait_s)
            return self._view

    def look(self) -> AgentView:
        """Look at everything now."""
        with self._lock:
            replicas = self._look()
            view = self._view
            changed = replicas != view.replicas or view.look == 0
            new = AgentView(self.id, view.version + changed, view.look + 1, replicas)
        with self._changed:
            self._view = new
            if changed:
                self._changed.notify_all()
        return new

    def notify_stop(self, attempt: str, rank: int, reason: str, at: int) -> None:
        """Tell a rank to stop. `at` is the runner's time."""
        folder = self.folder.rank(attempt, rank)
        if folder.path.is_dir():
            write_once(folder.stop, {"reason": reason, "at": at})
            write_to_fifo(folder.control, b"stop\n")
        self.wake()

    def kill(self, replica: str, why: str) -> bool:
        """Kill every process of a replica; True if none is left. What its main process was serving is noted first."""
        with self._lock:
            for _, _, folder in self._ranks_of(replica):
                if not folder.outcome.exists() and self._main_is_alive(replica):
                    with contextlib.suppress(OSError):
                        write_once(folder.killed, {"why": why})
            gone = self._kill_all(replica)
        self.wake()
        return gone

    def forbid(self, attempt: str, ranks: list[int]) -> list[int]:
        """Take ranks that nobody serves, so that a late order cannot begin; return those that somebody has taken."""
        taken: list[int] = []
        for rank in ranks:
            folder = self.folder.rank(attempt, rank)
            if not write_once(folder.claim, {"replica": ""}) and (read_json(folder.claim) or {}).get("replica"):
                taken.append(rank)
        return taken

    def forget(self, replica: str) -> None:
        """Drop the evidence of a replica that is gone; its ranks stay taken for a while."""
        with self._lock:
            for _, _, folder in self._ranks_of(replica):
                write_durably(folder.path / "released.json", {})
                self._limits.pop(str(folder.path), None)
                self.fence.forget(folder)
            self.folder.birth(replica).unlink(missing_ok=True)
        self.wake()

    def end(self) -> None:
        """Leave no process and no group of any replica: the factory ends."""
        with self._lock:
            for replica in self._table.scan(self._groups.pids):
                self._kill_all(replica)
            for group in self._groups.all().values():
                clear(group)

    # --- one look ---------------------------------------------------------------------------------------------------

    def _look(self) -> tuple[ReplicaView, ...]:
        members = self._table.scan(self._groups.pids)
        groups = self._groups.all()
        births = {path.stem: read_json(path) or {} for path in self.folder.births.glob("*.json")}
        served: dict[str, tuple[str, int, RankFolder]] = {}
        for attempt, rank, folder in self.folder.ranks():
            replica = (read_json(folder.claim) or {}).get("replica")
            if replica and not (folder.path / "released.json").exists():
                served[replica] = (attempt, rank, folder)
        views = [
            self._replica(
                replica,
                members.get(replica, frozenset()),
                births.get(replica),
                served.get(replica),
                groups.get(replica),
            )
            for replica in sorted(members.keys() | births.keys() | served.keys())
        ]
        self._shipper.watch(
            tuple(
                Target(*served[view.id], is_over=view.process is ProcessState.GONE)
                for view in views
                if view.id in served
            )
        )
        mains = ((_identity(birth), members.get(replica, frozenset())) for replica, birth in births.items())
        self._watch_pids({main for main, living in mains if main is not None and main in living})
        self._members = members
        return tuple(views)

    def _replica(
        self,
        replica: str,
        members: frozenset[Process],
        birth: dict[str, object] | None,
        served: tuple[str, int, RankFolder] | None,
        group: MemoryGroup | None,
    ) -> ReplicaView:
        main = _identity(birth)
        if main is None and served is not None:
            main = _identity(read_json(served[2].claim))
        if main is not None and main in members:
            state = ProcessState.ALIVE
        elif members:
            state = ProcessState.LEFTOVER if main is not None else ProcessState.STARTING
        else:
            state = ProcessState.GONE
        if group is not None and state is not ProcessState.ALIVE:
            if served is not None:
                self._note_oom(group, served[2])
            if state is ProcessState.GONE:
                group.remove()
        if served is None:
            return ReplicaView(replica, state)
        attempt, rank, folder = served
        began = read_json(folder.began)
        stop = read_json(folder.stop) or {}
        return ReplicaView(
            id=replica,
            process=state,
            attempt=attempt,
            rank=rank,
            began=began is not None,
            code_digest=str((began or {}).get("code_digest", "")),
            notified_at=stop.get("at"),
            killed=folder.killed.exists(),
            outcome=None if state is ProcessState.ALIVE else _evidence(folder),
            logs_whole=self._shipper.is_whole(attempt, rank),
        )

    # --- the watching thread ----------------------------------------------------------------------------------------

    def _watch(self) -> None:
        cleaned = 0.0
        while True:
            try:
                busy = any(v.attempt is not None and v.process is ProcessState.ALIVE for v in self._view.replicas)
                for key, _ in self._selector.select(_MEMORY_S if busy else _LOOK_S):
                    if key.fd in (self._fifo, self._wake_read):
                        with contextlib.suppress(BlockingIOError):
                            os.read(key.fd, 65536)
                self.look()
                self._hold_limits()
                self._hold_fence()
                if time.monotonic() - cleaned > 60:
                    cleaned = time.monotonic()
                    self._clean()
            except Exception:  # the loop's edge: an agent that stops looking is worse than one look that failed
                log.exception("a look failed", extra={"event": "agent.look_failed", "node": self.id})
                time.sleep(_LOOK_S)

    def _watch_pids(self, mains: set[Process]) -> None:
        """Wait for the end of every main process; caller holds the lock."""
        for process in self._pidfds.keys() - mains:
            descriptor = self._pidfds.pop(process)
            self._selector.unregister(descriptor)
            os.close(descriptor)
        for process in mains - self._pidfds.keys():
            with contextlib.suppress(OSError):
                self._pidfds[process] = os.pidfd_open(process.pid)
                self._selector.register(self._pidfds[process], selectors.EVENT_READ)

    def _hold_limits(self) -> None:
        """End as a whole what the kernel began to kill, and kill what is over its limit; keep the evidence."""
        groups = self._groups.all()
        for view in self._view.replicas:
            is_alive = view.process is ProcessState.ALIVE
            if view.attempt is None or not (is_alive or view.process is ProcessState.LEFTOVER):
                continue
            with self._lock:
                folder, group = self.folder.rank(view.attempt, view.rank), groups.get(view.id)
                is_over = group is not None and self._note_oom(group, folder)
                if is_alive and not is_over and not self._is_held(view.id, group):
                    is_over = self._note_excess(view.id, folder)
                if not is_over:
                    continue
                self._kill_all(view.id)
            self.wake()

    def _hold_fence(self) -> None:
        """Kill what the control plane has not renewed for its pool's `self_fence_s`; keep the evidence."""
        for view in self._view.replicas:
            if view.attempt is None or view.process not in (ProcessState.ALIVE, ProcessState.LEFTOVER):
                continue
            folder = self.folder.rank(view.attempt, view.rank)
            message = self.fence.overdue(folder)
            if message is not None:
                with self._lock:
                    write_once(folder.evidence, {"reason": EndReason.NODE_LOST.value, "message": message})
                    self._kill_all(view.id)
                self.wake()

    def _is_held(self, replica: str, group: MemoryGroup | None) -> bool:
        """True if the kernel holds every process of a replica to its limit."""
        if group is None:
            return False
        with contextlib.suppress(OSError):
            inside = group.pids()
            return group.limit_bytes() is not None and all(
                process.pid in inside or not process.is_alive() for process in self._members.get(replica, ())
            )
        return False

    def _note_oom(self, group: MemoryGroup, folder: RankFolder) -> bool:
        """Keep the kernel's evidence of an OOM kill in a group; True if there is some."""
        asked, _ = self._limit(folder)
        message = oom_message(group, asked)
        if message is not None:
            write_once(folder.evidence, {"reason": EndReason.OUT_OF_MEMORY.value, "message": message})
        return message is not None

    def _note_excess(self, replica: str, folder: RankFolder) -> bool:
        """Keep the evidence if a replica uses more than it may, the worker's own part not counted; True if it does."""
        asked, own = self._limit(folder)
        used = proportional_memory(self._members.get(replica, frozenset()), above=asked + own) - own
        if not asked or used <= asked:
            return False
        message = f"it used {used // MIB} MiB; its limit is {asked // MIB} MiB"
        write_once(folder.evidence, {"reason": EndReason.OUT_OF_MEMORY.value, "message": message})
        return True

    def _limit(self, folder: RankFolder) -> tuple[int, int]:
        """Return what a rank asked for, and what its worker may use beside; read once, before it could be changed."""
        key = str(folder.path)
        if key not in self._limits:
            try:
                order = ReplicaOrder.model_validate_json(folder.order.read_bytes())
            except (OSError, ValueError):
                return 0, 0  # not written yet
            own = int((read_json(folder.claim) or {}).get("own_bytes", 0)) + OWN_MEMORY_BYTES
            self._limits[key] = (order.placement.resources.memory_bytes, own)
        return self._limits[key]

    def _sweep_groups(self) -> None:
        """Remove groups that nobody answers for: agents died, or something had outlived a kill for a moment."""
        with self._lock:
            groups = self._groups.all()  # before who is known: a newborn makes its group before its file
            known = {path.stem for path in self.folder.births.glob("*.json")} | self._table.scan().keys()
            for replica in groups.keys() - known:
                clear(groups[replica])
                log.info("memory group removed", extra={"event": "agent.group_swept", "replica": replica})

    def _clean(self) -> None:
        """Remove what has been kept long enough after nobody desired it."""
        self._sweep_groups()
        for attempt, rank, folder in list(self.folder.ranks()):
            mark = folder.path / "released.json"
            if not mark.exists() and (read_json(folder.claim) or {"replica": "?"}).get("replica") == "":
                mark = folder.claim  # forbidden, never served
            with contextlib.suppress(OSError):
                if time.time() - mark.stat().st_mtime > _KEEP_S:
                    shutil.rmtree(folder.path, ignore_errors=True)
                    folder.path.parent.rmdir()
                    log.info("evidence removed", extra={"event": "agent.cleaned", "attempt": attempt, "rank": rank})

    # --- helpers ----------------------------------------------------------------------------------------------------

    def _ranks_of(self, replica: str) -> list[tuple[str, int, RankFolder]]:
        return [entry for entry in self.folder.ranks() if (read_json(entry[2].claim) or {}).get("replica") == replica]

    def _main_is_alive(self, replica: str) -> bool:
        main = _identity(read_json(self.folder.birth(replica)))
        return main is not None and main.is_alive()

    def _kill_all(self, replica: str) -> bool:
        """Kill until a scan finds none: what is killed may have forked meanwhile."""
        deadline = time.monotonic() + _KILL_S
        while processes := self._table.scan(self._groups.pids).get(replica, frozenset()):
            if (group := self._groups.all().get(replica)) is not None:
                group.kill()
            for process in processes:
                process.kill()
            if time.monotonic() > deadline:
                log.error("processes do not die", extra={"event": "agent.kill_failed", "replica": replica})
                return False
            time.sleep(0.005)
        return True


def _identity(record: dict[str, object] | None) -> Process | None:
    match record:
        case {"pid": int(pid), "start_ticks": int(ticks)}:
            return Process(pid, ticks)
        case _:
            return None


def _evidence(folder: RankFolder) -> Outcome | None:
    own = None
    with contextlib.suppress(OSError, ValueError):
        own = OutcomeFile.model_validate_json(folder.outcome.read_bytes()).outcome
    if own is not None and own.reason not in _TROUBLE:
        return own
    match read_json(folder.evidence):
        case {"reason": str(reason), "message": str(message)}:
            oom = "ask for more memory (memory=…), or work in smaller parts"
            hint = oom if reason == EndReason.OUT_OF_MEMORY else ""
            return Outcome(EndReason(reason), message, hint, tail="" if own is None else own.tail)
        case _:
            return own
