"""A real control plane, a real Ray head and a real runner, each a process of its own; one set for all tests here."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from factory.runner.ray_process import (
    ensure_ray_token,
    free_port,
    ray_head_command,
    ray_instance,
    ray_temp_dir,
    reap,
)
from factory.sdk.client import Client
from factory.sdk.jobs import JobHandle


def until(what: Callable[[], object], patience_s: float = 60.0) -> None:
    """Wait for something outside of this process that cannot be awaited."""
    deadline = time.monotonic() + patience_s
    while not what():
        assert time.monotonic() < deadline, f"not within {patience_s:g} s"
        time.sleep(0.02)


class Fleet:
    """The processes, and what tests do to them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run = folder / "run"
        self.instance = ray_instance(folder)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.api_port, self.ray_port, self.client_port = free_port(), free_port(), free_port()
        self.run.mkdir()
        self.token = ensure_ray_token(self.run / "ray.token")

    def start_all(self) -> None:
        argv, env = ray_head_command(
            instance=self.instance,
            port=self.ray_port,
            client_port=self.client_port,
            temp_dir=ray_temp_dir(self.folder),
            token_path=self.token,
            num_cpus=2,
        )
        self._start("ray", argv, env)
        server = [
            sys.executable,
            "-c",
            "from factory.api.server import run; from factory.settings import Settings; run(Settings())",
        ]
        self._start("server", server, {"FACTORY_DATA": str(self.folder), "FACTORY_PORT": str(self.api_port)})
        until((self.run / "admin.key").exists)
        join = self.run / "runner.join.json"
        join.touch(0o600)
        join.write_text(
            json.dumps(
                {
                    "url": f"http://127.0.0.1:{self.api_port}",
                    "runner": "local",
                    "key_file": str(self.run / "runner.key"),
                    "ray_address": f"127.0.0.1:{self.ray_port}",
                    "ray_token_path": str(self.token),
                    "node_dir": str(self.folder / "node"),
                    "cpus": 2,
                }
            )
        )
        self.client = Client(f"http://127.0.0.1:{self.api_port}", (self.run / "admin.key").read_text().strip())
        self.start_runner()

    def start_runner(self) -> None:
        argv = [sys.executable, "-m", "factory.runner.main", "--join-file", str(self.run / "runner.join.json")]
        (self.run / "runner.ready").unlink(missing_ok=True)
        self._start("runner", argv, {})
        until(lambda: (self.run / "runner.ready").exists() or self.processes["runner"].poll() is not None)
        assert self.processes["runner"].poll() is None, self.log("runner")

    def _start(self, name: str, argv: list[str], env: dict[str, str]) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(argv, env={**os.environ, **env}, stdout=log, stderr=log)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()[-4000:]

    def node(self) -> Path:
        """The node's folder."""
        return next(path for path in (self.folder / "node").iterdir() if (path / "replicas").is_dir())

    def agent_pid(self) -> int:
        (pid,) = [p.pid for p in self._ray_workers() if "AgentActor" in " ".join(p.cmdline())]
        return pid

    def gcs_memory(self) -> Iterator[bytes]:
        """Yield what is in the memory of Ray's GCS, region by region."""
        (pid,) = [p.pid for p in self._ray_workers() if p.name() == "gcs_server"]
        with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
            for line in maps:
                where, access, *_ = line.split()
                if access.startswith("rw"):
                    start, end = (int(part, 16) for part in where.split("-"))
                    memory.seek(start)
                    with contextlib.suppress(OSError):  # unmapped meanwhile
                        yield memory.read(end - start)

    def _ray_workers(self) -> list[psutil.Process]:
        return psutil.Process(self.processes["ray"].pid).children(recursive=True)

    def served_replicas(self) -> set[str]:
        """Replicas that serve or served an attempt, and whose evidence is not dropped yet."""
        served = {json.loads(claim.read_text())["replica"] for claim in self.node().glob("attempts/*/*/claim.json")}
        return served & {path.stem for path in (self.node() / "replicas").glob("*.json")}

    def has_warm_replica(self) -> bool:
        """True once a replica waits for an order."""
        births = {path.stem: json.loads(path.read_text())["pid"] for path in (self.node() / "replicas").glob("*.json")}
        served = self.served_replicas()
        return any(replica not in served and psutil.pid_exists(pid) for replica, pid in births.items())

    def command(self, *argv: str, **options: object) -> JobHandle:
        """Submit a command."""
        fields = {"name": "test", "cpu": 0.5, "memory": "256MiB", "grace_s": 5, **options}
        return self.client.jobs.submit(command={"argv": argv}, **fields)

    def end_all(self) -> None:
        for name in ("runner", "server"):
            process = self.processes.get(name)
            if process is not None and process.poll() is None:
                process.terminate()
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    process.kill()
        reap(self.instance)
        shutil.rmtree(ray_temp_dir(self.folder), ignore_errors=True)
        for process in self.processes.values():
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    started = Fleet(tmp_path_factory.mktemp("fleet"))
    try:
        started.start_all()
        yield started
    finally:
        started.end_all()
