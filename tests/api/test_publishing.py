"""ADR 7 over HTTP: a version that has its verdict is published, by whichever job comes, and is never half visible."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import Runner, Tenant
from .data_worker import contract, judge, publish, register


def cancel(tenant: Tenant, runner: Runner, attempt: dict[str, Any]) -> None:
    """Cancel the attempt's job and let its runner say that it has ended."""
    answer = tenant.operator.post(f"/jobs/{attempt['job']}:cancel", json={"reason": "no longer needed"})
    assert answer.json()["state"] == "cancelling", answer.text
    runner.end(attempt, "Cancelled")
    assert tenant.viewer.get(f"/jobs/{attempt['job']}").json()["state"] == "cancelled"


def version(tenant: Tenant, name: str) -> dict[str, Any]:
    return tenant.viewer.get(f"/datasets/{name}/versions/1").json()


def publisher(tenant: Tenant) -> str:
    """The one job of the tenant that is open."""
    (job,) = [j for j in tenant.viewer.get("/jobs").json()["items"] if j["state"] in ("queued", "admitted")]
    return job["id"]


def test_a_cancel_after_the_verdict_leaves_the_version_to_a_publish_job(tenant: Tenant, runner: Runner) -> None:
    made = register(tenant, "counts")
    attempt = runner.start(made["job"])
    worker, version_id = judge(tenant, attempt)
    cancel(tenant, runner, attempt)
    assert worker.post(f"/attempt/versions/{version_id}/published", json={"delta_version": 0}).status_code == 401

    left = version(tenant, "counts")
    job = publisher(tenant)
    assert left["state"] == "validated"
    assert f"job {job} publishes it" in left["message"]
    # nobody sees half of it: no head, no files, and who wants to read it waits
    assert tenant.viewer.get("/datasets/counts").json()["head"] == 0
    path = left["files"][0]["path"]
    assert tenant.viewer.get(f"/datasets/counts/versions/1/files/{path}").status_code == 409
    reader = tenant.submit(inputs={"d": {"dataset": "counts", "version": 1}})
    assert tenant.viewer.get(f"/jobs/{reader}").json()["state"] == "pending"

    second = runner.start(job)
    staged = tenant.server.api(second["token"]).post("/attempt/versions", json={"output": ""}).json()
    assert (staged["version_id"], staged["state"]) == (version_id, "validated")
    assert [file["path"] for file in staged["manifest"]["files"]] == [path]
    publish(tenant.server.api(second["token"]), version_id)
    runner.end(second)

    done = version(tenant, "counts")
    assert (done["state"], done["job"], done["message"]) == ("published", made["job"], "")
    assert tenant.viewer.get("/datasets/counts").json()["head"] == 1
    runner.end(runner.start(reader))


def test_a_cancel_after_a_failed_verdict_leaves_the_version_quarantined(tenant: Tenant, runner: Runner) -> None:
    attempt = runner.start(register(tenant, "faulty", passes=False)["job"])
    judge(tenant, attempt, passes=False)
    cancel(tenant, runner, attempt)
    assert version(tenant, "faulty")["state"] == "quarantined"
    assert [j["state"] for j in tenant.viewer.get("/jobs").json()["items"]] == ["cancelled"]


def test_a_cancel_before_the_verdict_leaves_a_failed_version(tenant: Tenant, runner: Runner) -> None:
    attempt = runner.start(register(tenant, "counts")["job"])
    worker = tenant.server.api(attempt["token"])
    assert worker.post("/attempt/versions", json={"output": ""}).status_code == 200
    cancel(tenant, runner, attempt)
    left = version(tenant, "counts")
    assert left["state"] == "failed"
    assert "cancelled" in left["message"]
    refused = worker.post("/attempt/versions", json={"output": ""})
    assert (refused.status_code, refused.json()["code"]) == (401, "attempt_ended")


@pytest.mark.parametrize("judged", [1, 2])
def test_a_job_that_ends_between_its_outputs_settles_each_by_its_own_verdict(
    tenant: Tenant, runner: Runner, judged: int
) -> None:
    outputs = {name: {"dataset": f"data-{name}", "contract": contract()} for name in ("a", "b")}
    attempt = runner.start(tenant.submit(outputs=outputs))
    judge(tenant, attempt, "a")
    if judged == 2:
        judge(tenant, attempt, "b")
    else:
        tenant.server.api(attempt["token"]).post("/attempt/versions", json={"output": "b"})
    runner.end(attempt, "TimedOut")
    assert version(tenant, "data-a")["state"] == "validated"
    assert version(tenant, "data-b")["state"] == ("validated" if judged == 2 else "failed")
    jobs = [j for j in tenant.viewer.get("/jobs").json()["items"] if j["state"] in ("queued", "admitted")]
    assert len(jobs) == judged
    for job in jobs:
        second = runner.start(job["id"])
        worker = tenant.server.api(second["token"])
        publish(worker, worker.post("/attempt/versions", json={"output": ""}).json()["version_id"])
        runner.end(second)
    assert version(tenant, "data-a")["state"] == "published"
