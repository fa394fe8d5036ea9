"""Submit: what is accepted is accepted once; what is refused says why and leaves nothing behind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from .conftest import Runner, Server, Tenant, spec


def refused(answer: Any, status: int, code: str) -> dict[str, Any]:
    """Check that an answer is a problem with a hint; return it."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["code"] == code, problem
    assert problem["status"] == status
    assert problem["hint"], problem
    assert problem["request_id"] == answer.headers["x-request-id"]
    return problem


def has_no_jobs(tenant: Tenant) -> bool:
    return tenant.viewer.get("/jobs").json()["items"] == []


def test_an_unknown_pool_is_refused_with_a_suggestion(tenant: Tenant, runner: Runner) -> None:
    problem = refused(tenant.operator.post("/jobs", json=spec(pool="cpus")), 422, "unknown_pool")
    assert "did you mean 'cpu'" in problem["detail"]
    assert has_no_jobs(tenant)


def test_an_unknown_queue_is_refused(tenant: Tenant) -> None:
    refused(tenant.operator.post("/jobs", json=spec(queue="nobodys")), 422, "unknown_queue")
    assert has_no_jobs(tenant)


@pytest.mark.parametrize(
    "asked", [{"cpu": 90_000}, {"cpu": 60, "replicas": 9000}, {"gpu": 1}], ids=["slots", "gang", "gpu"]
)
def test_more_than_the_factory_could_ever_give_is_refused(
    tenant: Tenant, runner: Runner, asked: dict[str, Any]
) -> None:
    refused(tenant.operator.post("/jobs", json=spec(**asked)), 422, "infeasible")
    assert has_no_jobs(tenant)


def test_a_quota_without_a_borrowing_is_a_limit_and_null_is_none(tenant: Tenant, runner: Runner) -> None:
    with tenant.server.api() as admin:
        for borrowing, expected in (({}, 422), ({"borrowing": 1}, 201), ({"borrowing": None}, 201)):
            queue = {"tenant": tenant.name, "quotas": [{"pool": "cpu", "nominal": 1} | borrowing]}
            answer = admin.put(f"/queues/{tenant.name}", json=queue)
            assert answer.status_code == 200, answer.text
            assert answer.json()["quotas"][0]["borrowing"] == borrowing.get("borrowing", 0)
            assert tenant.operator.post("/jobs", json=spec(cpu=2)).status_code == expected
        queue["quotas"][0]["lending"] = 0.5
        assert admin.put(f"/queues/{tenant.name}", json=queue).json()["quotas"][0]["lending"] == 0.5
        queue["quotas"][0]["lending"] = 2
        problem = refused(admin.put(f"/queues/{tenant.name}", json=queue), 422, "invalid_request")
        assert problem["detail"] == "quotas.0.lending: 2 is more than nominal, which is 1"


def test_a_dataset_that_does_not_exist_is_refused(tenant: Tenant) -> None:
    answer = tenant.operator.post("/jobs", json=spec(inputs={"data": {"dataset": "nowhere"}}))
    refused(answer, 404, "not_found")
    assert has_no_jobs(tenant)


@pytest.mark.parametrize(
    "asked",
    [
        {"memory": 10**4000},
        {"memory": "9" * 400},
        {"timeout_s": 10**400},
        {"start_timeout_s": 10**400},
        {"seed": 2**63},
        {"inputs": {"data": {"dataset": "nowhere", "version": 2**63}}},
    ],
    ids=["memory", "memory-text", "timeout", "start-timeout", "seed", "version"],
)
def test_a_number_beyond_all_measure_is_refused(tenant: Tenant, asked: dict[str, Any]) -> None:
    refused(tenant.operator.post("/jobs", json=spec(**asked)), 422, "invalid_request")
    assert has_no_jobs(tenant)


