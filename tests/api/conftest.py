"""A real control plane per test process, and who talks to it: people with keys, and a runner by its protocol."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

import factory

ROOT = Path(factory.__file__).parents[1]
_names = itertools.count(1)


@dataclass
class Server:
    """A server process on a folder and a free port."""

    data: Path
    env: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    url: str = ""
    admin_key: str = ""

    def start(self, *, wait_ready: bool = True) -> float:
        """Start it; return after how many seconds it was ready."""
        address = self.data / "run" / "server.json"
        address.unlink(missing_ok=True)
        started = time.monotonic()
        with (self.data.parent / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    "from factory.api.server import run; from factory.settings import Settings; run(Settings())",
                ],
                env={
                    **os.environ,
                    "FACTORY_DATA": str(self.data),
                    "FACTORY_PORT": "0",
                    "PYTHONPATH": str(ROOT),
                    **self.env,
                },
                stdout=log,
                stderr=log,
            )
        if not wait_ready:
            return 0.0
        while True:
            assert self.process.poll() is None, self.log()
            assert time.monotonic() - started < 30, self.log()
            if address.exists():
                self.url = json.loads(address.read_text())["url"]
                try:
                    if httpx.get(f"{self.url}/readyz", timeout=2, trust_env=False).status_code == 200:
                        break
                except httpx.TransportError:
                    pass
            time.sleep(0.01)
        took = time.monotonic() - started
        if not self.admin_key:
            self.admin_key = (self.data / "run" / "admin.key").read_text()
        return took

    def log(self) -> str:
        return (self.data.parent / "server.log").read_text()[-5000:]

    def stop(self) -> int:
        """SIGTERM; return the exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(20)

    def client(self, key: str | None = None, **headers: str) -> httpx.Client:
        """A client with a key; without one the admin's."""
        auth = {"Authorization": f"Bearer {key or self.admin_key}"}
        return httpx.Client(base_url=self.url, headers=auth | headers, timeout=40, trust_env=False)

    def api(self, key: str | None = None, **headers: str) -> httpx.Client:
        """The same below /api/v1."""
        client = self.client(key, **headers)
        client.base_url = httpx.URL(f"{self.url}/api/v1")
        return client

    def key(self, role: str, tenant: str | None = None) -> str:
        """A fresh key."""
        with self.api() as admin:
            made = admin.post("/keys", json={"role": role, "tenant": tenant})
        assert made.status_code == 201, made.text
        return made.json()["secret"]

    def tenant(self) -> Tenant:
        """A fresh tenant with one key of each role."""
        name = f"dept-{os.getpid()}-{next(_names)}"
        with self.api() as admin:
            assert admin.put(f"/tenants/{name}", json={"title": name}).status_code == 200
        return Tenant(self, name)


@dataclass
class Tenant:
    """A department and its people."""

    server: Server
    name: str
    _clients: dict[str, httpx.Client] = field(default_factory=dict)

    def _as(self, role: str) -> httpx.Client:
        if role not in self._clients:
            self._clients[role] = self.server.api(self.server.key(role, self.name))
        return self._clients[role]

    @property
    def viewer(self) -> httpx.Client:
        return self._as("viewer")

    @property
    def operator(self) -> httpx.Client:
        return self._as("operator")

    @property
    def admin(self) -> httpx.Client:
        return self._as("admin")

    def submit(self, **fields: Any) -> str:
        """Submit a small job; return its id."""
        answer = self.operator.post("/jobs", json=spec(**fields))
        assert answer.status_code == 201, answer.text
        return answer.json()["id"]


def spec(**fields: Any) -> dict[str, Any]:
    """A small command."""
    return {"name": "job", "command": {"argv": ["true"]}, "cpu": 0.001, "memory": "1MiB"} | fields


def node(name: str, *, pool: str = "cpu", cpu: int = 64) -> dict[str, Any]:
    """A node as its agent reports it."""
    slot = {"slot_cpu_milli": 1000, "slot_memory_bytes": 4 << 30, "slot_gpu_milli": 0, "host": "127.0.0.1"}
    return {"id": name, "pool": pool, "flavor": "cpu", "cpu_milli": cpu * 1000, "memory_bytes": cpu << 32} | slot


