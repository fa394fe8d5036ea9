"""The worker's protocol: what a live attempt may do with its token, and that it ends with the attempt."""

from __future__ import annotations

import hashlib
import io
import socket
import time
import zipfile
from collections.abc import Iterator
from typing import Any

from .conftest import Runner, Server, Tenant
from .data_worker import CONTENT, judge, publish, register


def ingest(tenant: Tenant, runner: Runner, name: str, *, passes: bool) -> dict[str, Any]:
    """Register one CSV as `name` and play its ingest job; the gate passes or fails on a row count."""
    attempt = runner.start(register(tenant, name, passes=passes)["job"])
    given = tenant.server.api(attempt["token"]).get("/attempt/upload").json()
    assert given["sha256"] == hashlib.sha256(CONTENT).hexdigest()
    assert tenant.server.api(attempt["token"]).get("/attempt/upload/content").content == CONTENT
    worker, version_id = judge(tenant, attempt, passes=passes)
    if passes:
        folder = tenant.server.data / "tables" / tenant.name / name
        folder.mkdir(parents=True)
        (folder / f"{version_id}-0.parquet").write_bytes(b"bytes")
        publish(worker, version_id)
    runner.end(attempt)
    return tenant.viewer.get(f"/datasets/{name}/versions/1").json()


def test_a_version_goes_through_its_gate_and_its_files_are_read(tenant: Tenant, runner: Runner) -> None:
    version = ingest(tenant, runner, "counts", passes=True)
    assert (version["state"], version["passed"], version["number"]) == ("published", True, 1)
    path = version["files"][0]["path"]
    assert tenant.viewer.get(f"/datasets/counts/versions/1/files/{path}").content == b"bytes"
    for elsewhere in ("../counts/" + path, "%2e%2e/%2e%2e/factory.db", "other.parquet"):
        assert tenant.viewer.get(f"/datasets/counts/versions/1/files/{elsewhere}").status_code in (404, 422)
    lineage = tenant.viewer.get("/datasets/counts/versions/1/lineage").json()
    assert lineage["focus"] == "dataset:counts@1"
    assert {"source": f"job:{version['job']}", "target": "dataset:counts@1"} in lineage["edges"]


def test_a_quarantined_version_is_refused_to_jobs_with_the_numbers_and_the_way_out(
    tenant: Tenant, runner: Runner
) -> None:
    version = ingest(tenant, runner, "faulty", passes=False)
    assert version["state"] == "quarantined"
    spec = {"name": "train", "command": {"argv": ["true"]}, "inputs": {"d": {"dataset": "faulty", "version": 1}}}
    refused = tenant.operator.post("/jobs", json=spec)
    assert refused.status_code == 409, refused.text
    problem = refused.json()
    assert problem["code"] == "dataset_gate_failed"
    assert "repair" in problem["hint"]
    assert problem["facts"]["checks"]
    assert [j["name"] for j in tenant.viewer.get("/jobs").json()["items"] if j["name"] == "train"] == []
    path = version["files"][0]["path"]
    assert tenant.viewer.get(f"/datasets/faulty/versions/1/files/{path}").status_code == 409


def test_a_job_reads_its_inputs_and_nothing_else(tenant: Tenant, runner: Runner) -> None:
    version = ingest(tenant, runner, "counts", passes=True)
    job = tenant.submit(inputs={"history": {"dataset": "counts"}})
    worker = tenant.server.api(runner.start(job)["token"])
    given = worker.get("/attempt/inputs/history").json()
    assert (given["dataset"], given["number"], given["version_id"]) == ("counts", 1, version["id"])
    assert given["location"].startswith("file://")
    path = version["files"][0]["path"]
    assert worker.get(f"/attempt/inputs/history/files/{path}").content == b"bytes"
    assert worker.get("/attempt/inputs/history/files/other.parquet").status_code == 404
    assert worker.get("/attempt/inputs/history/files/../../x").status_code == 404
    assert worker.get("/attempt/inputs/other").status_code == 404
    assert worker.get("/attempt/upload").status_code == 404
    assert worker.get("/attempt/model").status_code == 404


