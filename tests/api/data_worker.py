"""Ingest, played over HTTP: what people register, and what a worker stages, measures and publishes."""

from __future__ import annotations

from typing import Any

import httpx

from .conftest import Runner, Tenant

CONTENT = b"hour,count\n" + b"".join(b"%d,%d\n" % (i, i) for i in range(10))


def contract(*, passes: bool = True) -> dict[str, Any]:
    """A contract that ten rows keep, or break."""
    return {"series": {"time": "hour"}, "checks": [{"rows": {"min": 10 if passes else 1000}}]}


def register(tenant: Tenant, name: str, *, passes: bool = True) -> dict[str, Any]:
    """Upload CONTENT and register it as `name`; return the staged version."""
    upload = tenant.operator.post("/uploads", params={"filename": "c.csv", "format": "csv"}, content=CONTENT).json()
    body = {"upload": upload["id"], "contract": contract(passes=passes)}
    made = tenant.operator.post(f"/datasets/{name}/versions", json=body)
    assert made.status_code == 201, made.text
    return made.json()


def judge(
    tenant: Tenant, attempt: dict[str, Any], output: str = "", *, passes: bool = True
) -> tuple[httpx.Client, str]:
    """Stage and measure as the attempt; return its connection and the version's id. The verdict is as `passes`."""
    worker = tenant.server.api(attempt["token"])
    staged = worker.post("/attempt/versions", json={"output": output}).json()
    check = next(c for c in staged["contract"]["checks"] if c["kind"] == "row_count")
    file = {"path": f"{staged['version_id']}-0.parquet", "size_bytes": 5, "sha256": "0" * 64, "rows": 10}
    measurement = {"check_id": check["id"], "subject": "", "value": 10, "failed": 0 if passes else 1, "total": 1}
    said = {
        "source_digest": "0" * 64,
        "columns": [{"name": "hour", "dtype": "int64"}, {"name": "count", "dtype": "int64"}],
        "rows": 10,
        "files": [file],
        "measurements": [measurement],
    }
    verdict = worker.post(f"/attempt/versions/{staged['version_id']}/measured", json=said)
    assert verdict.status_code == 200, verdict.text
    assert verdict.json()["state"] == ("validated" if passes else "quarantined")
    return worker, staged["version_id"]


def publish(worker: httpx.Client, version_id: str, delta_version: int = 0) -> None:
    """Say that the table's commit is made."""
    done = worker.post(f"/attempt/versions/{version_id}/published", json={"delta_version": delta_version})
    assert done.status_code == 200, done.text
    assert done.json()["state"] == "published"


def ingest(tenant: Tenant, runner: Runner, version: dict[str, Any], *, passes: bool = True) -> None:
    """Play the version's ingest job to its end."""
    attempt = runner.start(version["job"])
    worker, version_id = judge(tenant, attempt, passes=passes)
    if passes:
        publish(worker, version_id)
    runner.end(attempt)
