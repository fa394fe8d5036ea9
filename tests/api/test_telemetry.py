"""Logs without secrets, with ids; metrics without job labels (rule 10, notes/reliability.md §7)."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

import pytest

from factory.telemetry.logs import begin_request, configure_logs, note, redact
from factory.telemetry.metrics import TOP_TENANTS, Metrics, StateSample

KEY = "fak_abcdefgh_" + "S" * 43
TOKEN = "fat_job-x.1." + "0f" * 32


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What is logged while the test runs."""
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    stream = io.StringIO()
    configure_logs("json", "info", stream)
    yield stream
    root.handlers[:], root.level = before[0], before[1]


@pytest.mark.parametrize(
    "secret",
    [
        KEY,
        TOKEN,
        f"Authorization: Bearer {KEY}",
        f"bearer {TOKEN}",
        "postgresql://u:hunter22@host/db",
    ],
)
def test_secrets_are_taken_out_wherever_they_are(lines: io.StringIO, secret: str) -> None:
    logging.getLogger("x").warning(
        "got %s", secret, extra={"event": "e", "detail": {"inside": [secret]}, "token": "hunter22"}
    )
    logging.getLogger("x").error("raised", exc_info=ValueError(secret))
    for part in ("S" * 43, "0f" * 32, "hunter22"):
        assert part not in lines.getvalue()
    assert len(lines.getvalue().splitlines()) == 2


def test_a_keys_public_part_stays() -> None:
    assert redact(KEY) == "fak_abcdefgh_[redacted]"


def test_facts_noted_in_a_worker_thread_are_on_every_line_of_the_request(lines: io.StringIO) -> None:
    begin_request(request_id="r-1")
    with ThreadPoolExecutor(1) as pool:
        pool.submit(copy_context().run, note, job="job-1").result()
    logging.getLogger("x").info("done", extra={"event": "e"})
    line = json.loads(lines.getvalue())
    assert (line["request_id"], line["job"], line["level"]) == ("r-1", "job-1", "info")


def test_only_the_largest_tenants_have_series_of_their_own() -> None:
    metrics = Metrics()
    jobs = {("queued", f"t{i:03}", f"t{i:03}"): i + 1 for i in range(TOP_TENANTS + 10)}
    metrics.watch(lambda: StateSample(jobs=jobs))
    text = metrics.render().decode()
    assert text.count('aifactory_jobs{queue="') == TOP_TENANTS + 1
    assert f'aifactory_jobs{{queue="other",state="queued",tenant="other"}} {sum(range(1, 11))}.0' in text