def test_a_work_order_says_all_that_the_worker_needs(tenant: Tenant, runner: Runner) -> None:
    job = tenant.submit(name="count-cars")
    attempt = runner.start(job)
    order = tenant.server.api(attempt["token"]).get("/attempt").json()
    assert (order["attempt"], order["job"], order["tenant"]) == (attempt["attempt"], job, tenant.name)
    assert order["api_url"] == tenant.server.url
    assert order["spec"]["name"] == "count-cars"


def test_code_is_stored_by_digest_and_read_by_its_job_only(tenant: Tenant, runner: Runner) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as bundle:
        bundle.writestr("main.py", "print('hi')")
    content = packed.getvalue()
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert tenant.operator.head(f"/bundles/{digest}").status_code == 404
    assert tenant.operator.put(f"/bundles/{digest}", content=content + b"x").status_code == 422
    assert tenant.operator.put(f"/bundles/{digest}", content=content).status_code == 201
    assert tenant.operator.head(f"/bundles/{digest}").status_code == 204
    assert tenant.server.tenant().operator.head(f"/bundles/{digest}").status_code == 404
    with_code = runner.start(tenant.submit(command={"argv": ["python", "main.py"], "bundle": digest}))
    without = runner.start(tenant.submit())
    assert tenant.server.api(with_code["token"]).get(f"/attempt/code/{digest}").content == content
    assert tenant.server.api(without["token"]).get(f"/attempt/code/{digest}").status_code == 404


def test_a_bundle_over_the_limit_is_refused_before_it_is_sent(tenant: Tenant) -> None:
    url = tenant.operator.base_url
    key = tenant.operator.headers["authorization"]
    head = f"PUT {url.path}bundles/sha256:{'0' * 64} HTTP/1.1\r\nHost: {url.host}\r\nAuthorization: {key}\r\n"
    with socket.create_connection((url.host, url.port), timeout=10) as raw:
        raw.sendall((head + f"Content-Length: {65 << 20}\r\n\r\n").encode())
        answer = b"".join(iter(lambda: raw.recv(65536), b"")).decode()  # to the end: it hangs up
    assert " 413 " in answer
    assert "payload_too_large" in answer


def test_a_token_ends_with_its_attempt(tenant: Tenant, runner: Runner) -> None:
    attempt = runner.start(tenant.submit())
    worker = tenant.server.api(attempt["token"])
    assert worker.get("/attempt").status_code == 200
    runner.end(attempt)
    for answer in (worker.get("/attempt"), worker.post("/attempt/progress", json={"fraction": 1})):
        assert answer.status_code == 401
        assert answer.json()["code"] == "attempt_ended"
    assert tenant.server.client(attempt["token"]).get("/mlflow/api/2.0/mlflow/experiments/get").status_code == 401


def test_a_forged_token_opens_nothing(server: Server, tenant: Tenant, runner: Runner) -> None:
    attempt = runner.start(tenant.submit())
    token: str = attempt["token"]
    other = runner.start(tenant.submit())
    forged = token.replace(attempt["attempt"], other["attempt"])
    for bad in (forged, token[:-1], token[:-1] + ("0" if token[-1] != "0" else "1"), "fat_", "fat_x." + "0" * 64):
        answer = server.api(bad).get("/attempt")
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")


def test_a_token_opens_nothing_but_its_own_routes(server: Server, tenant: Tenant, runner: Runner) -> None:
    token = runner.start(tenant.submit())["token"]
    for path in ("/jobs", "/datasets", "/runner/desired?runner=x&incarnation=y", "/keys"):
        assert server.api(token).get(path).status_code == 403
    assert server.api(server.key("operator", tenant.name)).get("/attempt").status_code == 401


