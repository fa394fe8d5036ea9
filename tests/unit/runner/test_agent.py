"""The node agent on real processes, without Ray: replicas are plain processes that run the worker's own code."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from factory.domain.jobs import EndReason
from factory.domain.resources import MIB
from factory.lifecycle.reconciling import Process
from factory.worker.folders import NodeFolder, read_json
from tests.unit.runner.plain_node import ATTEMPT, LogStore, Replicas, agent_of, is_gone, until


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
    replicas = Replicas(node)
    yield replicas.serve
    replicas.end()


def test_an_end_is_seen_with_its_outcome_and_whole_logs(node: NodeFolder, logs: LogStore, serve: Callable) -> None:
    agent = agent_of(node, logs)
    serve("sh", "-c", "echo out; echo err >&2; exit 7")

    gone = until(agent, is_gone)

    assert gone.began
    assert gone.outcome is not None
    assert (gone.outcome.reason, gone.outcome.exit_code, gone.outcome.tail) == (EndReason.USER_ERROR, 7, "err")
    assert logs.stored == {"stdout": b"out\n", "stderr": b"err\n"}


def test_a_gang_that_starts_smaller_than_asked_for_knows_its_real_size(
    node: NodeFolder, logs: LogStore, serve: Callable
) -> None:
    agent = agent_of(node, logs)
    serve("sh", "-c", "echo $RANK/$WORLD_SIZE/$FACTORY_REPLICAS", replicas=3, gang=("127.0.0.1", "127.0.0.2"))
    until(agent, is_gone)
    assert logs.stored["stdout"] == b"0/2/2\n"


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
