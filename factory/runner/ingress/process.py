"""The ingress's process: started in a session of its own, found again by the next runner, ended without remains.

It must outlive the runner (requests go on while a runner restarts), so it is known by a record in its folder (pid and
kernel start time: a reused pid is never mistaken) and by the marker `FACTORY_INGRESS=<folder's id>` in its environment,
which finds even one whose record was never written. A process that hands its port over to a successor is `retiring`: it
finishes what it has and ends by itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import selectors
import signal
import stat
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from factory.errors import ConfigurationError
from factory.runner.ingress.answers import decode_state, encode_state
from factory.serving.ports import IngressState

__all__ = ["EMPTY", "MARKER", "Generation", "IngressFolder", "IngressProcess"]

MARKER = "FACTORY_INGRESS"
EMPTY = IngressState((), ())
_SOCKET_NAME_BYTES = 40  # "admin-9999.sock" and what HAProxy appends to it while it binds
_SOCKET_PATH_LIMIT = 107  # bytes of an AF_UNIX path
_STOP_S = 3.0  # between SIGTERM and SIGKILL


class IngressFolder:
    """The files of one ingress (0700): configuration, record of its process, last state, log, sockets."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path).resolve()
        self.id = hashlib.sha256(str(self.path).encode()).hexdigest()[:16]
        self.log = self.path / "ingress.log"
        self._state = self.path / "state.json"

    def make(self) -> None:
        """Make the folders that are missing. Raises: ConfigurationError: somebody else's folder is in the way."""
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.path.chmod(0o700)
        sockets = self.sockets
        sockets.mkdir(exist_ok=True, mode=0o700)
        facts = sockets.lstat()
        if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid() or facts.st_mode & 0o077:
            raise ConfigurationError(f"{sockets} is not a private folder of this user", hint="remove it")

    @property
    def sockets(self) -> Path:
        """Where sockets lie: here, or in a short temporary folder if this path is too long for AF_UNIX."""
        if len(str(self.path).encode()) + _SOCKET_NAME_BYTES <= _SOCKET_PATH_LIMIT:
            return self.path
        return Path(tempfile.gettempdir()) / f"fingress-{self.id}"

    def write(self, name: str, content: str) -> Path:
        """Replace a file (0600) in one step; return its path."""
        path = self.path / name
        temporary = path.with_name(f"{name}.tmp")
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(content)
        temporary.replace(path)
        return path

    def save_state(self, state: IngressState) -> None:
        """Keep the state for the next start."""
        self.write(self._state.name, json.dumps(encode_state(state)))

    def load_state(self) -> IngressState:
        """Return the last state that was kept, an empty one if there is none: old news beats none."""
        try:
            return decode_state(json.loads(self._state.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError):
            return EMPTY


@dataclass(frozen=True, slots=True)
class Generation:
    """One process that served, or serves, the port."""

    pid: int
    start_time: str  # clock ticks since boot, as the kernel says
    fingerprint: str  # differs when it would be started differently
    control: str  # path of its admin socket
    number: int

    @property
    def is_alive(self) -> bool:
        """True while exactly this process runs."""
        return _start_time(self.pid) == self.start_time


class IngressProcess:
    """Starts, remembers and ends the processes of one folder."""

    def __init__(self, folder: IngressFolder, env: Mapping[str, str]) -> None:
        self._folder = folder
        self._env = dict(env)
        self._children: list[subprocess.Popen[bytes]] = []
        self._current: Generation | None = None
        self._retiring: tuple[Generation, ...] = ()
        self._read()

    @property
    def current(self) -> Generation | None:
        """The process that serves, None if it is not alive."""
        self._reap()
        if self._current is None or not self._current.is_alive:
            self._read()  # an adapter of another runner may have replaced it
        return self._current if self._current is not None and self._current.is_alive else None

    @property
    def retiring(self) -> tuple[Generation, ...]:
        """Processes that only finish what they have."""
        self._reap()
        return tuple(g for g in self._retiring if g.is_alive)

    def next_control(self) -> Path:
        """Return the path of the next process's admin socket: never that of one that lives."""
        number = self._current.number + 1 if self._current is not None else 1
        return self._folder.sockets / f"admin-{number}.sock"

    def launch(
        self, argv: Sequence[str], fingerprint: str, control: Path, *, succeeds: Generation | None
    ) -> Generation:
        """Start a process that answers on `control`; `succeeds` (None: nobody lives) retires. The caller awaits it."""
        number = int(control.stem.rpartition("-")[2])
        control.unlink(missing_ok=True)
        with self._folder.log.open("ab") as log:
            child = subprocess.Popen(
                argv,
                env={**os.environ, **self._env, MARKER: self._folder.id},
                cwd=self._folder.path,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._children.append(child)
        made = Generation(child.pid, _start_time(child.pid) or "", fingerprint, str(control), number)
        self._retiring = (*self.retiring, *((succeeds,) if succeeds else ()))
        self._current = made
        self._write()
        return made

    def undo(self, failed: Generation, back_to: Generation | None) -> None:
        """A launch did not come up: end it, go back to its predecessor."""
        end(failed)
        self._current = back_to
        self._retiring = tuple(g for g in self._retiring if g != back_to)
        self._write()

    def kill_current(self) -> None:
        """Kill a process that no longer listens to anybody."""
        if (current := self.current) is not None:
            end(current, patience_s=0)

    def sweep(self) -> int:
        """Kill every process of this folder that the record does not know; return how many there were."""
        known = {g.pid for g in (self.current, *self.retiring) if g is not None}
        strangers = [g for g in self._marked() if g.pid not in known]
        for stranger in strangers:
            end(stranger)
        return len(strangers)

    def end_all(self) -> None:
        """End everything of this folder; leave no socket."""
        for generation in (self.current, *self.retiring):
            if generation is not None:
                end(generation)
        self.sweep()
        self._reap()
        self._current, self._retiring = None, ()
        self._record.unlink(missing_ok=True)
        sockets = self._folder.sockets
        for path in sockets.glob("admin-*.sock*"):
            path.unlink(missing_ok=True)
        if sockets != self._folder.path:
            with contextlib.suppress(OSError):
                sockets.rmdir()

    def log_tail(self, lines: int = 6) -> str:
        """Return the last lines of the log, for an error message."""
        try:
            return "\n".join(self._folder.log.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""

    # -- record ------------------------------------------------------------------------------------------------------

    @property
    def _record(self) -> Path:
        return self._folder.path / "process.json"

    def _read(self) -> None:
        try:
            known = json.loads(self._record.read_text())
            self._current = Generation(**known["current"]) if known["current"] else None
            self._retiring = tuple(Generation(**g) for g in known["retiring"])
        except (OSError, ValueError, KeyError, TypeError):
            self._current, self._retiring = None, ()

    def _write(self) -> None:
        current = asdict(self._current) if self._current else None
        record = {"current": current, "retiring": [asdict(g) for g in self._retiring]}
        self._folder.write(self._record.name, json.dumps(record))

    def _reap(self) -> None:
        self._children = [child for child in self._children if child.poll() is None]

    def _marked(self) -> list[Generation]:
        wanted = f"{MARKER}={self._folder.id}".encode()
        found: list[Generation] = []
        for entry in os.listdir("/proc"):
            if not entry.isdigit() or int(entry) == os.getpid():
                continue
            started = _start_time(int(entry))
            try:
                environ = Path(f"/proc/{entry}/environ").read_bytes()
            except OSError:
                continue
            if started is not None and wanted in environ.split(b"\0"):
                found.append(Generation(int(entry), started, "", "", 0))
        return found


def end(generation: Generation, patience_s: float = _STOP_S) -> None:
    """SIGTERM, wait, SIGKILL; returns when it is gone. Never touches a process that only has the same pid."""
    try:
        pidfd = os.pidfd_open(generation.pid)
    except ProcessLookupError:
        return
    try:
        if not generation.is_alive:
            return
        for number, wait_s in ((signal.SIGTERM, patience_s), (signal.SIGKILL, _STOP_S)):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, number)
            with selectors.DefaultSelector() as selector:
                selector.register(pidfd, selectors.EVENT_READ)
                if selector.select(wait_s):
                    return
    finally:
        os.close(pidfd)


def _start_time(pid: int) -> str | None:
    """Return the kernel's start time of a process, None if it is gone or a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]
