"""The threads beside the event loop: the control loop's, the feed follower's, housekeeping's, the MLflow projection's.

Each has one job, ends when told, and outlives every error of a turn: it says so and tries again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from factory.api.serving import Serving
from factory.api.wakes import Bell, FeedFollower
from factory.control.loop import TickResult
from factory.datasets.housekeeping import sweep_uploads
from factory.domain.ids import UploadId
from factory.domain.time import SECOND
from factory.errors import UnavailableError
from factory.models.projection import project_once
from factory.telemetry.metrics import Metrics

__all__ = ["Threads"]

_log = logging.getLogger(__name__)
_NAP_S = 1.0  # between two turns of the control loop when nothing wakes it and it asks for no earlier one
_GATHER_S = 0.005  # changes that come together share a turn of the control loop
_STOP_S = 10.0
_RETRY_PROJECTION_S = 5.0  # while MLflow is away, or another process leads


class Threads:
    """All of a server's threads.

    Args:
        commit_bell: rung after each commit (see CommitHooks); the follower waits on it.
    """

    def __init__(self, serving: Serving, *, commit_bell: Bell) -> None:
        self._serving = serving
        self._stopping = threading.Event()
        self._loop_bell = Bell()
        self._follower = FeedFollower(
            serving.plane.store, serving.hub, on_change=self._loop_bell.ring, bell=commit_bell
        )
        self._threads = [
            self._thread("control-loop", self._turn),
            self._thread("feed", self._follower.run),
            self._thread("housekeeping", self._keep_house),
        ]
        if serving.plane.registry is not None:
            self._threads.append(self._thread("mlflow-projection", self._project))

    def start(self) -> None:
        """Start them."""
        self._serving.pulse.started_at = time.monotonic()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End them and give the lease up, so that the next leader need not wait. Blocks until they are done."""
        self._stopping.set()
        self._loop_bell.ring()
        self._serving.projection_bell.ring()
        self._follower.stop()
        for thread in self._threads:
            thread.join(_STOP_S)
        try:
            self._serving.plane.loop.release()
        except Exception:  # the lease then ends by itself
            _log.exception("the lease could not be given up", extra={"event": "lease.release_failed"})

    def _thread(self, name: str, body: Callable[[], None]) -> threading.Thread:
        return threading.Thread(target=body, name=name, daemon=True)

    def _turn(self) -> None:
        plane, pulse, metrics = self._serving.plane, self._serving.pulse, self._serving.plane.metrics
        while not self._stopping.is_set():
            now = plane.clock.now()
            started = time.perf_counter()
            try:
                result = plane.loop.tick(now)
            except Exception as exc:  # the loop's edge: say it, count it, turn again
                pulse.error = f"{type(exc).__name__}: {exc}"
                metrics.loop_errors.inc()
                _log.exception("a turn of the control loop failed", extra={"event": "loop.failed"})
                self._loop_bell.wait(_NAP_S)
                continue
            metrics.pass_seconds.observe(time.perf_counter() - started)
            if result.leading and not pulse.leading:
                _log.info("leads", extra={"event": "loop.leads", "epoch": result.epoch})
            pulse.error, pulse.turned_at = "", time.monotonic()
            pulse.leading, pulse.epoch = result.leading, result.epoch
            _count(metrics, result)
            nap = min((result.wake_at - plane.clock.now()) / 1000, _NAP_S)
            if nap > 0 and self._loop_bell.wait(nap):
                self._stopping.wait(_GATHER_S)

    def _keep_house(self) -> None:
        """Remove staged bytes that nobody needs; a batch a turn, and a round every `housekeeping_s`."""
        plane = self._serving.plane
        settings, keep_ms = plane.settings, plane.settings.upload_keep_s * SECOND
        after: UploadId | None = None
        while not self._stopping.is_set():
            try:
                if self._serving.pulse.leading:  # one sweeper is enough, though two do no harm
                    swept = sweep_uploads(plane.store, plane.objects, plane.clock.now(), keep_ms=keep_ms, after=after)
                    after = swept.after
            except UnavailableError:  # the database is away: nothing is lost, it is behind
                after = None
            except Exception:  # as above
                after = None
                _log.exception("a turn of housekeeping failed", extra={"event": "housekeeping.failed"})
            self._stopping.wait(_NAP_S if after is not None else settings.housekeeping_s)

    def _project(self) -> None:
        plane, bell = self._serving.plane, self._serving.projection_bell
        registry = plane.registry
        assert registry is not None  # the thread exists only with one
        while not self._stopping.is_set():
            pause = _RETRY_PROJECTION_S
            try:
                if self._serving.pulse.leading:  # one writer is enough
                    done = project_once(plane.store, registry, plane.clock.now())
                    self._serving.pulse.not_projected = done.refused
                    pause = plane.settings.projection_s
            except UnavailableError:  # MLflow is away: nothing is lost, it is behind
                plane.metrics.projection_failures.inc()
            except Exception:  # as above
                plane.metrics.projection_failures.inc()
                _log.exception("a turn of the MLflow projection failed", extra={"event": "projection.failed"})
            bell.wait(pause)


def _count(metrics: Metrics, result: TickResult) -> None:
    metrics.is_leader.set(1 if result.leading else 0)
    if result.fenced:
        metrics.fenced.inc()
    if result.admitted:
        metrics.decisions.labels("admitted", "").inc(len(result.admitted))
    if result.preempted:
        metrics.decisions.labels("preempted", "").inc(len(result.preempted))
    for _, why in result.refused:
        metrics.decisions.labels("refused", why.value).inc()
