"""The runner's line to the control plane: join, hear what is desired, say what is.

Two threads, so that neither a long poll nor a control plane that is away ever holds up a kill. Reports are levels, not
edges: the loop offers all that it has to say after every pass, what was said lately is not said again, and what was not
heard is said until the desired state shows that it was.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from factory.errors import FactoryError, UnavailableError
from factory.runner.fencing import Renewals
from factory.schemas.common import API
from factory.schemas.runner import (
    AttemptReport,
    DesiredReply,
    JoinReply,
    JoinRequest,
    NodeReport,
    ReportBatch,
    ReportReply,
)
from factory.worker.http import Http, StaleRunnerError

__all__ = ["Link"]

log = logging.getLogger(__name__)

_REPEAT_S = 2.0  # a report that the desired state does not show yet is said again after so long
_NODES_S = 5.0  # the list of nodes is said at least so often: it is the sign of life too
_RETRY_S = 0.5
_JOIN_PATIENCE_S = 600.0


class Link:
    """One runner process's line. `on_news` is called from its threads when there is something to look at."""

    def __init__(
        self,
        http: Http,
        runner: str,
        incarnation: str,
        on_news: Callable[[], None],
        renewals: Renewals | None = None,
    ) -> None:
        self._http = http
        self._runner = runner
        self.incarnation = incarnation
        self._on_news = on_news
        self._renewals = renewals or Renewals()
        self._lock = threading.Condition()
        self._offered: dict[tuple[str, str], AttemptReport] = {}
        self._said_at: dict[tuple[str, str], float] = {}
        self._nodes: tuple[NodeReport, ...] | None = None
        self._nodes_said: tuple[float, tuple[NodeReport, ...]] = (-1e9, ())
        self._ingress_url = ""
        self._ingress_said = ""
        self._is_closed = False
        self._poll_s = 20
        self._idle = threading.Event()
        self.desired: DesiredReply | None = None
        self.fatal: FactoryError | None = None  # this process has no business any more

    def join(self, request: JoinRequest) -> JoinReply:
        """Say that this process is the runner now. Raises: as `Http.call`."""
        answer = self._http.call(
            "POST", f"{API}/runner/join", body=request.model_dump_json(), patience_s=_JOIN_PATIENCE_S
        )
        reply = JoinReply.model_validate_json(answer.content)
        self._poll_s = reply.poll_s
        self._ingress_said = self._ingress_url = request.ingress_url
        self._nodes = request.nodes
        self._nodes_said = (time.monotonic(), request.nodes)
        return reply

    def start(self) -> None:
        """Begin to poll and to report."""
        threading.Thread(target=self._poll, name="factory-desired", daemon=True).start()
        threading.Thread(target=self._report, name="factory-reports", daemon=True).start()

    def offer(self, reports: Sequence[AttemptReport]) -> None:
        """Replace what there is to say of attempts."""
        with self._lock:
            self._offered = {(r.attempt, r.kind): r for r in reports}
            self._said_at = {key: at for key, at in self._said_at.items() if key in self._offered}
            if self._due():
                self._idle.clear()
                self._lock.notify_all()

    def offer_nodes(self, nodes: tuple[NodeReport, ...], ingress_url: str) -> None:
        """Replace the list of nodes and the ingress's address."""
        with self._lock:
            self._nodes = nodes
            self._ingress_url = ingress_url
            self._lock.notify_all()

    def flush(self, timeout_s: float) -> bool:
        """Wait until all that was offered has been said; False if it could not be in time."""
        return self._idle.wait(timeout_s)

    def close(self) -> None:
        """Stop polling and reporting."""
        with self._lock:
            self._is_closed = True
            self._lock.notify_all()
        self._http.close()

    # --- threads ----------------------------------------------------------------------------------------------------

    def _poll(self) -> None:
        after = ""
        while not self._is_closed:
            query = {"runner": self._runner, "incarnation": self.incarnation, "after": after, "wait_s": self._poll_s}
            try:
                answer = self._http.call(
                    "GET", f"{API}/runner/desired", params=query, patience_s=0, timeout_s=self._poll_s + 10
                )
                reply = DesiredReply.model_validate_json(answer.content)
            except Exception as exc:
                self._trouble(exc, "desired")
                continue
            if reply.revision != after:
                after = reply.revision
                self.desired = reply
                self._renewals.is_on = reply.self_fence
                self._on_news()

    def _report(self) -> None:
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._is_closed or bool(self._due()) or self._nodes_due(), 0.5)
                if self._is_closed:
                    return
                due = self._due()
                nodes = self._nodes if self._nodes_due() else None
                url = self._ingress_url if self._ingress_url != self._ingress_said else None
                if not due and nodes is None and url is None:
                    self._idle.set()
                    continue
            batch = ReportBatch(
                runner=self._runner, incarnation=self.incarnation, nodes=nodes, attempts=tuple(due), ingress_url=url
            )
            renewing = self._renewals.take(n.id for n in nodes or () if n.is_alive)  # before it is sent
            try:
                answer = self._http.call("POST", f"{API}/runner/reports", body=batch.model_dump_json(), patience_s=0)
            except Exception as exc:
                self._trouble(exc, "reports")
                continue
            self._renewals.give(renewing)
            ignored = ReportReply.model_validate_json(answer.content).ignored
            for attempt, why in ignored.items():
                log.info("report ignored: %s", why, extra={"event": "report.ignored", "attempt": attempt})
            with self._lock:
                now = time.monotonic()
                self._said_at |= {(r.attempt, r.kind): now for r in due}
                if nodes is not None:
                    self._nodes_said = (now, nodes)
                if url is not None:
                    self._ingress_said = url
                if not self._due():
                    self._idle.set()

    def _due(self) -> list[AttemptReport]:
        now = time.monotonic()
        return [r for key, r in self._offered.items() if now - self._said_at.get(key, -1e9) >= _REPEAT_S]

    def _nodes_due(self) -> bool:
        said_at, said = self._nodes_said
        return self._nodes is not None and (self._nodes != said or time.monotonic() - said_at >= _NODES_S)

    def _trouble(self, exc: Exception, what: str) -> None:
        if self._is_closed:
            return
        if isinstance(exc, StaleRunnerError):
            self.fatal = exc
            self._is_closed = True
            self._on_news()
            return
        if not isinstance(exc, UnavailableError):
            log.warning("the control plane refused %s: %s", what, exc, extra={"event": "link.refused"})
        with self._lock:
            self._lock.wait_for(lambda: self._is_closed, _RETRY_S)
