"""A runner that is cut off cannot renew its nodes: what runs there ends by itself, and the proof reaches the ledger."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from factory.domain.jobs import EndReason
from factory.schemas.pools import LEAST_FENCE_S
from factory.worker.fencing import renewed_at
from factory.worker.folders import NodeFolder, start_ticks
from tests.integration.runner.conftest import Fleet, until


@pytest.fixture
def fenced(fleet: Fleet) -> Iterator[Fleet]:
    """The fleet with a self-fence on its pool."""
    (pool,) = fleet.client.pools.list()
    fleet.client.pools.set(pool.name, self_fence_s=LEAST_FENCE_S)
    yield fleet
    until(lambda: not any(n.attempts for n in fleet.client.nodes.list()))
    assert fleet.client.pools.set(pool.name, self_fence_s=0).self_fence_s is None


def test_an_attempt_whose_runner_is_cut_off_ends_by_itself(fenced: Fleet) -> None:
    job = fenced.command("sh", "-c", "echo $$; exec sleep 300", retry={"max_retries": 0})
    until(lambda: job.log_text().strip().isdigit(), 60)
    pid = int(job.log_text())
    node = NodeFolder(fenced.node())
    first = renewed_at(node)
    until(lambda: renewed_at(node) != first)
    assert start_ticks(pid) is not None, "a node that is renewed ends nothing"

    runner = fenced.processes["runner"]
    os.kill(runner.pid, signal.SIGSTOP)
    stopped_at = time.monotonic()
    try:
        until(lambda: start_ticks(pid) is None, LEAST_FENCE_S + 15)
        lived = time.monotonic() - stopped_at
    finally:
        os.kill(runner.pid, signal.SIGCONT)
    assert lived > LEAST_FENCE_S / 2, "it was renewed until the runner was cut off"

    until(lambda: job.refresh().attempts[0].ended_at is not None)
    outcome = job.view.attempts[0].outcome
    assert outcome is not None
    assert outcome.reason is EndReason.NODE_LOST
    assert "self-fence" in outcome.message
