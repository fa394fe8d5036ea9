"""Supervision of child processes: start, adopt, watch, restart, end.

A child is known by a pid file (pid + kernel start time, so that a reused pid is never mistaken), lives in a session of
its own and carries the marker `FACTORY_INSTANCE`, which its descendants inherit: what is left at the end has it.
Death is seen at once through pidfds; children adopted from an earlier supervisor are watched the same way.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["MARKER", "Child", "ChildSpec", "Supervisor", "instance_id", "kill_marked", "marked_pids"]

MARKER = "FACTORY_INSTANCE"
_BACKOFF_S = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0)
_STABLE_S = 60.0  # a child that lived so long starts again with no back-off


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """A process to keep alive."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict[str, str])  # on top of ours
    stop_s: float = 10.0  # between SIGTERM and SIGKILL
    after: tuple[str, ...] = ()  # children that must be ready before it starts
    is_ready: Callable[[], bool] = lambda: True
    before_start: Callable[[], None] = lambda: None  # clears what an earlier life left behind
    restart_with: tuple[str, ...] = ()  # when one of these dies, this one is restarted too

    @property
    def fingerprint(self) -> str:
        """Changes when the child would be started differently; then the old one is not adopted."""
        text = json.dumps([self.argv, sorted(self.env.items())])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(slots=True)
class Child:
    """What the supervisor knows of one child."""

    spec: ChildSpec
    pid: int | None = None
    pidfd: int = -1
    process: subprocess.Popen[bytes] | None = None  # None if adopted
    started_at: float = 0.0  # monotonic
    failures: int = 0
    start_after: float = 0.0  # monotonic: back-off
    was_ready: bool = False

    @property
    def is_alive(self) -> bool:
        """True while its pidfd has not fired."""
        return self.pid is not None


def instance_id(data: Path) -> str:
    """Return the marker's value for a data folder."""
    return hashlib.sha256(str(data.resolve()).encode()).hexdigest()[:16]


