"""What a person says to the scheduler and asks of it: options, priority, queues, policies, the recorded history."""

from __future__ import annotations

import time
from typing import Any

import pytest

from .conftest import Runner, Server, Tenant, spec


def now_ms() -> int:
    return int(time.time() * 1000)


def test_a_jobs_options_are_kept_and_shown(tenant: Tenant, runner: Runner) -> None:
    said = {
        "replicas": 3, "min_replicas": 2, "flavors": ["cpu"], "topology": "one-node", "estimate_s": 90,
        "gpu_models": [], "priority": "low",
    }  # fmt: skip
    view = tenant.viewer.get(f"/jobs/{tenant.submit(**said)}").json()
    assert {name: view[name] for name in said} == said


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"replicas": 2, "min_replicas": 3}, "min_replicas"),
        ({"topology": "one-rack"}, "topology"),
        ({"estimate_s": -1}, "estimate_s"),
        ({"flavor": ["cpu"]}, "flavor"),
    ],
)
def test_a_wrong_option_is_refused_by_its_name(tenant: Tenant, said: dict[str, Any], field: str) -> None:
    answer = tenant.operator.post("/jobs", json=spec(**said))
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["facts"]["errors"]] == [field]


def test_an_unknown_flavor_is_refused_with_a_suggestion(tenant: Tenant, runner: Runner) -> None:
    answer = tenant.operator.post("/jobs", json=spec(flavors=["cpus"]))
    assert answer.status_code == 422
    assert "did you mean 'cpu'" in answer.json()["detail"]


def test_a_priority_is_changed_while_the_job_waits(tenant: Tenant, runner: Runner) -> None:
    first = tenant.submit()
    waits = tenant.submit(after=[first])
    changed = tenant.operator.patch(f"/jobs/{waits}", json={"priority": "high"})
    assert (changed.status_code, changed.json()["priority"]) == (200, "high")
    events = tenant.viewer.get(f"/jobs/{waits}/events").json()["items"]
    assert [e["detail"]["priority"] for e in events if e["type"] == "PriorityChanged"] == ["high"]
    assert tenant.viewer.patch(f"/jobs/{waits}", json={"priority": "low"}).status_code == 403
    assert tenant.operator.patch(f"/jobs/{waits}", json={"priority": "highest"}).status_code == 422
    runner.start(first)
    refused = tenant.operator.patch(f"/jobs/{first}", json={"priority": "high"})
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
    assert "a priority decides when a job starts" in refused.json()["detail"]


def test_the_priority_of_a_foreign_job_answers_as_of_a_missing_one(server: Server, tenant: Tenant) -> None:
    job = tenant.submit()
    stranger = server.tenant()
    for id in (job, job[:-1] + ("0" if job[-1] != "0" else "1")):
        assert stranger.operator.patch(f"/jobs/{id}", json={"priority": "high"}).status_code == 404
    assert tenant.viewer.get(f"/jobs/{job}").json()["priority"] == "normal"


def test_a_queue_shows_how_it_stands_and_names_nobody_else(server: Server, runner: Runner) -> None:
    owner, borrower = server.tenant(), server.tenant()
    with server.api() as admin:
        for tenant, nominal in ((owner, 4), (borrower, 0)):
            quota = {"pool": "cpu", "nominal": nominal, "borrowing": 2, "lending": 0 if nominal == 0 else 3}
            body = {"tenant": tenant.name, "quotas": [quota]}
            assert admin.put(f"/queues/{tenant.name}", json=body).status_code == 200
        job = borrower.submit(cpu=1)
        runner.wait_for(job)
        mine = owner.viewer.get(f"/queues/{owner.name}").json()
        (cpu,) = [p for p in mine["pools"] if p["pool"] == "cpu"]
        assert (cpu["nominal"], cpu["lending"], cpu["used"]) == (4, 3, 0)
        assert borrower.name not in owner.viewer.get(f"/queues/{owner.name}").text
        theirs = borrower.viewer.get(f"/queues/{borrower.name}").json()
        assert next(p for p in theirs["pools"] if p["pool"] == "cpu")["borrowed"] == 1
        foreign = owner.viewer.get(f"/queues/{borrower.name}")
        missing = owner.viewer.get("/queues/nobodys")
        assert foreign.status_code == missing.status_code == 404
        assert admin.get(f"/queues/{borrower.name}").status_code == 200
        borrower.operator.post(f"/jobs/{job}:cancel")


