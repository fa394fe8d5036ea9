"""Metrics into MLflow, by plain REST through the control plane's proxy with the attempt's token.

One MLflow run per attempt. A thread sends in batches; what MLflow cannot take now waits in a bounded spool; MLflow
being down never fails a job (the oldest points go first, and the log says how many).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from factory.errors import FactoryError, InvalidRequestError, UnavailableError
from factory.schemas.attempt import WorkOrder
from factory.worker.http import Http
from factory.worker.progress import now_ms

__all__ = ["Tracker"]

_SPOOL = 100_000  # points
_BATCH = 500  # MLflow takes at most 1,000 metrics per call
_RETRY_S = 2.0
_FINAL_S = 8.0  # at the end of the attempt, to send what is left
_FINAL_IF_NEVER_HEARD_S = 3.0  # MLflow has not answered once: no need to wait long
_REST = "/api/2.0/mlflow"


class Tracker:
    """The attempt's MLflow run; nothing is sent before the first metric."""

    def __init__(
        self,
        order: Callable[[], WorkOrder],
        token: str,
        *,
        tags: Mapping[str, str],
        params: Mapping[str, str],
        log: Callable[[str], None],
    ) -> None:
        """`order` gives the work order with MLflow's address in it; it may call the control plane."""
        self._order = order
        self._token = token
        self._tags = dict(tags)
        self._params = dict(params)
        self._log = log
        self._lock = threading.Condition()
        self._points: deque[dict[str, Any]] = deque()
        self._dropped = 0
        self._wanted = False
        self._status: str | None = None  # set when it shall end
        self._thread: threading.Thread | None = None
        self._http: Http | None = None
        self._run_id = ""
        self._is_refused = False
        self._experiment = ""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Note figures. Never blocks, never fails."""
        at = now_ms()
        with self._lock:
            if self._is_refused:
                return
            for name, value in values.items():
                if len(self._points) >= _SPOOL:
                    self._points.popleft()
                    self._dropped += 1
                self._points.append({"key": name, "value": float(value), "timestamp": at, "step": int(step)})
            self._start()

    def run_id(self, timeout_s: float) -> str:
        """Return the run's id, made if need be; "" if MLflow does not answer in time."""
        with self._lock:
            self._start()
            self._lock.wait_for(lambda: bool(self._run_id) or self._is_refused, timeout_s)
            return self._run_id

    def finish(self, status: str) -> None:
        """Send what is left and end the run as FINISHED, FAILED or KILLED; give up in some seconds."""
        with self._lock:
            if self._thread is None:
                return
            self._status = status
            self._lock.notify_all()
        self._thread.join(_FINAL_S if self._run_id else _FINAL_IF_NEVER_HEARD_S)
        if self._http is not None:
            self._http.close()
        if self._thread.is_alive():
            self._log(f"MLflow did not take {len(self._points)} metric values in time")

    def _start(self) -> None:
        self._wanted = True
        self._lock.notify_all()
        if self._thread is None and self._status is None and not self._is_refused:
            self._thread = threading.Thread(target=self._work, name="factory-mlflow", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._wanted or self._status is not None)
                self._wanted = False
                batch = [self._points[i] for i in range(min(_BATCH, len(self._points)))]
                status = self._status
            try:
                self._send(batch)
                with self._lock:
                    for _ in batch:
                        if self._points:
                            self._points.popleft()
                    is_empty = not self._points
                    self._wanted = not is_empty
                if is_empty and status is not None:
                    self._call("POST", "runs/update", {"run_id": self._run_id, "status": status, "end_time": now_ms()})
                    if self._dropped:
                        self._log(f"{self._dropped} metric values did not reach MLflow: its spool was full")
                    return
            except UnavailableError:
                with self._lock:
                    self._wanted = True
                    self._lock.wait(_RETRY_S)
            except FactoryError as exc:  # it says no; asking again would not help
                self._log(f"MLflow refused the metrics: {exc.message}")
                with self._lock:
                    self._points.clear()
                    self._is_refused = True
                    self._lock.notify_all()
                return

    def _send(self, batch: list[dict[str, Any]]) -> None:
        if not self._run_id:
            run_id = self._create()
            with self._lock:
                self._run_id = run_id
                self._lock.notify_all()
        if batch:
            self._call("POST", "runs/log-batch", {"run_id": self._run_id, "metrics": batch})

    def _create(self) -> str:
        if self._http is None:
            order = self._order()
            self._experiment = order.mlflow_experiment
            self._http = Http(order.mlflow_uri or f"{order.api_url}/mlflow", self._token, patience_s=5)
        run = self._call(
            "POST",
            "runs/create",
            {
                "experiment_id": self._experiment_id(),
                "run_name": self._tags.get("factory.attempt", ""),
                "start_time": now_ms(),
                "tags": [{"key": k, "value": v[:5000]} for k, v in sorted(self._tags.items())],
            },
        )
        run_id = str(run["run"]["info"]["run_id"])
        if self._params:
            params = [{"key": k, "value": v[:500]} for k, v in sorted(self._params.items())]
            self._call("POST", "runs/log-batch", {"run_id": run_id, "params": params[:100]})
        return run_id

    def _experiment_id(self) -> str:
        name = {"experiment_name": self._experiment}
        try:
            return str(self._call("GET", "experiments/get-by-name", name)["experiment"]["experiment_id"])
        except InvalidRequestError:
            pass
        try:
            return str(self._call("POST", "experiments/create", {"name": self._experiment})["experiment_id"])
        except InvalidRequestError:  # another attempt made it meanwhile
            return str(self._call("GET", "experiments/get-by-name", name)["experiment"]["experiment_id"])

    def _call(self, method: str, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        assert self._http is not None
        if method == "GET":
            return self._http.call("GET", f"{_REST}/{path}", params=body).json()
        return self._http.call(method, f"{_REST}/{path}", json=body).json()