class Runner:
    """A runner: joins one cluster of one node, and says what the test wants it to say."""

    def __init__(self, server: Server, name: str = "runner-1", *, pool: str = "cpu", key: str | None = None) -> None:
        self.name = name
        self.node = node(f"{name}-node", pool=pool)
        if key is None and name == "runner-1":
            key = (server.data / "run" / "runner.key").read_text()
        self.key = key or server.key("runner")
        self.http = server.api(self.key)
        self.incarnation = f"inc-{next(_names)}"
        self.revision = ""

    def join(self) -> httpx.Response:
        me = {"runner": self.name, "incarnation": self.incarnation, "release": "test", "ray_version": "2.60.0"}
        answer = self.http.post("/runner/join", json=me | {"nodes": [self.node]})
        assert answer.status_code == 200, answer.text
        return answer

    def desired(self, after: str | None = None, wait_s: float = 0) -> dict[str, Any]:
        me = {"runner": self.name, "incarnation": self.incarnation}
        answer = self.http.get("/runner/desired", params=me | {"after": after or "", "wait_s": wait_s})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def wait_for(self, job: str, *, timeout_s: float = 10) -> dict[str, Any]:
        """Long-poll until the job's attempt is desired; return it."""
        deadline, revision = time.monotonic() + timeout_s, None
        while time.monotonic() < deadline:
            wish = self.desired(revision, wait_s=2)
            revision = wish["revision"]
            for attempt in wish["attempts"]:
                if attempt["job"] == job:
                    return attempt
        raise AssertionError(f"{job} was not desired in {timeout_s} s")

    def report(self, *attempts: dict[str, Any], nodes: list[dict[str, Any]] | None = None) -> httpx.Response:
        me = {"runner": self.name, "incarnation": self.incarnation}
        batch = me | {"nodes": nodes, "attempts": [{"at": 0} | a for a in attempts]}
        return self.http.post("/runner/reports", json=batch)

    def start(self, job: str) -> dict[str, Any]:
        """Bring the job's attempt to running; return it."""
        attempt = self.wait_for(job)
        done = self.report({"attempt": attempt["attempt"], "kind": "running"})
        assert done.json() == {"ignored": {}}, done.text
        return attempt

    def end(self, attempt: dict[str, Any], reason: str = "Completed", **outcome: Any) -> None:
        fact = {"attempt": attempt["attempt"], "kind": "ended", "proof": "report"}
        done = self.report(fact | {"outcome": {"reason": reason} | outcome})
        assert done.json() == {"ignored": {}}, done.text

    def log(self, attempt: dict[str, Any], offset: int, data: bytes, *, rank: int = 0, stream: str = "stdout") -> int:
        where = {"attempt": attempt["attempt"], "rank": rank, "stream": stream, "offset": offset}
        answer = self.http.post("/runner/logs", params=where, content=data)
        assert answer.status_code == 200, answer.text
        return answer.json()["next_offset"]


@pytest.fixture
def new_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Makes servers of the test's own; they are ended with it."""
    made: list[Server] = []

    def make(**env: str) -> Server:
        home = tmp_path / f"server-{len(made)}"
        home.mkdir()
        made.append(Server(home / "data", env=env))
        return made[-1]

    yield make
    for server in made:
        if server.process is not None and server.process.poll() is None:
            server.process.kill()
            server.process.wait()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests that need no own: each takes a tenant of its own."""
    running = Server(tmp_path_factory.mktemp("api") / "data", env={"FACTORY_LOG_QUOTA_BYTES": "100000"})
    running.start()
    yield running
    assert running.stop() == 0, running.log()


@pytest.fixture(scope="session")
def joined(server: Server) -> Runner:
    """The runner of that server."""
    runner = Runner(server)
    runner.join()
    return runner


@pytest.fixture
def runner(joined: Runner) -> Runner:
    """That runner, heard of just now: other tests may have taken longer than a silent one is trusted."""
    assert joined.report(nodes=[joined.node]).status_code == 200
    return joined


@pytest.fixture
def tenant(server: Server) -> Tenant:
    """A tenant of the test's own."""
    return server.tenant()
