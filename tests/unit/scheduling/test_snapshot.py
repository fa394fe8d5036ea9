"""What a snapshot knows of its rows, and how it changes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from factory.domain.ids import NodeId
from factory.domain.jobs import AttemptState, DeviceShare, Job, JobState, Placement
from factory.domain.pools import NodeState, Pool
from factory.scheduling.changes import JobChanged, NodeChanged, PoolChanged, QueueChanged, RunnerChanged
from factory.scheduling.floor import Floor
from factory.scheduling.fragmentation import Typical
from factory.scheduling.planning import Policy, plan
from factory.scheduling.quota import ROOT
from factory.scheduling.snapshot import Snapshot
from factory.testing.builders import allocation, job, node, pool, queue, resources, runner, running, snapshot

CPU = pool("cpu")
GPU = pool("gpu", cpu=4, memory_gib=16, gpu=1)


def left(snap: Snapshot, pool: Pool, node: str) -> tuple[int, tuple[int, ...]]:
    """The CPUs and the devices that are left of a node."""
    free, devices = Floor(snap.fleet(pool.name), Typical()).free_of(NodeId(node))
    return free.cpu_milli, devices


def waiting(snap: Snapshot) -> list[str]:
    """Who waits in the queue, in order."""
    return [turn[2] for _, waitlist in snap.lines(queue().name) for turn, _ in waitlist.order.items()]


def on(
    id: str, *nodes: str, cpu: float = 1, state: AttemptState = AttemptState.RUNNING, queue: str = "mobility"
) -> Job:
    """A job that holds CPUs of `nodes` in pool cpu."""
    return running(job(id, cpu=cpu, queue=queue), allocation(nodes, pool=CPU, cpu=cpu), state=state)


@pytest.mark.parametrize(
    "state",
    [AttemptState.DESIRED, AttemptState.STARTING, AttemptState.RUNNING, AttemptState.STOPPING, AttemptState.UNKNOWN],
)
def test_a_live_attempt_holds_its_slots_in_whatever_state_it_is(state: AttemptState) -> None:
    snap = snapshot(CPU, queue(), node("n1", cpu=8), on("job-a", "n1", cpu=3, state=state))
    assert left(snap, CPU, "n1") == (5000, ())
    assert dict(snap.used.items()) == {("mobility", "cpu"): 3000}


def test_proof_of_death_frees_the_slots() -> None:
    held = on("job-a", "n1", cpu=3)
    over = replace(held.attempts[0], state=AttemptState.ENDED)
    snap = snapshot(CPU, queue(), node("n1", cpu=8), held)
    freed = snap.evolve([JobChanged(held.id, replace(held, state=JobState.QUEUED, attempts=(over,)))])
    assert freed.fleet(CPU.name).offered.cpu_milli == 8000
    assert not dict(freed.used.items())
    assert waiting(freed) == ["job-a"]


def test_an_ended_job_is_gone() -> None:
    snap = snapshot(CPU, queue(), node("n1"), job("job-a"))
    ended = snap.evolve([JobChanged(job("job-a").id, job("job-a", state=JobState.SUCCEEDED))])
    assert not ended.rows().jobs
    assert not waiting(ended)


def test_an_ended_job_with_an_attempt_that_is_not_proven_dead_still_holds_its_slots() -> None:
    held = replace(on("job-a", "n1", cpu=3), state=JobState.CANCELLED)
    snap = snapshot(CPU, queue(), node("n1", cpu=8), held)
    assert snap.fleet(CPU.name).offered.cpu_milli == 5000


def test_only_queued_jobs_wait_for_slots() -> None:
    others = [job(f"job-{state.value}", state=state) for state in JobState if state is not JobState.QUEUED]
    snap = snapshot(CPU, queue(), *others, job("job-q"))
    assert waiting(snap) == ["job-q"]


def test_a_queued_job_whose_last_attempt_is_not_proven_dead_is_no_candidate() -> None:
    stuck = replace(on("job-a", "n1", state=AttemptState.UNKNOWN), state=JobState.QUEUED)
    snap = snapshot(CPU, queue(), node("n1"), stuck)
    assert not plan(snap, Policy(), 0).decisions


def test_what_a_missing_node_holds_counts_again_when_it_comes_back() -> None:
    snap = snapshot(CPU, queue(), node("n1", cpu=8), on("job-a", "n1", cpu=3))
    gone = snap.evolve([NodeChanged(node("n1").id, None)])
    assert gone.fleet(CPU.name).offered.cpu_milli == 0
    back = gone.evolve([NodeChanged(node("n1").id, node("n1", cpu=4))])
    assert back.fleet(CPU.name).offered.cpu_milli == 1000


def test_a_node_that_moves_to_another_pool_leaves_the_first() -> None:
    snap = snapshot(CPU, GPU, node("n1", cpu=8))
    moved = snap.evolve([NodeChanged(node("n1").id, node("n1", cpu=8, pool="gpu"))])
    assert moved.fleet(CPU.name).count(*NodeState) == 0
    assert moved.fleet(GPU.name).count(NodeState.READY) == 1
    assert snap.fleet(CPU.name).count(NodeState.READY) == 1


def test_only_ready_nodes_count_as_free() -> None:
    snap = snapshot(CPU, node("n1", cpu=8), node("n2", cpu=8, state=NodeState.DRAINING))
    assert snap.fleet(CPU.name).offered.cpu_milli == 8000
    assert snap.fleet(CPU.name).capacity().cpu_milli == 8000
    assert snap.fleet(CPU.name).count(NodeState.DRAINING) == 1


def test_devices_are_counted_by_index() -> None:
    held = allocation(["n1"], pool=GPU, cpu=1, gpu=0.5, devices=[[(1, 500)]])
    snap = snapshot(GPU, queue(), node("n1", pool="gpu", gpus=2), running(job("job-a", gpu=0.5), held))
    assert left(snap, GPU, "n1")[1] == (1000, 500)


def test_a_device_that_the_node_no_longer_reports_gives_nothing() -> None:
    held = allocation(["n1"], pool=GPU, cpu=1, gpu=1, devices=[[(1, 1000)]])
    snap = snapshot(GPU, queue(), node("n1", pool="gpu", gpus=1), running(job("job-a", gpu=1), held))
    assert left(snap, GPU, "n1")[1] == (1000,)
    assert snap.fleet(GPU.name).offered.gpu_milli == 0
    assert not plan(snap.evolve([JobChanged(job("job-b").id, job("job-b", gpu=1))]), Policy(), 0).decisions


def test_usage_sums_up_the_tree() -> None:
    snap = snapshot(
        CPU, queue("city"), queue("mobility", parent="city"), queue("bikes", parent="mobility"), node("n1"),
        on("job-a", "n1", cpu=2, queue="bikes"), on("job-b", "n1", cpu=1, queue="mobility"),
    )  # fmt: skip
    assert dict(snap.used.items()) == {("bikes", "cpu"): 2000, ("mobility", "cpu"): 1000}
    assert dict(snap.tree_used.items()) == {
        ("bikes", "cpu"): 2000, ("mobility", "cpu"): 3000, ("city", "cpu"): 3000, (ROOT, "cpu"): 3000,
    }  # fmt: skip


def test_usage_follows_a_queue_to_its_new_parent() -> None:
    snap = snapshot(
        CPU, queue("city"), queue("port"), queue("bikes", parent="city"), on("job-a", "n1", cpu=2, queue="bikes")
    )
    moved = snap.evolve([QueueChanged(queue("bikes").name, queue("bikes", parent="port"))])
    assert dict(moved.tree_used.items()) == {("bikes", "cpu"): 2000, ("port", "cpu"): 2000, (ROOT, "cpu"): 2000}
    assert dict(snap.tree_used.items()) == {("bikes", "cpu"): 2000, ("city", "cpu"): 2000, (ROOT, "cpu"): 2000}


def test_a_circle_of_parents_ends_where_it_began() -> None:
    snap = snapshot(queue("a", parent="b"), queue("b", parent="a"))
    assert [level.name for level in snap.chain(queue("a").name)] == ["a", "b"]


def test_gangs_count_every_replica_on_its_node() -> None:
    held = allocation(["n1", "n1", "n2"], pool=CPU, cpu=2)
    snap = snapshot(CPU, queue(), node("n1"), node("n2"), running(job("job-a", cpu=2, replicas=3), held))
    assert (left(snap, CPU, "n1")[0], left(snap, CPU, "n2")[0]) == (4000, 6000)


def test_changes_apply_in_their_order() -> None:
    snap = snapshot(CPU, queue()).evolve(
        [
            JobChanged(job("job-a").id, job("job-a")),
            JobChanged(job("job-a").id, None),
            PoolChanged(CPU.name, None),
            PoolChanged(CPU.name, CPU),
            RunnerChanged(runner("r").id, runner("r")),
        ]
    )
    assert snap.rows() == snapshot(CPU, queue(), runner("r")).rows()


def test_a_changed_priority_moves_a_job_in_its_queue() -> None:
    first, second = job("job-a"), job("job-b", submitted_at=1)
    snap = snapshot(CPU, queue(), first, second)
    urgent = replace(second, spec=replace(second.spec, priority=type(second.spec.priority).HIGH))
    assert waiting(snap.evolve([JobChanged(second.id, urgent)])) == ["job-b", "job-a"]


def test_a_job_that_only_reports_progress_costs_no_index() -> None:
    held = on("job-a", "n1")
    snap = snapshot(CPU, queue(), node("n1"), held)
    later = snap.evolve([JobChanged(held.id, replace(held, seq=9))])
    assert later.fleets is snap.fleets
    assert later.used is snap.used
    assert later.jobs[held.id].seq == 9


def test_replicas_that_name_the_same_device_add_up() -> None:
    vector = resources(cpu=1, gpu=0.4)
    base = allocation(["n1", "n1"], pool=GPU, cpu=1, gpu=0.4, devices=[[(0, 400)], [(0, 400)]])
    assert base.placements[1] == Placement(1, node("n1").id, vector, (DeviceShare(0, 400),))
    snap = snapshot(GPU, queue(), node("n1", pool="gpu", gpus=1), running(job("job-a", gpu=0.4, replicas=2), base))
    assert left(snap, GPU, "n1")[1] == (200,)
