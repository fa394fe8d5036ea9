"""Uploads over HTTP: bytes that the tenant has sent before are not sent again, and staging is emptied."""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from factory.sdk.client import Client

from .conftest import Runner, Server, Tenant
from .data_worker import CONTENT, contract, ingest, register

HOUSEKEEPING = {"FACTORY_HOUSEKEEPING_S": "1", "FACTORY_UPLOAD_KEEP_S": "3600"}


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that looks every second what is needed no more."""
    server = Server(tmp_path_factory.mktemp("quick") / "data", env=HOUSEKEEPING)
    server.start()
    yield server
    assert server.stop() == 0, server.log()


def staged(tenant: Tenant) -> list[str]:
    folder = tenant.server.data / "objects" / "data" / "uploads" / tenant.name
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def wait_until_empty(tenant: Tenant) -> None:
    deadline = time.monotonic() + 10
    while staged(tenant):
        assert time.monotonic() < deadline, staged(tenant)
        time.sleep(0.05)


def client_of(tenant: Tenant) -> tuple[Client, list[str]]:
    """An SDK client, and a list that grows with each of its uploads."""
    client = Client(tenant.server.url, tenant.server.key("operator", tenant.name))
    sent: list[str] = []

    def note(request: httpx.Request) -> None:
        if request.url.path.endswith("/uploads"):
            sent.append(request.method)

    client.transport.http.event_hooks["request"].append(note)
    return client, sent


def find(tenant: Tenant, content: bytes, **changes: object) -> httpx.Response:
    body = {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content), "format": "csv"}
    return tenant.operator.post("/uploads:find", json=body | changes)


def test_an_upload_is_found_by_its_own_tenant_only(tenant: Tenant) -> None:
    content = f"a\n{tenant.name}\n".encode()
    assert find(tenant, content).status_code == 404
    made = tenant.operator.post("/uploads", params={"filename": "a.csv", "format": "csv"}, content=content).json()
    assert find(tenant, content).json() == made
    assert find(tenant, content, format="parquet").status_code == 404
    assert find(tenant, content, size_bytes=1).status_code == 404
    assert find(tenant, content, sha256="AB").status_code == 422
    stranger = tenant.server.tenant()
    theirs, nobodys = find(stranger, content), find(stranger, b"never sent")
    assert theirs.status_code == nobodys.status_code == 404
    assert theirs.json().keys() == nobodys.json().keys()


def test_a_repeated_registration_sends_no_bytes_even_after_staging_was_emptied(quick: Server, tmp_path: Path) -> None:
    tenant, runner = quick.tenant(), Runner(quick)
    runner.join()
    path = tmp_path / "counts.csv"
    path.write_bytes(CONTENT)
    client, sent = client_of(tenant)
    first = client.datasets.register("counts", path, contract=contract(), wait=False)
    ingest(tenant, runner, first.refresh().model_dump())
    wait_until_empty(tenant)
    again = client.datasets.register("counts", path, contract=contract())
    assert again.view.id == first.view.id
    assert sent == ["POST"]
    assert staged(tenant) == []
    # other questions to the same bytes are another version: they are needed once more, and sent once more
    other = client.datasets.register("counts", path, contract=contract(passes=False), wait=False)
    assert other.view.number == 2
    assert sent == ["POST", "POST"]
    ingest(tenant, runner, other.refresh().model_dump(), passes=False)
    wait_until_empty(tenant)
    client.close()


def test_bytes_that_can_be_read_once_are_sent(tenant: Tenant) -> None:
    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self._left = io.BytesIO(CONTENT)

        def readable(self) -> bool:
            return True

        def read(self, size: int = -1) -> bytes:
            return self._left.read(size)

    client, sent = client_of(tenant)
    made = client.datasets.register("counts", Pipe(), contract=contract(), wait=False)
    assert sent == ["POST"]
    same = client.datasets.register("counts", io.BytesIO(CONTENT), contract=contract(), wait=False)
    assert (same.view.id, sent) == (made.view.id, ["POST"])
    client.close()


def test_an_open_file_is_read_from_where_it_stands_and_stays_open(tenant: Tenant) -> None:
    file = io.BytesIO(b"skip me" + CONTENT)
    file.seek(len(b"skip me"))
    client, _ = client_of(tenant)
    upload = client.datasets.upload(file)
    assert upload.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert not file.closed
    client.close()


def test_an_upload_that_nobody_registers_is_removed(new_server: Callable[..., Server]) -> None:
    server = new_server(**HOUSEKEEPING | {"FACTORY_UPLOAD_KEEP_S": "1"})
    server.start()
    tenant = server.tenant()
    upload = tenant.operator.post("/uploads", params={"filename": "a.csv", "format": "csv"}, content=b"a\n1\n").json()
    wait_until_empty(tenant)
    late = tenant.operator.post("/datasets/late/versions", json={"upload": upload["id"]})
    assert late.status_code == 404, late.text


def test_a_removed_upload_is_gone_for_a_new_registration(quick: Server) -> None:
    tenant, runner = quick.tenant(), Runner(quick)
    runner.join()
    version = register(tenant, "counts")
    upload = staged(tenant)[0]
    ingest(tenant, runner, version)
    wait_until_empty(tenant)
    body = {"upload": upload, "contract": contract(passes=False)}
    gone = tenant.operator.post("/datasets/counts/versions", json=body)
    assert (gone.status_code, gone.json()["code"]) == (410, "upload_gone"), gone.text
    assert gone.json()["hint"]
