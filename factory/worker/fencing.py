"""Self-fence on a node: an attempt ends when the control plane has not renewed its node for `self_fence_s` (DESIGN §2).

The control plane counts on it: twice that long after the last renewal that it can have given, the attempt is proven
dead. So every renewal is dated by the moment at which the node's agent asked for it, on the node's own clock since
boot: however long it was under way, it never seems younger than it is.

- F1 `renewed.json` in the node's folder says when the last renewal was asked for, and in which boot.
- F2 A replica does not begin an order of a fenced pool when that is too long ago: an order may have been under way.
- F3 While it serves, the replica's own thread and the node's agent, each for itself, look and kill.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from factory.domain.jobs import EndReason, Outcome
from factory.worker.folders import NodeFolder, RankFolder, read_json, write_durably
from factory.worker.orders import OutcomeFile

__all__ = ["EXIT_FENCED", "SelfFence", "boot_clock", "fenced_message", "renewed_at", "write_renewal"]

EXIT_FENCED = 5
_LOOK_S = 1.0


def boot_clock() -> float:
    """Return seconds since boot: the same in every process of the node, never set, and it counts while suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def write_renewal(node: NodeFolder, asked_at: float) -> None:
    """Say when the last renewal was asked for, by `boot_clock`."""
    write_durably(_file(node), {"asked_at": asked_at, "boot": _boot()})


def renewed_at(node: NodeFolder) -> float | None:
    """Return when the last renewal was asked for, by `boot_clock`; None: there was none since this boot."""
    match read_json(_file(node)):
        case {"asked_at": float(at), "boot": str(boot)} if boot == _boot():
            return at
        case _:
            return None


def fenced_message(fence_s: int) -> str:
    """Return why an attempt ended."""
    return f"its node was not renewed by the control plane for {fence_s} s (self-fence)"


class SelfFence:
    """A replica's own watch over its renewals (rules F2, F3).

    Args:
        clock: as `boot_clock`.
        end: ends this process and its children.
    """

    def __init__(
        self,
        node: NodeFolder,
        fence_s: int | None,
        *,
        clock: Callable[[], float] = boot_clock,
        end: Callable[[], None] | None = None,
    ) -> None:
        self._node = node
        self._fence_s = fence_s
        self._clock = clock
        self._end = end or _end_process

    def is_over(self) -> bool:
        """True if the node has not been renewed for too long."""
        if self._fence_s is None:
            return False
        at = renewed_at(self._node)
        return at is None or self._clock() - at > self._fence_s

    def watch(self, folder: RankFolder) -> None:
        """Look at once, and then in a thread until the process ends; when it is over, say why and end."""
        if self._fence_s is None:
            return
        self._look(folder)
        threading.Thread(target=self._watch, args=(folder,), name="factory-fence", daemon=True).start()

    def _watch(self, folder: RankFolder) -> None:
        while True:
            time.sleep(_LOOK_S)
            self._look(folder)

    def _look(self, folder: RankFolder) -> None:
        if not self.is_over():
            return
        lost = Outcome(EndReason.NODE_LOST, fenced_message(self._fence_s or 0))
        with contextlib.suppress(OSError):  # it ends whether or not it can say why
            write_durably(folder.outcome, OutcomeFile(outcome=lost).model_dump(mode="json"))
        self._end()


def _end_process() -> None:
    """Kill the children, until none is left, and end at once: nobody else may be there to do it."""
    me = psutil.Process()
    for _ in range(100):
        children = me.children(recursive=True)
        for child in children:
            with contextlib.suppress(psutil.Error):
                child.kill()
        _, alive = psutil.wait_procs(children, timeout=0.1)
        if not alive:
            break
    os._exit(EXIT_FENCED)


def _file(node: NodeFolder) -> Path:
    return node.root / "renewed.json"


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
