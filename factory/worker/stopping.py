"""The notice to stop, as it reaches a replica: a file that says why, and a pipe that says now.

The agent writes stop.json and then one line into control.fifo. The replica's control thread sleeps in `read`; nothing
polls, and nothing depends on Ray or on user code letting go of the main thread.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable

from factory.domain.jobs import EndReason
from factory.worker.folders import RankFolder, read_json

__all__ = ["StopSignal"]


class StopSignal:
    """Set once, when the attempt is told to stop."""

    def __init__(self, folder: RankFolder) -> None:
        self._folder = folder
        self._event = threading.Event()
        self._actions: list[Callable[[], None]] = []
        self._lock = threading.Lock()
        self.reason: EndReason | None = None

    def listen(self) -> None:
        """Open the pipe and start to listen; a notice that came before is heard too."""
        with contextlib.suppress(FileExistsError):
            os.mkfifo(self._folder.control, 0o600)
        # opened for both ends: it never blocks here, and never reports end of file when the agent goes
        descriptor = os.open(self._folder.control, os.O_RDWR | os.O_CLOEXEC)
        threading.Thread(target=self._wait, args=(descriptor,), name="factory-control", daemon=True).start()

    @property
    def is_set(self) -> bool:
        """True once told to stop."""
        return self._event.is_set()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the notice."""
        return self._event.wait(timeout_s)

    def on_stop(self, action: Callable[[], None]) -> None:
        """Call `action` in the control thread when the notice comes; at once if it has come."""
        with self._lock:
            if not self.is_set:
                self._actions.append(action)
                return
        action()

    def _wait(self, descriptor: int) -> None:
        while not self._notice():
            os.read(descriptor, 64)
        with self._lock:
            self._event.set()
            actions = list(self._actions)
        for action in actions:
            action()

    def _notice(self) -> bool:
        notice = read_json(self._folder.stop)
        if notice is None:
            return False
        with contextlib.suppress(ValueError, KeyError):
            self.reason = EndReason(notice["reason"])
        return True
