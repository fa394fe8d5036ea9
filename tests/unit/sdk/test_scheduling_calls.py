"""What the SDK sends for the scheduler's options: the right request, and typed answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from factory import errors
from factory.sdk.client import Client
from factory.sdk.decorators import FactoryFunction, job

JOB = {
    "id": "job-1", "tenant": "t", "name": "n", "kind": "command", "state": "queued", "queue": "t", "pool": None,
    "priority": "normal", "replicas": 1, "submitted_at": 0, "submitted_by": "k", "state_since": 0,
}  # fmt: skip
PLAN = {"feasible": True, "message": "n would start now"}

Calls = list[tuple[str, str, Any]]


@pytest.fixture
def connect() -> Callable[..., tuple[Client, Calls]]:
    """Make a client whose requests are answered here."""

    def make(*answers: Any) -> tuple[Client, Calls]:
        calls: Calls = []
        left = list(answers)

        def handle(request: httpx.Request) -> httpx.Response:
            body = json.loads(request.content) if request.content else None
            calls.append((request.method, request.url.raw_path.decode(), body))
            return httpx.Response(200, json=left.pop(0))

        client = Client("http://factory", "fak_x")
        client.transport._http = httpx.Client(transport=httpx.MockTransport(handle))
        return client, calls

    return make


def double(x: int) -> int:
    return 2 * x


def test_a_job_carries_what_it_says_to_the_scheduler(connect: Callable[..., tuple[Client, Calls]]) -> None:
    client, calls = connect(JOB)
    said = {"replicas": 4, "min_replicas": 2, "flavors": ("h100", "a100"), "topology": "one-node", "estimate_s": 60}
    client.jobs.submit(name="n", command={"argv": ["x"]}, **said)
    body = {"name": "n", "command": {"argv": ["x"]}, **said, "flavors": ["h100", "a100"]}
    assert calls == [("POST", "/api/v1/jobs", body)]


def test_a_decorated_function_takes_the_same_options_and_plans_without_an_upload(
    connect: Callable[..., tuple[Client, Calls]],
) -> None:
    client, calls = connect(PLAN)
    function = job(cpu=2, estimate_s=60, gpu_models=["H100"], client=client)(double)
    assert isinstance(function, FactoryFunction)
    assert function.plan(21).feasible
    ((method, path, body),) = calls
    assert (method, path) == ("POST", "/api/v1/jobs:plan")
    assert (body["cpu"], body["estimate_s"], body["gpu_models"], body["function"]["args"]) == (2, 60, ["H100"], [21])


def test_a_priority_is_patched(connect: Callable[..., tuple[Client, Calls]]) -> None:
    client, calls = connect(JOB, JOB | {"priority": "high"})
    handle = client.jobs.get("job-1")
    assert handle.set_priority("high").priority.value == "high"
    assert calls[1] == ("PATCH", "/api/v1/jobs/job-1", {"priority": "high"})
    with pytest.raises(errors.InvalidRequestError, match="did you mean 'high'"):
        handle.set_priority("higher")
    assert len(calls) == 2


def test_a_quota_that_lends_more_than_it_has_is_refused_by_its_field(
    connect: Callable[..., tuple[Client, Calls]],
) -> None:
    client, calls = connect()
    with pytest.raises(errors.InvalidRequestError, match=r"quotas\.0\.lending: 2 is more than nominal"):
        client.queues.set("q", tenant="t", quotas=[{"pool": "cpu", "nominal": 1, "lending": 2}])
    assert calls == []


def test_the_history_is_read_page_by_page(connect: Callable[..., tuple[Client, Calls]]) -> None:
    row = {
        "id": "job-1", "tenant": "t", "queue": "t", "name": "n", "cpu_milli": 1, "memory_bytes": 0, "gpu_milli": 0,
        "replicas": 1, "submitted_at": 1, "queued_at": 1,
    }  # fmt: skip
    pages = ({"items": [row], "next_cursor": "job-1"}, {"items": [], "next_cursor": "job-0"}, {"items": [row]})
    client, calls = connect(*pages)
    assert [found.id for found in client.history.jobs(1, 2)] == ["job-1", "job-1"]
    assert calls[2][1] == "/api/v1/history/jobs?since=1&until=2&limit=200&cursor=job-0"
