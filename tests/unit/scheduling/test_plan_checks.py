"""The books that plans are checked against find each kind of fault when one is planted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from factory.domain.ids import AttemptId, JobId, RunnerId
from factory.domain.jobs import Allocation, AttemptState, DeviceShare, Job, JobState, PriorityClass, Topology
from factory.domain.pools import NodeState
from factory.scheduling.planning import Admit, Plan, Policy, Preempt, plan
from factory.scheduling.snapshot import JobChanged, Snapshot
from factory.testing.builders import allocation, job, node, pool, queue, rows, runner, running
from factory.testing.plan_checks import Books

CPU = pool("cpu", cpu=1, memory_gib=4)
GPU = pool("gpu", cpu=4, memory_gib=16, gpu=1)
CITY = (
    queue("city"),
    queue("a", parent="city", quota={"cpu": 2, "gpu": 2}, borrowing=None),
    queue("b", parent="city", quota={"cpu": 2, "gpu": 2}, borrowing=None),
)
NODES = (node("n1", cpu=4), node("n2", cpu=4, zone="east"), node("g1", pool="gpu", cpu=16, memory_gib=64, gpus=2))


def books(*jobs: Job) -> Books:
    return Books(rows(CPU, GPU, *NODES, *CITY, runner(), *jobs))


def faults(held: Books, *decisions: Admit | Preempt, now: int = 0) -> list[str]:
    return [fault.rule for fault in held.faults(Plan(tuple(decisions), ()), now)]


def admit(id: str, held: Allocation, to: str = "runner-1") -> Admit:
    return Admit(JobId(id), held, RunnerId(to))


def on(*nodes: str, **what: float) -> Allocation:
    return allocation(nodes, pool=CPU, **what)  # pyright: ignore[reportArgumentType]


def preempt(id: str, winner: str) -> Preempt:
    return Preempt(JobId(id), AttemptId(f"{id}.1"), JobId(winner))


def test_a_good_plan_has_no_faults() -> None:
    held = books(job("j", queue="a", cpu=2))
    assert faults(held, admit("j", on("n1", cpu=2))) == []


def test_the_plan_of_the_kernel_has_no_faults() -> None:
    held = books(*(job(f"j{i}", queue="ab"[i % 2], cpu=1 + i % 3, replicas=1 + i % 2) for i in range(8)))
    roomy = [replace(row, quotas=tuple(replace(q, nominal_milli=4000) for q in row.quotas)) for row in CITY]
    held = Books(replace(held.rows(), queues=tuple(roomy)))
    made = plan(Snapshot.build(held.rows()), Policy(), 0)
    assert made.decisions
    assert held.faults(made, 0) == []


def test_a_node_that_is_given_twice_is_found() -> None:
    held = books(job("j", queue="a", cpu=3), running(job("k", queue="b", cpu=2), on("n1", cpu=2)))
    assert "capacity" in faults(held, admit("j", on("n1", cpu=3)))


def test_two_admissions_that_fit_only_one_by_one_are_found() -> None:
    held = books(job("j", queue="a", cpu=3), job("k", queue="b", cpu=3))
    assert "capacity" in faults(held, admit("j", on("n1", cpu=3)), admit("k", on("n1", cpu=3)))


def test_a_device_that_is_given_twice_is_found() -> None:
    half = allocation(["g1"], pool=GPU, gpu=0.6, cpu=1, devices=[[(0, 600)]])
    held = books(*(job(id, queue="a", gpu=0.6, cpu=1) for id in ("j", "k")))
    assert faults(held, admit("j", half)) == []
    assert "device" in faults(held, admit("j", half), admit("k", half))


def test_a_fraction_that_is_spread_over_devices_is_found() -> None:
    spread = allocation(["g1"], pool=GPU, gpu=0.6, cpu=1, devices=[[(0, 300), (1, 300)]])
    assert "device" in faults(books(job("j", queue="a", gpu=0.6, cpu=1)), admit("j", spread))


def test_a_gang_with_a_member_missing_is_found() -> None:
    assert "gang" in faults(books(job("j", queue="a", replicas=3)), admit("j", on("n1", "n1")))


def test_a_gang_may_be_as_small_as_it_said() -> None:
    asked = job("j", queue="a", replicas=3)
    held = books(replace(asked, spec=replace(asked.spec, min_replicas=2)))
    assert faults(held, admit("j", on("n1", "n1"))) == []


@pytest.mark.parametrize(
    ("topology", "nodes"),
    [(Topology.ONE_NODE, ("n1", "n2")), (Topology.SPREAD, ("n1", "n1")), (Topology.SAME_ZONE, ("n1", "n2"))],
)
def test_a_gang_that_lies_otherwise_than_asked_is_found(topology: Topology, nodes: tuple[str, ...]) -> None:
    asked = job("j", queue="a", replicas=2)
    held = books(replace(asked, spec=replace(asked.spec, topology=topology)))
    assert "gang" in faults(held, admit("j", on(*nodes)))


def test_a_queue_that_borrows_more_than_it_may_is_found() -> None:
    limited = queue("c", parent="city", quota={"cpu": 1}, borrowing=1)
    held = Books(rows(CPU, *NODES, *CITY, limited, runner(), job("j", queue="c", cpu=2), job("k", queue="c", cpu=3)))
    assert faults(held, admit("j", on("n1", cpu=2))) == []
    assert "quota" in faults(held, admit("k", on("n1", cpu=3)))


def test_what_another_queue_does_not_lend_is_found_when_it_is_taken() -> None:
    keeps = queue("c", quota={"cpu": 2}, lending=0)
    gang = job("j", queue="a", cpu=3, replicas=2)
    held = Books(rows(CPU, *NODES[:2], *CITY, keeps, runner(), gang, job("k", queue="c")))
    assert faults(held, admit("j", on("n1", "n2", cpu=3))) == []  # the pool has 8, two of them are kept
    held.apply([JobChanged(JobId("l"), running(job("l", queue="b"), on("n1")))])
    assert "quota" in faults(held, admit("j", on("n1", "n2", cpu=3)))
    assert "quota" not in faults(held, admit("k", on("n1")))


def test_slots_that_are_counted_wrong_are_found() -> None:
    held = books(job("j", queue="a", cpu=2))
    assert "quota" in faults(held, admit("j", replace(on("n1", cpu=2), slots_milli=1000)))


def test_a_node_that_takes_no_work_is_found() -> None:
    held = Books(rows(CPU, node("n1", cpu=4, state=NodeState.DRAINING), *CITY, runner(), job("j", queue="a")))
    assert "place" in faults(held, admit("j", on("n1")))


def test_a_flavor_that_was_not_asked_for_is_found() -> None:
    asked = job("j", queue="a")
    held = books(replace(asked, spec=replace(asked.spec, flavors=("gpu",))))
    assert "place" in faults(held, admit("j", on("n1")))


def test_a_runner_of_another_pool_is_found() -> None:
    assert "place" in faults(books(job("j", queue="a")), admit("j", on("n1"), to="runner-2"))


def test_a_job_before_its_time_is_found() -> None:
    held = books(job("j", queue="a", not_before=10))
    assert "turn" in faults(held, admit("j", on("n1")), now=9)
    assert faults(held, admit("j", on("n1")), now=10) == []


def test_two_decisions_about_one_job_are_found() -> None:
    assert "turn" in faults(books(job("j", queue="a")), admit("j", on("n1")), admit("j", on("n2")))


def test_a_job_that_runs_already_is_found() -> None:
    assert "turn" in faults(books(running(job("j", queue="a"), on("n1"))), admit("j", on("n1")))


def test_a_preemption_that_does_not_admit_is_found() -> None:
    victim = running(job("v", queue="b", cpu=3), on("n1", cpu=3))
    held = books(victim, job("big", queue="a", cpu=9, pool="cpu"))
    assert "preemption" in faults(held, preempt("v", "big"))


def test_a_preemption_that_admits_is_none() -> None:
    busy = [running(job(f"v{i}", queue="b", cpu=4), on(f"n{i}", cpu=4)) for i in (1, 2)]
    held = books(*busy, job("comes", queue="a", cpu=2))
    assert faults(held, preempt("v1", "comes")) == []


def test_a_victim_within_its_quota_is_found() -> None:
    victims = [running(job(f"v{i}", queue="b"), on("n1")) for i in range(2)]
    held = books(*victims, running(job("w", queue="a", cpu=2), on("n1", cpu=2)), job("comes", queue="a", cpu=2))
    assert "legality" in faults(held, preempt("v0", "comes"))


def test_the_last_of_several_victims_must_have_borrowed_too() -> None:
    victims = [running(job(f"v{i}", queue="b"), on("n1")) for i in range(3)]  # one of three is borrowed
    held = books(*victims, job("comes", queue="a", cpu=2))
    assert "legality" not in faults(held, preempt("v0", "comes"))
    assert "legality" in faults(held, preempt("v0", "comes"), preempt("v1", "comes"))


def test_a_victim_that_is_stopped_already_is_found() -> None:
    victim = running(job("v", queue="b", priority=PriorityClass.LOW), on("n1"), state=AttemptState.STOPPING)
    held = books(victim, job("comes", queue="a"))
    assert faults(held, Preempt(JobId("v"), AttemptId("v.9"), JobId("comes"))) == ["preemption"]


def test_books_follow_the_changes() -> None:
    held = books(running(job("k", queue="b", cpu=4), on("n1", cpu=4)), job("j", queue="a", cpu=2))
    assert "capacity" in faults(held, admit("j", on("n1", cpu=2)))
    row = held.jobs[JobId("k")]
    ended = replace(row, state=JobState.FAILED, attempts=(replace(row.attempts[0], state=AttemptState.ENDED),))
    held.apply([JobChanged(ended.id, ended)])
    assert faults(held, admit("j", on("n1", cpu=2))) == []


def test_whole_gpus_in_parts_are_found() -> None:
    parts = Allocation(GPU.name, 1000, allocation(["g1"], pool=GPU, gpu=1, cpu=1).placements)
    parts = replace(
        parts, placements=(replace(parts.placements[0], devices=(DeviceShare(0, 500), DeviceShare(1, 500))),)
    )
    assert "device" in faults(books(job("j", queue="a", gpu=1, cpu=1)), admit("j", parts))