def start_time(pid: int) -> str | None:
    """Return the kernel's start time of a process (clock ticks since boot), None if it is gone or a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] == "Z" else fields[19]


def marked_pids(instance: str) -> list[int]:
    """Return the processes that carry the marker, ours left out."""
    wanted = f"{MARKER}={instance}".encode()
    found: list[int] = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            environ = Path(f"/proc/{entry}/environ").read_bytes()
        except OSError:
            continue
        if wanted in environ.split(b"\0") and start_time(int(entry)) is not None:
            found.append(int(entry))
    return found


def kill_marked(instance: str, *, keep: Sequence[int] = (), patience_s: float = 5.0) -> int:
    """SIGKILL every process with the marker but `keep`; return how many there were."""
    killed: set[int] = set()
    deadline = time.monotonic() + patience_s
    while pids := [p for p in marked_pids(instance) if p not in keep]:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        killed.update(pids)
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    return len(killed)


class Supervisor:
    """Keeps children alive until `stop` is asked for. Single-threaded; `say` gets one line per event."""

    def __init__(
        self, run_dir: Path, instance: str, specs: Sequence[ChildSpec], say: Callable[[str, str], None]
    ) -> None:
        self._run = run_dir
        self._instance = instance
        self._children = {spec.name: Child(spec) for spec in specs}
        self._say = say  # (child's name, what happened)
        self._selector = selectors.DefaultSelector()
        self._stopping = False
        self._wake_r, self._wake_w = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._selector.register(self._wake_r, selectors.EVENT_READ, None)

    def stop(self) -> None:
        """Ask `run` to end; safe in a signal handler."""
        self._stopping = True
        os.write(self._wake_w, b"x")

    def run(self, on_ready: Callable[[str], None]) -> None:
        """Start or adopt every child and keep them alive; return on `stop`. `on_ready(name)`: one is ready."""
        for child in self._children.values():
            self._adopt(child)
        while not self._stopping:
            self._start_due()
            self._check_ready(on_ready)
            waiting = any(not c.is_alive or not c.was_ready for c in self._children.values())
            for key, _ in self._selector.select(0.1 if waiting else 5.0):
                if key.data is None:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._wake_r, 4096)
                else:
                    self._died(self._children[key.data])

    def end_all(self, order: Sequence[str]) -> int:
        """SIGTERM the children in order, each gone before the next; kill what is left of them; return how many."""
        for name in order:
            self._end(self._children[name])
        left = kill_marked(self._instance)
        for child in self._children.values():
            self._pid_file(child).unlink(missing_ok=True)
        return left

    def pids(self) -> dict[str, int]:
        """Return the live children's pids."""
        return {name: c.pid for name, c in self._children.items() if c.pid is not None}

    # -- one child ------------------------------------------------------------------------------------------------

    def _pid_file(self, child: Child) -> Path:
        return self._run / f"{child.spec.name}.pid"

    def _adopt(self, child: Child) -> None:
        try:
            known = json.loads(self._pid_file(child).read_text())
            pid, started, fingerprint = int(known["pid"]), str(known["start_time"]), str(known["fingerprint"])
        except (OSError, ValueError, KeyError):
            return
        if start_time(pid) != started:
            return
        if fingerprint != child.spec.fingerprint:
            self._say(child.spec.name, "was started differently; replacing it")
            _end_pid(pid, child.spec.stop_s)
            return
        try:
            self._watch(child, pid)
        except ProcessLookupError:
            return
        self._say(child.spec.name, f"adopted (pid {pid})")

    def _watch(self, child: Child, pid: int) -> None:
        child.pidfd = os.pidfd_open(pid)
        child.pid = pid
        child.started_at = time.monotonic()
        child.was_ready = False
        self._selector.register(child.pidfd, selectors.EVENT_READ, child.spec.name)

    def _start_due(self) -> None:
        now = time.monotonic()
        for child in self._children.values():
            if child.is_alive or now < child.start_after:
                continue
            if all(self._children[name].was_ready for name in child.spec.after):
                self._start(child)

    def _start(self, child: Child) -> None:
        spec = child.spec
        spec.before_start()
        log = (self._run / f"{spec.name}.log").open("ab")
        with log:
            child.process = subprocess.Popen(
                spec.argv,
                env={**os.environ, **spec.env, MARKER: self._instance},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=self._run,
            )
        pid = child.process.pid
        record = {"pid": pid, "start_time": start_time(pid), "fingerprint": spec.fingerprint}
        temporary = self._pid_file(child).with_suffix(".tmp")
        temporary.write_text(json.dumps(record))
        temporary.replace(self._pid_file(child))
        self._watch(child, pid)

    def _check_ready(self, on_ready: Callable[[str], None]) -> None:
        for child in self._children.values():
            if child.is_alive and not child.was_ready and child.spec.is_ready():
                child.was_ready = True
                child.failures = 0 if child.process is None else child.failures
                on_ready(child.spec.name)

    def _forget(self, child: Child) -> None:
        self._selector.unregister(child.pidfd)
        os.close(child.pidfd)
        child.pidfd, child.pid = -1, None

    def _died(self, child: Child) -> None:
        lived = time.monotonic() - child.started_at
        how = ""
        if child.process is not None:
            code = child.process.wait()
            how = f" ({signal.Signals(-code).name})" if code < 0 else f" (exit {code})"
        self._forget(child)
        child.failures = 0 if lived > _STABLE_S else child.failures + 1
        pause = _BACKOFF_S[min(max(child.failures - 1, 0), len(_BACKOFF_S) - 1)]
        child.start_after = time.monotonic() + pause
        child.was_ready = False
        self._say(child.spec.name, f"died{how}; restarting{f' in {pause:g} s' if pause else ''}")
        for other in self._children.values():
            if child.spec.name in other.spec.restart_with and other.is_alive:
                self._end(other)
                other.was_ready = False

    def _end(self, child: Child) -> None:
        if child.pid is None:
            return
        pid = child.pid
        _end_pid(pid, child.spec.stop_s, child.pidfd)
        if child.process is not None:
            child.process.wait()
        self._forget(child)


def _end_pid(pid: int, stop_s: float, pidfd: int | None = None) -> None:
    """SIGTERM, wait, SIGKILL the whole session's process group."""
    fd = pidfd if pidfd is not None else os.pidfd_open(pid)
    try:
        for number, patience in ((signal.SIGTERM, stop_s), (signal.SIGKILL, 5.0)):
            with contextlib.suppress(ProcessLookupError):
                if number is signal.SIGKILL:
                    os.killpg(pid, number)
                else:
                    os.kill(pid, number)
            if _fires(fd, patience):
                return
    finally:
        if pidfd is None:
            os.close(fd)


def _fires(fd: int, patience_s: float) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(fd, selectors.EVENT_READ)
        return bool(selector.select(patience_s))


@contextlib.contextmanager
def raised_signals(handler: Callable[[], None]) -> Iterator[None]:
    """Call `handler` on SIGINT and SIGTERM instead of dying."""
    before = {n: signal.signal(n, lambda *_: handler()) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