def trained(tenant: Tenant, runner: Runner) -> dict[str, Any]:
    """Play a training job on `counts`; return what registering answered."""
    algorithm = {"name": "series-forecast", "register_model": "counts-24h"}
    job = {"name": "train", "algorithm": algorithm, "inputs": {"data": {"dataset": "counts", "purpose": "train"}}}
    made = tenant.operator.post("/jobs", json=job | {"memory": "64MiB", "cpu": 0.5, "seed": 7})
    assert made.status_code == 201, made.text
    attempt = runner.start(made.json()["id"])
    worker = tenant.server.api(attempt["token"])
    stored = worker.put("/attempt/model-file", content=b"weights").json()
    assert stored["sha256"] == hashlib.sha256(b"weights").hexdigest()
    version_id = worker.get("/attempt/inputs/data").json()["version_id"]
    evaluation = {"protocol": "p", "dataset_version": version_id, "metric": "mae", "direction": "min", "unit": "1"}
    evaluation |= {"value": 40.0, "baselines": {"week": 60.0}, "slices": {}, "windows": 100}
    said = {"model": "counts-24h", "format": "pt2", "metrics": {"mae": 40.0}, "evaluation": evaluation}
    said |= {"code_digest": "sha256:" + "0" * 64, "object_key": stored["object_key"], "sha256": stored["sha256"]}
    first = worker.post("/attempt/models", json=said)
    assert first.status_code == 200, first.text
    assert worker.post("/attempt/models", json=said).json() == first.json()  # once per job
    runner.end(attempt)
    return first.json()


def test_a_trained_model_is_registered_once_promoted_and_read_back(tenant: Tenant, runner: Runner) -> None:
    ingest(tenant, runner, "counts", passes=True)
    assert trained(tenant, runner) == {"model": "counts-24h", "number": 1}
    assert tenant.viewer.get("/models/counts-24h/versions/1/file").content == b"weights"
    promoted = tenant.operator.post("/models/counts-24h/versions/1:promote")
    assert promoted.status_code == 200, promoted.text
    assert promoted.json()["moved"] is True
    assert tenant.viewer.get("/models/counts-24h").json()["champion"] == 1
    graph = tenant.viewer.get("/models/counts-24h/versions/1/lineage").json()
    kinds = [n["kind"] for n in graph["nodes"]]
    assert sorted(kinds) == ["algorithm", "dataset", "job", "job", "model"]
    assert tenant.server.tenant().viewer.get("/models/counts-24h").status_code == 404


def test_an_endpoint_is_deployed_served_and_deleted(tenant: Tenant, runner: Runner) -> None:
    ingest(tenant, runner, "counts", passes=True)
    trained(tenant, runner)
    assert tenant.operator.post("/models/counts-24h/versions/1:promote").status_code == 200
    wanted = {"model": "counts-24h@champion", "cpu": 0.1, "memory": "16MiB"}
    made = tenant.operator.put("/endpoints/forecast", json=wanted)
    assert (made.status_code, made.json()["state"]) == (201, "deploying"), made.text
    assert tenant.operator.put("/endpoints/forecast", json=wanted).status_code == 200
    deadline_jobs = tenant.viewer.get("/jobs", params={"group": "endpoint/forecast"})
    assert deadline_jobs.status_code == 200
    replica = next(a for a in iter_desired(runner) if a["spec"]["name"].startswith("forecast"))
    runner.report({"attempt": replica["attempt"], "kind": "running"})
    worker = tenant.server.api(replica["token"])
    assert worker.get("/attempt/model/content").content == b"weights"
    assert worker.post("/attempt/ready", json={"host": "127.0.0.1", "port": 9}).status_code == 204
    deadline = time.monotonic() + 10
    while tenant.viewer.get("/endpoints/forecast").json()["state"] != "ready":  # the loop's next turn says so
        assert time.monotonic() < deadline
        runner.desired(wait_s=1)
    route = next(r for r in runner.desired()["ingress"]["routes"] if r["tenant"] == tenant.name)
    assert [(s["host"], s["port"]) for s in route["servers"]] == [("127.0.0.1", 9)]
    assert tenant.operator.delete("/endpoints/forecast").status_code == 202


def iter_desired(runner: Runner) -> Iterator[dict[str, Any]]:
    """Yield desired attempts as they come."""
    revision, deadline = "", time.monotonic() + 15
    while time.monotonic() < deadline:
        wish = runner.desired(revision, wait_s=2)
        revision = wish["revision"]
        yield from wish["attempts"]
