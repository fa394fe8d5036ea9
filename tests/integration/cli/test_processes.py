"""Supervision with real processes: restart, adoption, order at the end, nothing left."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from factory.cli.processes import ChildSpec, Supervisor, instance_id, kill_marked, marked_pids

SLEEP = (sys.executable, "-c", "import time; time.sleep(600)")


class Harness:
    """A supervisor in a thread, and what it said."""

    def __init__(self, folder: Path, *specs: ChildSpec) -> None:
        self.said: list[tuple[str, str]] = []
        self.ready: list[str] = []
        self.supervisor = Supervisor(folder, instance_id(folder), specs, lambda *what: self.said.append(what))
        self.thread = threading.Thread(target=self.supervisor.run, args=(self.ready.append,), daemon=True)
        self.thread.start()

    def until(self, true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 20
        while not true():
            assert time.monotonic() < deadline, (self.said, self.ready)
            time.sleep(0.01)

    def end(self, *order: str) -> int:
        self.abandon()
        return self.supervisor.end_all(order)

    def abandon(self) -> None:
        self.supervisor.stop()
        self.thread.join(10)


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path) -> Iterator[None]:
    yield
    assert kill_marked(instance_id(tmp_path)) == 0


def test_a_child_that_is_killed_is_started_again(tmp_path: Path) -> None:
    h = Harness(tmp_path, ChildSpec("a", SLEEP))
    h.until(lambda: h.ready == ["a"])
    first = h.supervisor.pids()["a"]
    os.kill(first, signal.SIGKILL)
    h.until(lambda: h.ready == ["a", "a"])
    assert h.supervisor.pids()["a"] != first
    assert h.said == [("a", "died (SIGKILL); restarting")]
    assert h.end("a") == 0


def test_the_next_supervisor_adopts_what_lives(tmp_path: Path) -> None:
    first = Harness(tmp_path, ChildSpec("a", SLEEP))
    first.until(lambda: first.ready == ["a"])
    pid = first.supervisor.pids()["a"]
    first.abandon()  # as after its death: the child lives on
    second = Harness(tmp_path, ChildSpec("a", SLEEP))
    second.until(lambda: second.ready == ["a"])
    assert second.supervisor.pids() == {"a": pid}
    os.kill(pid, signal.SIGKILL)
    second.until(lambda: second.supervisor.pids().get("a", pid) != pid)
    second.end("a")


def test_a_child_that_would_start_differently_is_replaced_not_adopted(tmp_path: Path) -> None:
    first = Harness(tmp_path, ChildSpec("a", SLEEP))
    first.until(lambda: first.ready == ["a"])
    pid = first.supervisor.pids()["a"]
    first.abandon()
    second = Harness(tmp_path, ChildSpec("a", SLEEP, {"X": "1"}))
    second.until(lambda: second.ready == ["a"])
    assert second.supervisor.pids()["a"] != pid
    second.end("a")


def test_a_child_waits_for_what_it_needs(tmp_path: Path) -> None:
    gate = threading.Event()
    h = Harness(
        tmp_path, ChildSpec("needs", SLEEP, after=("needed",)), ChildSpec("needed", SLEEP, is_ready=gate.is_set)
    )
    h.until(lambda: "needed" in h.supervisor.pids())
    assert "needs" not in h.supervisor.pids()
    gate.set()
    h.until(lambda: h.ready == ["needed", "needs"])
    h.end("needs", "needed")


def test_a_child_is_restarted_with_the_one_it_depends_on(tmp_path: Path) -> None:
    h = Harness(tmp_path, ChildSpec("ray", SLEEP), ChildSpec("runner", SLEEP, restart_with=("ray",)))
    h.until(lambda: sorted(h.ready) == ["ray", "runner"])
    before = h.supervisor.pids()
    os.kill(before["ray"], signal.SIGKILL)
    h.until(lambda: len(h.ready) == 4)
    after = h.supervisor.pids()
    assert before["ray"] != after["ray"]
    assert before["runner"] != after["runner"]
    h.end("runner", "ray")


def test_what_a_child_left_behind_is_found_by_its_marker_and_killed(tmp_path: Path) -> None:
    forker = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'],"
    argv = (sys.executable, "-c", f"{forker} start_new_session=True); time.sleep(600)")
    h = Harness(tmp_path, ChildSpec("a", argv))
    h.until(lambda: len(marked_pids(instance_id(tmp_path))) == 2)
    assert h.end("a") == 1
    assert marked_pids(instance_id(tmp_path)) == []


def test_a_child_that_ignores_sigterm_is_killed_after_its_time(tmp_path: Path) -> None:
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); open('up', 'w').close(); time.sleep(600)"
    )
    h = Harness(tmp_path, ChildSpec("a", (sys.executable, "-c", code), stop_s=0.2))
    h.until(lambda: (tmp_path / "up").exists())
    assert h.end("a") == 0
    assert h.supervisor.pids() == {}