@pytest.mark.parametrize(
    "path",
    [
        "datasets/d/versions/{}",
        "datasets/d/versions/{}/lineage",
        "datasets/d/versions/{}/files/a",
        "models/m/versions/{}",
        "models/m/versions/{}/lineage",
        "jobs/{{job}}/events?after={}",
    ],
)
def test_a_number_that_no_column_holds_is_refused_where_one_is_looked_up(tenant: Tenant, path: str) -> None:
    asked = path.format(2**63).replace("{job}", tenant.submit())
    refused(tenant.viewer.get(f"/{asked}"), 422, "invalid_request")


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"command": {"argv": ["echo", "a\0b"]}}, "command.argv.1"),
        ({"command": {"argv": ["\0", "a"]}}, "command.argv.0"),
        ({"env": {"A": "x\0"}}, "env.A"),
        ({"env": {"A=B": "x"}}, "env.A=B.[key]"),
        ({"env": {"": "x"}}, "env..[key]"),
    ],
    ids=["argument", "program", "value", "name", "no-name"],
)
def test_what_no_process_can_be_given_is_refused_by_its_field(
    tenant: Tenant, asked: dict[str, Any], field: str
) -> None:
    problem = refused(tenant.operator.post("/jobs", json=spec(**asked)), 422, "invalid_request")
    assert [error["field"] for error in problem["facts"]["errors"]] == [field]
    assert has_no_jobs(tenant)


def test_an_unknown_field_is_named_with_what_it_might_mean(tenant: Tenant) -> None:
    problem = refused(tenant.operator.post("/jobs", json=spec(replica=2)), 422, "invalid_request")
    assert "replica" in problem["detail"]
    assert "did you mean 'replicas'" in problem["detail"]
    assert problem["facts"]["errors"][0]["field"] == "replica"
    assert has_no_jobs(tenant)


def test_an_unknown_field_deep_inside_is_named_by_its_path(tenant: Tenant) -> None:
    body = {"items": [{"key": "a", "spec": spec(retry={"max_retrys": 2})}]}
    problem = refused(tenant.operator.post("/jobs:batch", json=body), 422, "invalid_request")
    assert problem["facts"]["errors"][0]["field"] == "items.0.spec.retry.max_retrys"
    assert "did you mean 'max_retries'" in problem["detail"]


def test_a_body_of_ten_megabytes_is_refused_by_its_header(tenant: Tenant) -> None:
    body = json.dumps(spec(env={"X": "x" * 10_000_000})).encode()
    headers = {"Content-Type": "application/json"}
    refused(tenant.operator.post("/jobs", content=body, headers=headers), 413, "payload_too_large")
    assert has_no_jobs(tenant)


def test_a_chunked_body_of_two_megabytes_is_refused_by_counting(tenant: Tenant) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(32):
            yield b" " * 65536

    headers = {"Content-Type": "application/json"}
    refused(tenant.operator.post("/jobs", content=chunks(), headers=headers), 413, "payload_too_large")
    assert has_no_jobs(tenant)


@pytest.mark.parametrize(
    "body",
    [b"{", b'{"name": NaN}', b'{"name": 1e400}', b"[" * 100_000, b'{"a":' * 70 + b"1" + b"}" * 70, b"\xff\xfe"],
    ids=["cut", "nan", "overflow", "bomb", "deep", "no-utf8"],
)
def test_what_is_not_plain_json_is_refused(tenant: Tenant, body: bytes) -> None:
    answer = tenant.operator.post("/jobs", content=body, headers={"Content-Type": "application/json"})
    refused(answer, 400, "malformed_json")
    assert has_no_jobs(tenant)


def test_a_body_that_is_no_json_by_its_type_is_refused(tenant: Tenant) -> None:
    body = json.dumps(spec()).encode()
    answer = tenant.operator.post("/jobs", content=body, headers={"Content-Type": "text/plain"})
    refused(answer, 422, "invalid_request")
    assert has_no_jobs(tenant)


def test_routes_that_are_not_there_are_problems_too(tenant: Tenant) -> None:
    refused(tenant.viewer.get("/nothing"), 404, "not_found")
    refused(tenant.viewer.delete("/jobs"), 405, "method_not_allowed")


def test_an_accepted_job_is_answered_with_its_place(tenant: Tenant) -> None:
    answer = tenant.operator.post("/jobs", json=spec(name="a-name"))
    assert answer.status_code == 201
    assert answer.headers["location"] == f"/api/v1/jobs/{answer.json()['id']}"
    assert tenant.viewer.get(f"/jobs/{answer.json()['id']}").json()["name"] == "a-name"


