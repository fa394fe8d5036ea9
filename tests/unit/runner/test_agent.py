"""The node agent on real processes, without Ray: replicas are plain processes that run the worker's own code."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Condition, Thread
from urllib.parse import parse_qs, urlsplit

import pytest

from factory.domain.jobs import CommandEntry, EndReason, Placement
from factory.domain.resources import MIB, Resources
from factory.lifecycle.reconciling import Process
from factory.runner.agent import NodeAgent, ReplicaView
from factory.schemas.attempt import WorkOrder
from factory.testing.builders import spec
from factory.worker.folders import NodeFolder, read_json
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


@pytest.fixture
def logs() -> Iterator[LogStore]:
    store = LogStore()
    yield store
    store.shutdown()
    store.server_close()


@pytest.fixture
def node(tmp_path: Path) -> NodeFolder:
    folder = NodeFolder(tmp_path / "n1")
    folder.create()
    return folder


@pytest.fixture
def serve(node: NodeFolder) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a replica's process that serves a command."""
    started: list[subprocess.Popen[str]] = []

    def run(*argv: str, replica: str = "r1", memory: int = 512 * MIB) -> subprocess.Popen[str]:
        work = WorkOrder(
            attempt=ATTEMPT, job="job-a", tenant="mobility", ordinal=1, api_url="http://127.0.0.1:9",
            spec=replace(spec(), entry=CommandEntry(argv)),
        )  # fmt: skip
        placement = Placement(0, "n1", Resources(1000, memory, 0))  # pyright: ignore[reportArgumentType]
        process = subprocess.Popen(
            [sys.executable, "-c", REPLICA, str(node.root), replica],
            env={**os.environ, "FACTORY_REPLICA": replica, "FACTORY_NODE": "n1"},
            stdin=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        assert process.stdin is not None
        process.stdin.write(ReplicaOrder(work=work, placement=placement, token="fat_secret").model_dump_json())
        process.stdin.close()
        Thread(target=process.wait, daemon=True).start()  # no zombies, as under Ray
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()


def agent_of(node: NodeFolder, logs: LogStore) -> NodeAgent:
    agent = NodeAgent("n1", node.root, Http(logs.url, "fak_runner"))
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
    return replica.process is Process.GONE and replica.logs_whole


def test_an_end_is_seen_with_its_outcome_and_whole_logs(node: NodeFolder, logs: LogStore, serve: Callable) -> None:
    agent = agent_of(node, logs)
    serve("sh", "-c", "echo out; echo err >&2; exit 7")

    gone = until(agent, is_gone)

    assert gone.began
    assert gone.outcome is not None
    assert (gone.outcome.reason, gone.outcome.exit_code, gone.outcome.tail) == (EndReason.USER_ERROR, 7, "err")
    assert logs.stored == {"stdout": b"out\n", "stderr": b"err\n"}


def test_a_replica_killed_from_outside_leaves_no_outcome_and_its_child_is_a_leftover(
    node: NodeFolder, logs: LogStore, serve: Callable
) -> None:
    agent = agent_of(node, logs)
    process = serve("sh", "-c", "echo up; exec sleep 60")
    assert logs.has("stdout", b"up\n")

    process.kill()
    left = until(agent, lambda r: r.process is Process.LEFTOVER)
    assert agent.kill("r1", "left behind")
    gone = until(agent, is_gone)

    assert (left.outcome, left.killed) == (None, False)
    assert (gone.outcome, gone.killed) == (None, False)


def test_a_kill_takes_every_process_and_says_that_it_was_one(node: NodeFolder, logs: LogStore, serve: Callable) -> None:
    agent = agent_of(node, logs)
    serve("sh", "-c", "setsid sleep 60 & wait")
    until(agent, lambda r: r.began)

    assert agent.kill("r1", "over its grace")

    assert until(agent, is_gone).killed


def test_a_notice_to_stop_reaches_a_command_as_sigterm(node: NodeFolder, logs: LogStore, serve: Callable) -> None:
    agent = agent_of(node, logs)
    serve("sh", "-c", "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done")
    assert logs.has("stdout", b"up\n")

    agent.notify_stop(ATTEMPT, 0, "Cancelled", 1234)
    gone = until(agent, is_gone)

    assert gone.notified_at == 1234
    assert logs.stored["stdout"] == b"up\nbye\n"


def test_a_rank_that_was_forbidden_never_begins(node: NodeFolder, logs: LogStore, serve: Callable) -> None:
    agent = agent_of(node, logs)
    assert agent.forbid(ATTEMPT, [0]) == []

    process = serve("sh", "-c", "echo never")

    assert process.wait(20) == 3
    assert until(agent, lambda r: r.process is Process.GONE).attempt is None
    assert logs.stored == {}


def test_a_rank_that_somebody_serves_cannot_be_forbidden(node: NodeFolder, logs: LogStore, serve: Callable) -> None:
    agent = agent_of(node, logs)
    serve("sleep", "60")
    until(agent, lambda r: r.began)

    assert agent.forbid(ATTEMPT, [0, 1]) == [0]


def test_a_second_process_for_a_rank_does_not_begin(node: NodeFolder, logs: LogStore, serve: Callable) -> None:
    agent = agent_of(node, logs)
    serve("sleep", "60", replica="r1")
    until(agent, lambda r: r.began)

    assert serve("sh", "-c", "echo twice", replica="r2").wait(20) == 3
    assert (read_json(node.rank(ATTEMPT, 0).claim) or {})["replica"] == "r1"


def test_over_its_memory_limit_it_is_killed_with_the_evidence(
    node: NodeFolder, logs: LogStore, serve: Callable
) -> None:
    agent = agent_of(node, logs)
    serve(sys.executable, "-c", "import time; x = bytearray(b'x' * (200 << 20)); time.sleep(60)", memory=64 * MIB)

    gone = until(agent, is_gone)

    assert gone.outcome is not None
    assert gone.outcome.reason is EndReason.OUT_OF_MEMORY
    assert "its limit is 64 MiB" in gone.outcome.message


def test_the_next_agent_knows_what_the_last_one_knew_and_ships_the_rest(
    node: NodeFolder, logs: LogStore, serve: Callable
) -> None:
    logs.stored["stdout"] = b"on"  # of "one": what the last agent had shipped
    process = serve("sh", "-c", "echo one; echo two")
    process.wait(20)

    gone = until(agent_of(node, logs), is_gone)

    assert gone.outcome is not None
    assert gone.outcome.reason is EndReason.COMPLETED
    assert logs.stored["stdout"] == b"one\ntwo\n"


def test_logs_wait_for_a_control_plane_that_is_away(node: NodeFolder, logs: LogStore, serve: Callable) -> None:
    logs.down = True
    agent = agent_of(node, logs)
    serve("echo", "kept")
    gone = until(agent, lambda r: r.process is Process.GONE)
    assert not gone.logs_whole

    logs.down = False

    until(agent, is_gone)
    assert logs.stored["stdout"] == b"kept\n"


def test_what_is_forgotten_is_not_shown_and_its_rank_stays_taken(
    node: NodeFolder, logs: LogStore, serve: Callable
) -> None:
    agent = agent_of(node, logs)
    serve("true")
    until(agent, is_gone)

    agent.forget("r1")

    assert agent.look().replicas == ()
    assert serve("true", replica="r2").wait(20) == 3


def test_no_secret_is_on_the_disk(node: NodeFolder, logs: LogStore, serve: Callable) -> None:
    agent = agent_of(node, logs)
    serve("true")
    until(agent, is_gone)

    for path in node.root.rglob("*"):
        if path.is_file():
            assert b"fat_secret" not in path.read_bytes(), path
