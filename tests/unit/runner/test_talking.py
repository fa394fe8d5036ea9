"""Worker and runner over HTTP: patience, silence about tokens, metrics into MLflow."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Condition, Thread
from typing import Any

import pytest

from factory.domain.jobs import EndReason, Outcome
from factory.errors import ConflictError, InvalidRequestError, UnauthenticatedError, UnavailableError
from factory.runner.link import Link
from factory.schemas.attempt import WorkOrder
from factory.schemas.runner import AttemptReport, JoinRequest
from factory.testing.builders import spec
from factory.worker.attempt import AttemptApi
from factory.worker.http import Http, StaleRunnerError
from factory.worker.progress import ProgressReporter
from factory.worker.tracking import Tracker

Answer = tuple[int, dict[str, Any]]


class Server(ThreadingHTTPServer):
    """Answers as `answer(method, path, body)` says, and keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[tuple[str, str, Any]] = []
        self.changed = Condition()
        self.answer: Callable[[str, str, Any], Answer] = lambda *_: (200, {})
        Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def wait_for(self, holds: Callable[[], object], patience_s: float = 20) -> bool:
        with self.changed:
            return bool(self.changed.wait_for(holds, patience_s))

    def bodies(self, path: str) -> list[Any]:
        return [body for _, asked, body in self.asked if asked.endswith(path)]


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def _serve(self) -> None:
        raw = self.rfile.read(int(self.headers.get("content-length") or 0))
        path = self.path.partition("?")[0]
        body = json.loads(raw) if raw else None
        with self.server.changed:
            self.server.asked.append((self.command, path, body))
            status, answer = self.server.answer(self.command, path, body)
            self.server.changed.notify_all()
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server() -> Iterator[Server]:
    started = Server()
    yield started
    started.shutdown()
    started.server_close()


def problem(status: int, code: str, detail: str) -> Answer:
    return status, {"title": "x", "status": status, "code": code, "detail": detail, "hint": "do that"}


# --- calls ----------------------------------------------------------------------------------------------------------


def test_a_call_is_repeated_until_the_control_plane_is_back(server: Server) -> None:
    server.answer = lambda *_: (503 if len(server.asked) < 3 else 200, {"n": len(server.asked)})

    assert Http(server.url, "fat_x").call("GET", "/x").json() == {"n": 3}


def test_patience_ends_and_the_error_names_neither_token_nor_address(server: Server) -> None:
    server.shutdown()
    server.server_close()

    with pytest.raises(UnavailableError) as caught:
        Http(server.url, "fat_secret", patience_s=0.1).call("GET", "/x")

    assert "secret" not in str(caught.value) + repr(caught.value.__cause__)
    assert "GET /x" in str(caught.value)


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (401, "unauthenticated", UnauthenticatedError),
        (409, "conflict", ConflictError),
        (409, "stale_runner", StaleRunnerError),
        (422, "invalid_request", InvalidRequestError),
        (404, "not_found", InvalidRequestError),
        (500, "factory_error", UnavailableError),
    ],
)
def test_a_refusal_is_an_error_of_its_kind_at_once(server: Server, status: int, code: str, kind: type) -> None:
    server.answer = lambda *_: problem(status, code, "because")

    with pytest.raises(kind, match="because") as caught:
        Http(server.url, "fat_x").call("POST", "/x", json={})

    assert caught.value.hint == "do that"
    assert len(server.asked) == 1


# --- progress and metrics -------------------------------------------------------------------------------------------


def test_progress_is_merged_and_the_last_is_always_sent(server: Server) -> None:
    reporter = ProgressReporter(AttemptApi(Http(server.url, "fat_x")))
    for step in range(500):
        reporter.report(step / 500, f"step {step}")
        reporter.metrics(step, {"loss": 500 - step})
    reporter.close()

    sent = server.bodies("/attempt/progress")
    assert len(sent) <= 4
    assert sent[-1]["message"] == "step 499"
    assert {m["name"]: m["value"] for body in sent for m in body["metrics"]} == {"loss": 1.0}


def tracker_of(server: Server, said: list[str]) -> Tracker:
    order = WorkOrder(
        attempt="job-a.1", job="job-a", tenant="t", ordinal=1, spec=spec(), api_url=server.url,
        mlflow_uri=f"{server.url}/mlflow", mlflow_experiment="t.jobs",
    )  # fmt: skip
    return Tracker(lambda: order, "fat_x", tags={"factory.attempt": "job-a.1"}, params={"lr": "0.1"}, log=said.append)