def test_a_pools_policy_is_set_by_name(server: Server, tenant: Tenant, runner: Runner) -> None:
    with server.api() as admin:
        assert admin.patch("/pools/cpu", json={"policy": "fifo"}).json()["policy"] == "fifo"
        wrong = admin.patch("/pools/cpu", json={"policy": "fare"})
        assert (wrong.status_code, wrong.json()["facts"]["field"]) == (422, "policy")
        assert "did you mean 'fair'" in wrong.json()["detail"]
        assert admin.patch("/pools/cpu", json={"policy": "fair"}).json()["policy"] == "fair"
    assert tenant.admin.patch("/pools/cpu", json={"policy": "fifo"}).status_code == 403


# --- the recorded history ---------------------------------------------------------------------------------------------


def history(server: Server, since: int, **params: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    cursor = None
    with server.api() as admin:
        while True:
            asked = {"since": since, "until": now_ms() + 1000, "cursor": cursor} | params
            page = admin.get("/history/jobs", params={k: v for k, v in asked.items() if v is not None}).json()
            found += page["items"]
            cursor = page["next_cursor"]
            if cursor is None:
                return found


def test_the_history_tells_who_asked_for_what_and_how_long_it_held_it(
    server: Server, tenant: Tenant, runner: Runner
) -> None:
    since = now_ms()
    first = tenant.submit(name="first", cpu=2, env={"SECRET": "hush"})
    after = tenant.submit(name="second", after=[first])
    runner.end(runner.start(first))
    runner.start(after)
    told = {job["id"]: job for job in history(server, since, limit=1) if job["tenant"] == tenant.name}
    assert set(told) == {first, after}
    assert (told[first]["cpu_milli"], told[first]["queued_at"]) == (2000, told[first]["submitted_at"])
    assert told[first]["held_ms"] >= 1
    assert told[after]["queued_at"] >= told[first]["started_at"] + told[first]["held_ms"]
    assert "hush" not in str(told)
    fleet = server.api().get("/history/fleet").json()
    assert runner.node["id"] in [node["id"] for node in fleet["nodes"]]
    assert tenant.name in [queue["name"] for queue in fleet["queues"]]


def test_the_history_of_all_is_not_for_a_tenants_key(tenant: Tenant) -> None:
    for path in ("/history/jobs?since=0&until=1", "/history/fleet"):
        answer = tenant.admin.get(path)
        assert answer.status_code == 403
        assert "platform" in answer.json()["hint"]


# --- the dry run ------------------------------------------------------------------------------------------------------


def test_a_dry_run_says_where_and_stores_nothing(tenant: Tenant, runner: Runner) -> None:
    asked = spec(cpu=0.5, estimate_s=7200)
    view = tenant.viewer.post("/jobs:plan", json=asked).json()
    assert (view["feasible"], view["pool"], view["slots"], view["slot_hours"]) == (True, "cpu", 0.5, 1.0)
    assert view["placements"][0]["node"] == runner.node["id"]
    assert tenant.viewer.get("/jobs").json()["items"] == []


def test_a_dry_run_of_what_could_never_run_says_so(tenant: Tenant, runner: Runner) -> None:
    view = tenant.viewer.post("/jobs:plan", json=spec(cpu=90_000)).json()
    assert view["feasible"] is False
    assert view["waiting"]["message"]
    assert tenant.viewer.post("/jobs:plan", json=spec(pool="cpus")).json()["code"] == "unknown_pool"


def test_a_dry_run_is_the_tenants_own(server: Server, tenant: Tenant, runner: Runner) -> None:
    stranger = server.tenant()
    job = tenant.submit(name="secret")
    missing = stranger.viewer.post("/jobs:plan", json=spec(after=[job]))
    assert missing.status_code == 404
    assert stranger.viewer.post("/jobs:plan", json=spec(queue=tenant.name)).status_code == 422
    assert tenant.name not in stranger.viewer.post("/jobs:plan", json=spec(cpu=64)).text
