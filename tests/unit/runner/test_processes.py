"""Which processes belong to a replica."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from factory.runner.processes import Process, ProcessTable, proportional_memory
from factory.worker.folders import start_ticks

Spawn = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """Start a Python program and wait for its first line; killed at the end, with its whole session."""
    started: list[subprocess.Popen[str]] = []

    def run(code: str, **env: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, **env},
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


WAIT = "import sys, time; print('up', flush=True); time.sleep(60)"
ORPHAN = """
import os, subprocess, sys, time
child = subprocess.Popen(["sleep", "60"], start_new_session=True, env={"PATH": os.environ["PATH"]})
print(child.pid, flush=True)
time.sleep(60)
"""


def test_a_process_belongs_to_the_replica_that_its_environment_names(spawn: Spawn) -> None:
    process = spawn(WAIT, FACTORY_REPLICA="r1", FACTORY_NODE="n1")
    process.stdout.readline()  # pyright: ignore[reportOptionalMemberAccess]

    assert {p.pid for p in ProcessTable("n1").scan()["r1"]} == {process.pid}


def test_another_nodes_processes_are_nobody_here(spawn: Spawn) -> None:
    process = spawn(WAIT, FACTORY_REPLICA="r1", FACTORY_NODE="n2")
    process.stdout.readline()  # pyright: ignore[reportOptionalMemberAccess]

    assert ProcessTable("n1").scan() == {}


def test_a_child_that_cleared_its_environment_and_left_its_session_is_known_by_descent(spawn: Spawn) -> None:
    process = spawn(ORPHAN, FACTORY_REPLICA="r1", FACTORY_NODE="n1")
    child = int(process.stdout.readline())  # pyright: ignore[reportOptionalMemberAccess]
    table = ProcessTable("n1")
    before = table.scan()["r1"]

    process.kill()
    process.wait()
    after = table.scan()["r1"]

    assert {p.pid for p in before} == {process.pid, child}
    assert {p.pid for p in after} == {child}
    for orphan in after:
        orphan.kill()


def test_a_killed_process_is_gone_and_a_reused_pid_is_not_touched(spawn: Spawn) -> None:
    process = spawn(WAIT, FACTORY_REPLICA="r1", FACTORY_NODE="n1")
    process.stdout.readline()  # pyright: ignore[reportOptionalMemberAccess]
    ticks = start_ticks(process.pid)
    assert ticks is not None

    Process(process.pid, ticks + 1).kill()  # the same pid, another life
    assert process.poll() is None
    Process(process.pid, ticks).kill()

    assert process.wait(10) == -9
    assert ProcessTable("n1").scan() == {}


def test_memory_counts_what_the_process_holds(spawn: Spawn) -> None:
    code = "x = bytearray(b'x' * (64 << 20)); import time; print('up', flush=True); time.sleep(60)"
    process = spawn(code, FACTORY_REPLICA="r1", FACTORY_NODE="n1")
    process.stdout.readline()  # pyright: ignore[reportOptionalMemberAccess]
    members = ProcessTable("n1").scan()["r1"]

    assert proportional_memory(members, above=0) > 64 << 20
    assert proportional_memory(members, above=1 << 40) >= proportional_memory(members, above=0)