def mlflow(method: str, path: str, _body: Any) -> Answer:
    match path.rpartition("/2.0/mlflow/")[2]:
        case "experiments/get-by-name":
            return problem(404, "not_found", "no such experiment")
        case "experiments/create":
            return 200, {"experiment_id": "5"}
        case "runs/create":
            return 200, {"run": {"info": {"run_id": "run-1"}}}
        case _:
            return 200, {}


def test_metrics_reach_mlflow_in_one_run_per_attempt(server: Server) -> None:
    server.answer = mlflow
    tracker = tracker_of(server, [])
    for step in range(1200):
        tracker.metrics(step, {"loss": 1.0})
    assert tracker.run_id(20) == "run-1"
    tracker.finish("FINISHED")

    (run,) = server.bodies("runs/create")
    logged = [m for body in server.bodies("runs/log-batch") for m in body.get("metrics", [])]
    assert run["experiment_id"] == "5"
    assert run["tags"] == [{"key": "factory.attempt", "value": "job-a.1"}]
    assert sorted(m["step"] for m in logged) == list(range(1200))
    assert [body["status"] for body in server.bodies("runs/update")] == ["FINISHED"]


def test_metrics_that_mlflow_cannot_take_now_are_sent_when_it_is_back(server: Server) -> None:
    server.answer = lambda *_: (503, {})
    tracker = tracker_of(server, [])
    tracker.metrics(1, {"loss": 1.0})
    assert server.wait_for(lambda: server.asked)

    server.answer = mlflow

    assert server.wait_for(lambda: any(b.get("metrics") for b in server.bodies("runs/log-batch")))
    tracker.finish("FINISHED")


def test_an_mlflow_that_refuses_fails_no_job(server: Server) -> None:
    server.answer = lambda *_: problem(403, "forbidden", "not yours")
    said: list[str] = []
    tracker = tracker_of(server, said)
    tracker.metrics(1, {"loss": 1.0})
    assert tracker.run_id(20) == ""
    tracker.metrics(2, {"loss": 1.0})
    tracker.finish("FINISHED")

    assert said == ["MLflow refused the metrics: not yours"]


# --- the runner's line ----------------------------------------------------------------------------------------------


def ended(at: int = 1) -> AttemptReport:
    return AttemptReport(attempt="job-a.1", kind="ended", at=at, outcome=Outcome(EndReason.COMPLETED), proof="report")


def open_link(server: Server) -> Link:
    link = Link(Http(server.url, "fak_x"), "local", "inc-1", lambda: None)
    link.join(JoinRequest(runner="local", incarnation="inc-1", release="0", ray_version="2"))
    link.start()
    return link


def control_plane(method: str, path: str, _body: Any) -> Answer:
    match path.rpartition("/runner/")[2]:
        case "join":
            return 200, {"protocol": 1, "release": "0", "poll_s": 1, "silence_s": 30}
        case "desired":
            return 200, {"revision": "r1", "attempts": [], "warm_per_node": 1, "ingress": {}}
        case _:
            return 200, {"ignored": {}}


def test_what_is_said_again_and_again_is_sent_once_in_a_while(server: Server) -> None:
    server.answer = control_plane
    link = open_link(server)
    for at in range(50):
        link.offer([ended(at)])
    assert link.flush(10)
    link.close()

    assert len([b for b in server.bodies("/reports") if b["attempts"]]) == 1


def test_a_report_is_repeated_when_it_was_not_heard(server: Server) -> None:
    server.answer = lambda m, p, b: (
        (503, {}) if p.endswith("/reports") and len(server.bodies("/reports")) < 3 else control_plane(m, p, b)
    )
    link = open_link(server)
    link.offer([ended()])

    assert server.wait_for(lambda: len(server.bodies("/reports")) >= 3)
    assert link.flush(10)
    link.close()


def test_a_newer_process_of_the_runner_ends_this_one(server: Server) -> None:
    server.answer = lambda m, p, b: (
        problem(409, "stale_runner", "another one joined") if p.endswith("/desired") else control_plane(m, p, b)
    )
    news = Condition()
    link = Link(Http(server.url, "fak_x"), "local", "inc-1", lambda: _tell(news))
    link.join(JoinRequest(runner="local", incarnation="inc-1", release="0", ray_version="2"))
    with news:
        link.start()
        assert news.wait_for(lambda: link.fatal is not None, 10)
    assert isinstance(link.fatal, StaleRunnerError)


def _tell(news: Condition) -> None:
    with news:
        news.notify_all()