def test_the_same_key_and_body_give_the_same_job(tenant: Tenant) -> None:
    key = {"Idempotency-Key": "k-1"}
    first = tenant.operator.post("/jobs", json=spec(), headers=key)
    again = tenant.operator.post("/jobs", json=spec(), headers=key)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json()["id"] == again.json()["id"]
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert len(tenant.viewer.get("/jobs").json()["items"]) == 1


def test_the_same_key_with_another_body_is_refused(tenant: Tenant) -> None:
    key = {"Idempotency-Key": "k-1"}
    tenant.operator.post("/jobs", json=spec(), headers=key)
    refused(tenant.operator.post("/jobs", json=spec(seed=1), headers=key), 422, "idempotency_conflict")
    assert len(tenant.viewer.get("/jobs").json()["items"]) == 1


def test_one_tenants_key_is_not_anothers(server: Server, tenant: Tenant) -> None:
    other, key = server.tenant(), {"Idempotency-Key": "k-1"}
    mine = tenant.operator.post("/jobs", json=spec(), headers=key).json()["id"]
    theirs = other.operator.post("/jobs", json=spec(), headers=key).json()["id"]
    assert mine != theirs


def test_a_batch_is_accepted_in_order_and_replayed(tenant: Tenant) -> None:
    body = {"items": [{"key": f"k-{i}", "spec": spec(name=f"job-{i}")} for i in range(20)]}
    first = tenant.operator.post("/jobs:batch", json=body)
    again = tenant.operator.post("/jobs:batch", json=body)
    assert first.status_code == again.status_code == 201, first.text
    assert [j["name"] for j in first.json()["jobs"]] == [f"job-{i}" for i in range(20)]
    assert first.json()["replayed"] == []
    assert again.json()["replayed"] == [f"k-{i}" for i in range(20)]
    assert [j["id"] for j in again.json()["jobs"]] == [j["id"] for j in first.json()["jobs"]]


def test_a_batch_with_one_bad_job_leaves_nothing(tenant: Tenant, runner: Runner) -> None:
    items = [{"key": f"k-{i}", "spec": spec()} for i in range(3)] + [{"key": "bad", "spec": spec(pool="nowhere")}]
    problem = refused(tenant.operator.post("/jobs:batch", json={"items": items}), 422, "unknown_pool")
    assert problem["facts"]["item"] == 3
    assert has_no_jobs(tenant)


def test_a_list_is_walked_page_by_page_without_gap_or_double(tenant: Tenant) -> None:
    made = [tenant.submit(name=f"job-{i}") for i in range(7)]
    seen: list[str] = []
    cursor: str | None = None
    while True:
        page = tenant.viewer.get("/jobs", params={"limit": 3} | ({"cursor": cursor} if cursor else {})).json()
        seen += [j["id"] for j in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == sorted(made, reverse=True)


def test_a_limit_or_cursor_that_is_none_of_ours_is_refused(tenant: Tenant) -> None:
    refused(tenant.viewer.get("/jobs", params={"limit": 1000}), 422, "invalid_request")
    refused(tenant.viewer.get("/pools", params={"cursor": "!!"}), 422, "invalid_request")
    refused(tenant.viewer.get("/jobs", params={"state": "asleep"}), 422, "invalid_request")


def test_a_cancelled_job_stays_cancelled(tenant: Tenant) -> None:
    job = tenant.submit(cpu=1)
    assert tenant.operator.post(f"/jobs/{job}:cancel").json()["state"] in ("cancelling", "cancelled")
    assert tenant.operator.post(f"/jobs/{job}:cancel").status_code == 200
    assert tenant.operator.post(f"/jobs/{job}:resume").status_code == 409
    assert tenant.viewer.get(f"/jobs/{job}").json()["state"] in ("cancelling", "cancelled")


def test_events_of_a_job_are_paged_in_order(tenant: Tenant) -> None:
    job = tenant.submit()
    tenant.operator.post(f"/jobs/{job}:cancel")
    first = tenant.viewer.get(f"/jobs/{job}/events", params={"limit": 1}).json()
    rest = tenant.viewer.get(f"/jobs/{job}/events", params={"cursor": first["next_cursor"]}).json()
    seqs = [e["seq"] for e in first["items"] + rest["items"]]
    assert seqs == list(range(1, len(seqs) + 1))
    assert first["items"][0]["type"] == "Submitted"
