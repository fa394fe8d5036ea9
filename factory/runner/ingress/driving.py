"""Driving an ingress process, whichever program it is: one folder, one state, and a process that outlives us."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from factory.errors import ConfigurationError
from factory.runner.ingress.answers import sound
from factory.runner.ingress.process import Generation, IngressFolder, IngressProcess
from factory.serving.ports import IngressState

__all__ = ["DrivenIngress"]


class DrivenIngress(ABC):
    """The common half of the adapters of `serving.ports.Ingress`.

    One object at a time drives a folder; safe to use from several threads.
    """

    what: str  # the program, for messages
    start_s: float  # how long it may take to answer at first

    def __init__(
        self,
        folder: Path,
        port: int,
        host: str = "127.0.0.1",
        env: Mapping[str, str] = MappingProxyType({}),
        *,
        secret: str = "",
    ) -> None:
        """Args:
        folder: of its own, made 0700.
        env: set in the process, on top of this one's environment.
        secret: what replicas want to see in `x-factory-ingress`; letters, digits, `_` and `-`.
        """
        self._host, self._port, self._secret = host, port, secret
        self._folder = IngressFolder(folder)
        self._process = IngressProcess(self._folder, env)
        self._lock = threading.RLock()

    @property
    def pid(self) -> int | None:
        """The process that serves now."""
        current = self._process.current
        return current.pid if current else None

    def start(self) -> str:
        """Start the process with the last state known, or adopt a running one; return the base URL."""
        with self._lock:
            self._folder.make()
            self._process.sweep()
            self._ensure(self._folder.load_state())
            return f"http://{self._host}:{self._port}"

    def apply(self, state: IngressState) -> None:
        """Make it so. Raises: UnavailableError: the process does not answer, or refused something; apply again."""
        with self._lock:
            state = sound(state)
            self._folder.make()
            self._folder.save_state(state)
            self._tell(self._ensure(state), state)

    def is_alive(self) -> bool:
        """True if the process runs and answers."""
        current = self._process.current
        return current is not None and self._answers(current)

    def stop(self) -> None:
        """End every process of this folder."""
        with self._lock:
            self._process.end_all()

    @abstractmethod
    def _ensure(self, state: IngressState) -> Generation:
        """Return a process that fits our settings and the state's size; start it if need be."""

    @abstractmethod
    def _tell(self, generation: Generation, state: IngressState) -> None:
        """Bring the process to the state. Raises: UnavailableError."""

    @abstractmethod
    def _answers(self, generation: Generation) -> bool:
        """Whether exactly this process answers on its control socket."""

    def _wait_for(self, made: Generation, predecessor: Generation | None) -> None:
        """Wait until a new process answers. Raises: ConfigurationError: it does not; the predecessor is back."""
        deadline = time.monotonic() + self.start_s
        while not self._answers(made):
            if not made.is_alive or time.monotonic() > deadline:
                self._process.undo(made, predecessor)
                raise ConfigurationError(
                    f"{self.what} does not start on {self._host}:{self._port}", hint=self._process.log_tail()
                )
            time.sleep(0.01)
