"""Long polls and logs: an answer comes when something happens, not when a timer says so."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import httpx
import pytest

from .conftest import Runner, Server, Tenant

T = TypeVar("T")


@pytest.fixture
def meanwhile() -> Iterator[Callable[[Callable[[], T]], Future[T]]]:
    """Runs a call beside the test."""
    with ThreadPoolExecutor(4) as pool:
        yield pool.submit


def test_a_submitted_job_is_desired_at_once(tenant: Tenant, runner: Runner, meanwhile: Any) -> None:
    known = runner.desired()["revision"]
    poll = meanwhile(lambda: runner.desired(known, wait_s=20))
    started = time.monotonic()
    job = tenant.submit()
    while job not in [a["job"] for a in poll.result(20)["attempts"]]:
        revision = poll.result()["revision"]
        poll = meanwhile(lambda revision=revision: runner.desired(revision, wait_s=20))
    assert time.monotonic() - started < 2  # two cores shared by many; the path itself takes milliseconds


def test_a_poll_whose_revision_is_known_waits_its_time(server: Server) -> None:
    quiet = Runner(server, "quiet-runner", pool="quiet")
    quiet.join()
    known = quiet.desired()["revision"]
    started = time.monotonic()
    assert quiet.desired(known, wait_s=0.3)["revision"] == known
    assert time.monotonic() - started >= 0.3


def test_wait_answers_when_the_job_moves(tenant: Tenant, runner: Runner, meanwhile: Any) -> None:
    job = tenant.submit()
    attempt = runner.wait_for(job)
    seen = tenant.viewer.get(f"/jobs/{job}").json()["seq"]
    poll = meanwhile(lambda: tenant.viewer.get(f"/jobs/{job}/wait", params={"after": seen, "timeout_s": 20}).json())
    runner.report({"attempt": attempt["attempt"], "kind": "running"})
    view = poll.result(10)
    assert view["state"] == "running"
    assert view["seq"] > seen


def test_wait_answers_progress_only_who_asked_for_it(tenant: Tenant, runner: Runner, meanwhile: Any) -> None:
    job = tenant.submit()
    attempt = runner.start(job)
    seen = tenant.viewer.get(f"/jobs/{job}").json()["seq"]
    asked = {"after": seen, "progress_at": 0, "timeout_s": 20}
    poll = meanwhile(lambda: tenant.viewer.get(f"/jobs/{job}/wait", params=asked).json())
    worker = tenant.server.api(attempt["token"])
    said = {"fraction": 0.5, "message": "half", "metrics": [{"name": "loss", "step": 3, "value": 0.25}]}
    assert worker.post("/attempt/progress", json=said).status_code == 204
    progress = poll.result(10)["progress"]
    assert (progress["fraction"], progress["metrics"]) == (0.5, {"loss": {"step": 3, "value": 0.25}})
    unasked = tenant.viewer.get(f"/jobs/{job}/wait", params={"after": seen, "timeout_s": 0.2}).json()
    assert unasked["seq"] == seen


def test_wait_answers_at_the_end_and_for_asked_states(tenant: Tenant, runner: Runner, meanwhile: Any) -> None:
    job = tenant.submit()
    poll = meanwhile(
        lambda: tenant.viewer.get(f"/jobs/{job}/wait", params={"states": "running", "timeout_s": 20}).json()
    )
    attempt = runner.start(job)
    assert poll.result(10)["state"] == "running"
    poll = meanwhile(lambda: tenant.viewer.get(f"/jobs/{job}/wait", params={"timeout_s": 20}).json())
    runner.end(attempt, result_json='{"answer": 42}')
    view = poll.result(10)
    assert (view["state"], view["result"]) == ("succeeded", {"answer": 42})


def test_a_job_that_waits_says_why(tenant: Tenant, server: Server) -> None:
    runner = Runner(server, "narrow-runner", pool="narrow")  # a pool of its own: nobody else's jobs are in it
    runner.join()
    blocker = tenant.submit(cpu=60, pool="narrow")
    runner.wait_for(blocker)
    job = tenant.submit(cpu=60, pool="narrow")
    with_reason = tenant.viewer.get(f"/jobs/{job}/explain").json()
    assert with_reason["state"] == "queued"
    assert with_reason["waiting"]["reason"]
    assert with_reason["position"] == 1
    for ident in (blocker, job):
        tenant.operator.post(f"/jobs/{ident}:cancel")


def test_an_older_runner_process_is_told_to_stop(server: Server) -> None:
    old = Runner(server, "twice-runner", pool="twice")
    new = Runner(server, "twice-runner", pool="twice", key=old.key)
    old.join()
    new.join()
    answer = old.report()
    assert answer.status_code == 409
    assert answer.json()["code"] == "stale_runner"
    assert new.report().status_code == 200


def test_a_doubled_report_changes_nothing(tenant: Tenant, runner: Runner) -> None:
    attempt = runner.start(tenant.submit())
    runner.end(attempt)
    again = runner.report(
        {"attempt": attempt["attempt"], "kind": "ended", "proof": "report", "outcome": {"reason": "UserError"}}
    )
    assert list(again.json()["ignored"]) == [attempt["attempt"]]
    assert tenant.viewer.get(f"/jobs/{attempt['job']}").json()["state"] == "succeeded"


def test_logs_are_whole_and_in_order(tenant: Tenant, runner: Runner) -> None:
    job = tenant.submit()
    attempt = runner.start(job)
    assert runner.log(attempt, 0, b"one\n") == 4
    assert runner.log(attempt, 4, b"two\n") == 8
    assert runner.log(attempt, 4, b"two\n") == 8  # the answer was lost: said again
    assert runner.log(attempt, 99, b"later\n") == 8  # a gap: told where to go on
    assert runner.log(attempt, 0, b"oops\n", stream="stderr") == 5
    answer = tenant.viewer.get(f"/jobs/{job}/logs")
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.text == "one\ntwo\noops\n"
    assert tenant.viewer.get(f"/jobs/{job}/logs", params={"stream": "stderr"}).text == "oops\n"


def test_a_log_over_its_quota_ends_with_a_mark(tenant: Tenant, runner: Runner) -> None:
    job = tenant.submit()
    attempt = runner.start(job)
    assert runner.log(attempt, 0, b"x" * 90_000) == 90_000
    assert runner.log(attempt, 90_000, b"y" * 50_000) == 140_000
    assert runner.log(attempt, 140_000, b"z" * 50_000) == 190_000
    text = tenant.viewer.get(f"/jobs/{job}/logs").text
    assert text.startswith("x" * 90_000 + "y" * 10_000 + "\n[factory]")
    assert "quota of 100000 bytes" in text
    assert "z" not in text


def test_a_log_of_no_attempt_is_refused(runner: Runner) -> None:
    for attempt in ("job-none.1", "../../etc.1", "job-x"):
        where = {"attempt": attempt, "rank": 0, "stream": "stdout", "offset": 0}
        assert runner.http.post("/runner/logs", params=where, content=b"x").status_code == 404


def _events(client: httpx.Client, job: str, after: str | None = None) -> Iterator[tuple[str, str, dict[str, Any]]]:
    headers = {"Last-Event-ID": after} if after else {}
    with client.stream("GET", f"/jobs/{job}/logs", params={"follow": "true"}, headers=headers) as stream:
        assert stream.status_code == 200
        fields: dict[str, str] = {}
        for line in stream.iter_lines():
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif "event" in fields:
                yield fields["event"], fields["id"], json.loads(fields["data"])
                fields = {}


def test_a_followed_log_comes_live_and_ends_with_the_state(tenant: Tenant, runner: Runner) -> None:
    job = tenant.submit()
    attempt = runner.start(job)
    runner.log(attempt, 0, b"first\n")
    events = _events(tenant.viewer, job)
    name, _, data = next(events)
    assert (name, data["text"], data["offset"]) == ("log", "first\n", 0)
    runner.log(attempt, 6, "zweite Zeile: ä".encode())
    assert next(events)[2]["text"] == "zweite Zeile: ä"
    runner.end(attempt)
    assert [(name, data) for name, _, data in events] == [("end", {"state": "succeeded"})]


def test_a_follower_resumes_where_it_stopped(tenant: Tenant, runner: Runner) -> None:
    job = tenant.submit()
    attempt = runner.start(job)
    text = "zehn Zeichen: ÄÖÜ\n" * 10
    data = text.encode()
    runner.log(attempt, 0, data[:26])  # in the middle of a character
    runner.log(attempt, 0, b"err\n", stream="stderr")
    seen: dict[str, str] = {"stdout": "", "stderr": ""}
    position = None
    events = _events(tenant.viewer, job)
    for _ in range(2):
        _, position, piece = next(events)
        seen[piece["stream"]] += piece["text"]
    events.close()
    runner.log(attempt, 26, data[26:])
    runner.end(attempt)
    for name, _, piece in _events(tenant.viewer, job, position):
        if name == "log":
            seen[piece["stream"]] += piece["text"]
    assert seen == {"stdout": text, "stderr": "err\n"}


def test_bytes_that_come_just_after_the_end_are_still_followed(tenant: Tenant, runner: Runner) -> None:
    job = tenant.submit()
    attempt = runner.start(job)
    late = threading.Timer(0.1, lambda: runner.log(attempt, 0, b"last words\n"))
    events = _events(tenant.viewer, job)
    runner.end(attempt)
    late.start()
    assert [d.get("text") for _, _, d in events] == ["last words\n", None]


def test_a_position_that_is_none_of_ours_is_refused(tenant: Tenant) -> None:
    job = tenant.submit()
    answer = tenant.viewer.get(f"/jobs/{job}/logs", params={"follow": "true"}, headers={"Last-Event-ID": "1.0.x=5"})
    assert answer.status_code == 422
