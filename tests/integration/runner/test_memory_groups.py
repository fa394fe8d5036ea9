"""Memory limits by the machine's own cgroups, and by the watchdog where a node is told to use none."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from factory.domain.jobs import EndReason
from factory.domain.resources import MIB
from factory.errors import UnsupportedError
from factory.lifecycle.reconciling import Process
from factory.runner.cgroups import Kernel, MemoryGroups, clear, find_place, open_groups, prove
from factory.runner.processes import ProcessTable
from factory.worker.cgroups import OWN_MEMORY_BYTES
from factory.worker.folders import NodeFolder, start_ticks
from tests.integration.runner.conftest import Fleet
from tests.unit.runner.plain_node import LogStore, Replicas, agent_of, is_gone, until

EAT = "x = b'x' * ({} << 20); print('ate', flush=True); {}"
REST = "import time; time.sleep(60)"
MARKS = "env -u FACTORY_REPLICA -u FACTORY_NODE"


def who_can() -> str:
    """Who should hold the limits on this machine: found out by doing it, as agents do."""
    try:
        prove(find_place(f"n{os.getpid()}-proof", Kernel.here()))
    except (UnsupportedError, OSError):
        return "watchdog"
    return "cgroup"


@pytest.fixture
def node(tmp_path: Path) -> NodeFolder:
    folder = NodeFolder(tmp_path / "node")
    folder.create()
    return folder


@pytest.fixture
def name(tmp_path: Path) -> str:
    return f"n{os.getpid()}-{tmp_path.name}"


@pytest.fixture
def logs() -> Iterator[LogStore]:
    store = LogStore()
    yield store
    store.shutdown()
    store.server_close()


@pytest.fixture
def groups(node: NodeFolder, name: str) -> Iterator[MemoryGroups]:
    """Real groups; without them these tests have nothing to look at."""
    try:
        place = find_place(name, Kernel.here())
        if place.version == 2:
            pytest.skip("a version 2 group is divided only by a real agent: it moves this process")
        prove(place)
    except (UnsupportedError, OSError) as exc:
        pytest.skip(f"no memory group can be made here: {exc}")
    found = open_groups(name, node, "auto")
    yield found
    for group in found.all().values():
        clear(group)


@pytest.fixture
def replicas(node: NodeFolder, name: str) -> Iterator[Replicas]:
    started = Replicas(node, name)
    yield started
    started.end()


def eat(mebibytes: int, then: str = "") -> tuple[str, str, str]:
    return sys.executable, "-c", EAT.format(mebibytes, then or "pass")


def test_what_allocates_too_much_is_out_of_memory_by_the_kernels_evidence(
    node: NodeFolder, name: str, logs: LogStore, groups: MemoryGroups, replicas: Replicas
) -> None:
    agent = agent_of(node, logs, groups, name)
    replicas.serve(*eat(400, REST), memory=64 * MIB)

    gone = until(agent, is_gone)

    assert gone.outcome is not None
    assert gone.outcome.reason is EndReason.OUT_OF_MEMORY
    assert "its memory group was full" in gone.outcome.message
    assert "its limit is 64 MiB" in gone.outcome.message
    assert " MiB at its peak" in gone.outcome.message
    assert "stdout" not in logs.stored  # the kernel was there before it had it all
    assert groups.all() == {}


def test_a_child_in_a_session_of_its_own_is_counted(
    node: NodeFolder, name: str, logs: LogStore, groups: MemoryGroups, replicas: Replicas
) -> None:
    agent = agent_of(node, logs, groups, name)
    program = f"import os, subprocess, time; os.fork() or os.setsid(); {EAT.format(150, REST)}"
    replicas.serve(sys.executable, "-c", program, memory=96 * MIB)  # each alone would fit

    gone = until(agent, is_gone)

    assert gone.outcome is not None
    assert gone.outcome.reason is EndReason.OUT_OF_MEMORY


def test_a_job_may_use_all_that_it_asked_for(
    node: NodeFolder, name: str, logs: LogStore, groups: MemoryGroups, replicas: Replicas
) -> None:
    agent = agent_of(node, logs, groups, name)
    replicas.serve(*eat(250), memory=256 * MIB)

    gone = until(agent, is_gone)

    assert gone.outcome is not None
    assert gone.outcome.reason is EndReason.COMPLETED


def test_a_warm_replica_is_in_a_group_without_a_limit_and_gets_it_with_its_order(
    node: NodeFolder, name: str, logs: LogStore, groups: MemoryGroups, replicas: Replicas
) -> None:
    agent = agent_of(node, logs, groups, name)
    process = replicas.be_born()
    until(agent, lambda r: r.process is Process.ALIVE)
    group = groups.all()["r1"]
    warm = (group.pids(), group.limit_bytes())

    replicas.begin(process, "sleep", "60", memory=512 * MIB)
    until(agent, lambda r: r.began)
    limit = group.limit_bytes()

    assert warm == ({process.pid}, None)
    assert limit is not None
    assert 512 * MIB + OWN_MEMORY_BYTES <= limit < 512 * MIB + OWN_MEMORY_BYTES + 32 * MIB


def test_a_process_without_mark_and_parent_is_found_by_its_group_and_killed(
    node: NodeFolder, name: str, logs: LogStore, groups: MemoryGroups, replicas: Replicas
) -> None:
    # nobody looked while it could be seen as a child: an agent that starts when all its kin is dead
    process = replicas.serve("sh", "-c", f"{MARKS} setsid sleep 300 & echo $!; kill -9 $PPID")
    process.wait(20)
    stray = int((node.rank("job-a.1", 0).path / "stdout").read_text())
    by_mark = ProcessTable(name).scan()
    agent = agent_of(node, logs, groups, name)

    left = until(agent, lambda r: r.process is Process.LEFTOVER)
    assert agent.kill("r1", "left behind")
    until(agent, is_gone)

    assert by_mark == {}
    assert left.attempt == "job-a.1"
    assert start_ticks(stray) is None
    assert groups.all() == {}


def test_a_group_of_a_dead_agent_is_swept_with_what_is_in_it(
    node: NodeFolder, name: str, logs: LogStore, groups: MemoryGroups
) -> None:
    place = find_place(name, Kernel.here())
    group = place.group("r0")
    group.create()
    place.group("r00").create()
    with subprocess.Popen(["sleep", "300"]) as process:
        group.add(process.pid)

        agent_of(node, logs, groups, name)

        assert process.wait(10) == -9
    assert groups.all() == {}


def test_a_factory_that_ends_leaves_no_process_and_no_group(
    node: NodeFolder, name: str, logs: LogStore, groups: MemoryGroups, replicas: Replicas
) -> None:
    agent = agent_of(node, logs, groups, name)
    warm = replicas.be_born()
    until(agent, lambda r: r.process is Process.ALIVE)

    agent.end()

    assert warm.wait(10) == -9
    assert groups.all() == {}


def test_a_forced_watchdog_holds_the_limit_without_a_group(
    node: NodeFolder, name: str, logs: LogStore, replicas: Replicas
) -> None:
    groups = open_groups(name, node, "watchdog")
    agent = agent_of(node, logs, groups, name)
    replicas.serve(*eat(400, REST), memory=64 * MIB)

    gone = until(agent, is_gone)

    assert groups.limits == "watchdog"
    assert gone.outcome is not None
    assert gone.outcome.reason is EndReason.OUT_OF_MEMORY
    assert "its limit is 64 MiB" in gone.outcome.message
    assert "group" not in gone.outcome.message


def test_the_watchdog_holds_what_has_left_its_group(
    node: NodeFolder, name: str, logs: LogStore, groups: MemoryGroups, replicas: Replicas
) -> None:
    agent = agent_of(node, logs, groups, name)
    procs = find_place(name, Kernel.here()).base / "cgroup.procs"
    program = f"import os; open('{procs}', 'w').write(str(os.getpid())); {EAT.format(400, REST)}"
    replicas.serve(sys.executable, "-c", program, memory=64 * MIB)

    gone = until(agent, is_gone)

    assert gone.outcome is not None
    assert gone.outcome.reason is EndReason.OUT_OF_MEMORY
    assert "group" not in gone.outcome.message


def test_on_ray_a_node_tells_who_holds_its_limits_and_the_end_says_so_too(fleet: Fleet) -> None:
    (shown,) = fleet.client.nodes.list()

    job = fleet.command(*eat(700, REST), memory="256MiB", retry={"max_retries": 0})
    outcome = job.wait(60).outcome

    assert shown.memory_limits == who_can()
    assert outcome is not None
    assert outcome.reason is EndReason.OUT_OF_MEMORY
    assert ("its memory group was full" in outcome.message) == (shown.memory_limits == "cgroup")
    assert "its limit is 256 MiB" in outcome.message
