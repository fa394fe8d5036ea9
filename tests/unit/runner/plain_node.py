"""A node without Ray: replicas are plain processes that run the worker's own code; logs go to a small HTTP server."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Condition, Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

from factory.domain.jobs import CommandEntry, Placement
from factory.domain.resources import MIB, Resources
from factory.lifecycle.reconciling import Process
from factory.runner.agent import NodeAgent, ReplicaView
from factory.runner.cgroups import MemoryGroups
from factory.schemas.attempt import WorkOrder
from factory.testing.builders import spec
from factory.worker.folders import NodeFolder
from factory.worker.http import Http
from factory.worker.orders import ReplicaOrder

ATTEMPT = "job-a.1"
REPLICA = """
import sys
from pathlib import Path
from factory.worker.folders import NodeFolder
from factory.worker.main import be_born, run_order
from factory.worker.orders import ReplicaOrder
node = NodeFolder(Path(sys.argv[1]))
be_born(node, sys.argv[2])
run_order(node, sys.argv[2], ReplicaOrder.model_validate_json(sys.stdin.read()))
"""


class LogStore(ThreadingHTTPServer):
    """POST and GET /runner/logs, as the control plane answers them; `down` answers 503."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _LogHandler)
        self.stored: dict[str, bytes] = {}
        self.down = False
        self.changed = Condition()
        Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def has(self, stream: str, content: bytes, patience_s: float = 20) -> bool:
        """Wait for a stream to be exactly that."""
        with self.changed:
            return self.changed.wait_for(lambda: self.stored.get(stream) == content, patience_s)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _LogHandler(BaseHTTPRequestHandler):
    server: LogStore

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers["content-length"])))

    def _answer(self, chunk: bytes) -> None:
        query = {k: v[0] for k, v in parse_qs(urlsplit(self.path).query).items()}
        before = self.server.stored.get(query["stream"], b"")
        if self.server.down:
            self.send_error(503)
            return
        if chunk and int(query["offset"]) == len(before):
            before += chunk
            with self.server.changed:
                self.server.stored[query["stream"]] = before
                self.server.changed.notify_all()
        body = b'{"next_offset": %d}' % len(before)
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


class Replicas:
    """Starts replicas' processes and ends them."""

    def __init__(self, node: NodeFolder, name: str = "n1") -> None:
        self._node, self._name = node, name
        self._started: list[subprocess.Popen[str]] = []

    def be_born(self, replica: str = "r1") -> subprocess.Popen[str]:
        """Start a process that waits for its order."""
        process = subprocess.Popen(
            [sys.executable, "-c", REPLICA, str(self._node.root), replica],
            env={**os.environ, "FACTORY_REPLICA": replica, "FACTORY_NODE": self._name},
            stdin=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._started.append(process)
        Thread(target=process.wait, daemon=True).start()  # no zombies, as under Ray
        return process

    def begin(
        self,
        process: subprocess.Popen[str],
        *argv: str,
        memory: int = 512 * MIB,
        fence_s: int | None = None,
        replicas: int = 1,
        gang: tuple[str, ...] = ("127.0.0.1",),
    ) -> None:
        """Give it the order to run a command."""
        work = WorkOrder(
            attempt=ATTEMPT, job="job-a", tenant="mobility", ordinal=1, api_url="http://127.0.0.1:9",
            spec=replace(spec(replicas=replicas), entry=CommandEntry(argv)),
        )  # fmt: skip
        placement = Placement(0, "n1", Resources(1000, memory, 0))  # pyright: ignore[reportArgumentType]
        assert process.stdin is not None
        order = ReplicaOrder(work=work, placement=placement, token="fat_secret", gang=gang, self_fence_s=fence_s)
        process.stdin.write(order.model_dump_json())
        process.stdin.close()

    def serve(self, *argv: str, replica: str = "r1", **order: Any) -> subprocess.Popen[str]:
        """Start a process that serves a command; `order`: as of `begin`."""
        process = self.be_born(replica)
        self.begin(process, *argv, **order)
        return process

    def end(self) -> None:
        """Kill them."""
        for process in self._started:
            process.kill()
            process.wait()


def agent_of(node: NodeFolder, logs: LogStore, groups: MemoryGroups | None = None, name: str = "n1") -> NodeAgent:
    """Start an agent in this process."""
    agent = NodeAgent(name, node.root, Http(logs.url, "fak_runner"), groups)
    agent.start()
    return agent


def until(agent: NodeAgent, holds: Callable[[ReplicaView], bool], patience_s: float = 20) -> ReplicaView:
    """Wait for the agent to show a replica like that: what the runner does."""
    deadline, version = time.monotonic() + patience_s, -1
    while time.monotonic() < deadline:
        view = agent.observe(version, 1.0)
        version = view.version
        for replica in view.replicas:
            if holds(replica):
                return replica
    raise AssertionError(agent.look())


def is_gone(replica: ReplicaView) -> bool:
    """True once nothing of it lives and its logs are stored."""
    return replica.process is Process.GONE and replica.logs_whole
