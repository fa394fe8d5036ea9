"""Logs on their way to the control plane: by offset, so that nothing is lost or doubled, whoever dies in between.

The files stay on the node until they are whole over there. A chunk that was stored but whose answer was lost is
answered with the offset to go on from.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from dataclasses import dataclass

from factory.errors import FactoryError, UnavailableError
from factory.schemas.common import API
from factory.schemas.runner import LogReply
from factory.worker.folders import STREAMS, RankFolder
from factory.worker.http import Http

__all__ = ["LogShipper", "Target"]

log = logging.getLogger(__name__)

_PERIOD_S = 0.1  # between two looks at the files
_CHUNK = 512 * 1024
_BACKOFF_S = 1.0


@dataclass(frozen=True, slots=True)
class Target:
    """The logs of one rank."""

    attempt: str
    rank: int
    folder: RankFolder
    is_over: bool  # nothing will be appended any more


class LogShipper:
    """A thread that ships what was appended. Offsets are asked for anew after a restart."""

    def __init__(self, http: Http, *, resumes: Iterable[tuple[str, int]] = ()) -> None:
        """`resumes`: ranks whose files were there before: how much of them is stored has to be asked."""
        self._http = http
        self._unsure = set(resumes)
        self._offsets: dict[tuple[str, int, str], int] = {}
        self._targets: tuple[Target, ...] = ()
        self._whole: frozenset[tuple[str, int]] = frozenset()
        self._wake = threading.Event()
        self._on_whole = lambda: None
        self._thread = threading.Thread(target=self._run, name="factory-logs", daemon=True)

    def start(self, on_whole: object) -> None:
        """Begin; `on_whole()` is called when more logs have become whole."""
        if callable(on_whole):
            self._on_whole = on_whole
        self._thread.start()

    def watch(self, targets: tuple[Target, ...]) -> None:
        """Replace the ranks to ship."""
        ended_before = {(t.attempt, t.rank) for t in self._targets if t.is_over}
        self._targets = targets
        if any(t.is_over and (t.attempt, t.rank) not in ended_before for t in targets):
            self._wake.set()

    def is_whole(self, attempt: str, rank: int) -> bool:
        """True once all that there will be of a rank's logs is stored (or refused for good)."""
        return (attempt, rank) in self._whole

    def _run(self) -> None:
        while True:
            self._wake.wait(_PERIOD_S)
            self._wake.clear()
            targets = self._targets
            try:
                whole = {(t.attempt, t.rank) for t in targets if self._ship(t) and t.is_over}
            except UnavailableError:
                self._wake.wait(_BACKOFF_S)  # it is repeated from the same offset
                continue
            except Exception:
                log.exception("shipping logs failed", extra={"event": "logs.failed"})
                self._wake.wait(_BACKOFF_S)
                continue
            before = self._whole
            self._whole = frozenset(whole)
            if whole - before:
                self._on_whole()

    def _ship(self, target: Target) -> bool:
        """Send what is new; True if all there is now is stored."""
        if target.is_over and self.is_whole(target.attempt, target.rank):
            return True
        try:
            stored = [self._ship_stream(target, stream) for stream in STREAMS]  # one stream never waits for the other
            return all(stored)
        except UnavailableError:
            raise
        except FactoryError as exc:  # it does not want them: the attempt is unknown over there
            log.warning("logs refused: %s", exc.message, extra={"event": "logs.refused", "attempt": target.attempt})
            return True

    def _ship_stream(self, target: Target, stream: str) -> bool:
        key = (target.attempt, target.rank, stream)
        try:
            file = target.folder.stream(stream).open("rb")
        except FileNotFoundError:
            return True
        query = {"attempt": target.attempt, "rank": target.rank, "stream": stream}
        with file:
            if key not in self._offsets:
                self._offsets[key] = self._stored(query) if (target.attempt, target.rank) in self._unsure else 0
            while True:
                file.seek(self._offsets[key])
                chunk = file.read(_CHUNK)
                if not chunk:
                    return True
                answer = self._http.call(
                    "POST",
                    f"{API}/runner/logs",
                    params=query | {"offset": self._offsets[key]},
                    body=chunk,
                    patience_s=2,
                )
                stored = LogReply.model_validate_json(answer.content).next_offset
                if stored == self._offsets[key]:
                    return False  # nothing moved; try again at the next look
                self._offsets[key] = stored

    def _stored(self, query: dict[str, object]) -> int:
        answer = self._http.call("GET", f"{API}/runner/logs", params=query, patience_s=2)
        return LogReply.model_validate_json(answer.content).next_offset
