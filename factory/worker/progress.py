"""Live figures: buffered here, sent by a thread at most twice a second, merged when the control plane is slow."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

from factory.errors import FactoryError, UnauthenticatedError
from factory.schemas.attempt import MetricPoint, ProgressRequest
from factory.worker.attempt import AttemptApi

__all__ = ["ProgressReporter"]

_INTERVAL_S = 0.5
_FINAL_PATIENCE_S = 5.0


class ProgressReporter:
    """Keeps the newest fraction, message and value of each metric until they are sent."""

    def __init__(self, api: AttemptApi) -> None:
        self._api = api
        self._lock = threading.Condition()
        self._fraction = 0.0
        self._message = ""
        self._metrics: dict[str, tuple[int, float]] = {}
        self._is_dirty = False
        self._is_closed = False
        self._thread: threading.Thread | None = None

    def report(self, fraction: float | None = None, message: str | None = None) -> None:
        """Note how much is done (0 to 1) and what is going on. Never blocks, never fails."""
        with self._lock:
            if fraction is not None:
                self._fraction = min(1.0, max(0.0, float(fraction))) if fraction == fraction else self._fraction
            if message is not None:
                self._message = message[:500]
            self._changed()

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Note figures of a step; of each metric the newest is sent."""
        with self._lock:
            self._metrics.update({name: (step, float(value)) for name, value in values.items()})
            self._changed()

    def close(self) -> None:
        """Send what is left; wait at most some seconds."""
        with self._lock:
            self._is_closed = True
            self._lock.notify_all()
        if self._thread is not None:
            self._thread.join(_FINAL_PATIENCE_S)

    def _changed(self) -> None:
        self._is_dirty = True
        self._lock.notify_all()
        if self._thread is None:
            self._thread = threading.Thread(target=self._send_all, name="factory-progress", daemon=True)
            self._thread.start()

    def _send_all(self) -> None:
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._is_dirty or self._is_closed)
                if not self._is_dirty:
                    return
                sent = self._metrics
                self._metrics = {}
                self._is_dirty = False
                points = tuple(
                    MetricPoint(name=n, step=s, value=v) for n, (s, v) in sorted(sent.items()) if abs(v) < float("inf")
                )
                request = ProgressRequest(fraction=self._fraction, message=self._message, metrics=points)
                patience_s = _FINAL_PATIENCE_S if self._is_closed else 30.0
            try:
                self._api.progress(request, patience_s=patience_s)
            except UnauthenticatedError:
                return  # the attempt is over: nobody wants to know
            except FactoryError:
                with self._lock:
                    self._metrics = sent | self._metrics
                    self._is_dirty = not self._is_closed
            with self._lock:
                if not self._is_closed:
                    self._lock.wait_for(lambda: self._is_closed, _INTERVAL_S)


def now_ms() -> int:
    """Return the time in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000
