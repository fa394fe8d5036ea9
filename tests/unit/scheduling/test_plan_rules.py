"""The plan's own rules, P5 to P8, and how a line is walked."""

from __future__ import annotations

from dataclasses import replace

import pytest

from factory.domain.ids import JobId
from factory.domain.jobs import Job, JobState, PriorityClass, Topology, WaitReason
from factory.domain.pools import Node, NodeState, Pool
from factory.domain.tenancy import Queue
from factory.domain.time import SECOND
from factory.scheduling.planning import Admit, Plan, Planning, Policy, Preempt, plan
from factory.testing.builders import allocation, job, node, pool, queue, running, snapshot

CPU = pool("cpu", cpu=1, memory_gib=4)
SSD = pool("ssd", cpu=1, memory_gib=4)
GPU = pool("gpu", cpu=4, memory_gib=16, gpu=1)
NOW = 10_000_000
MINUTE = 60 * SECOND


def planned(*things: Pool | Node | Queue | Job, policy: Policy | None = None, now: int = NOW) -> Plan:
    return plan(snapshot(CPU, *things), policy or Policy(), now)


def started(made: Plan) -> list[str]:
    return [decision.job_id for decision in made.decisions if isinstance(decision, Admit)]


def places(made: Plan) -> dict[str, tuple[str, list[str]]]:
    """Pool and nodes of every job that starts."""
    return {
        decision.job_id: (decision.allocation.pool, sorted(p.node for p in decision.allocation.placements))
        for decision in made.decisions
        if isinstance(decision, Admit)
    }


def asked(id: str, cpu: float = 1, replicas: int = 1, *, at: int = 0, of: str = "mobility", **changed: object) -> Job:
    row = job(id, cpu=cpu, replicas=replicas, submitted_at=at, queue=of)
    return replace(row, spec=replace(row.spec, **changed))  # pyright: ignore[reportArgumentType]


def busy(id: str, cpu: float = 1, on: str = "n1", *, of: str = "mobility", pool: Pool = CPU, **changed: object) -> Job:
    row = running(asked(id, cpu, of=of, **changed), allocation([on], pool=pool, cpu=cpu))
    return replace(row, attempts=(replace(row.attempts[0], admitted_at=NOW, running_at=NOW),))


# -- P6: whole or partly -----------------------------------------------------------------------------------------------


def test_a_gang_that_may_shrink_starts_with_what_fits() -> None:
    made = planned(queue(), node("n1", cpu=3), asked("a", replicas=5, min_replicas=2))
    (decision,) = made.decisions
    assert isinstance(decision, Admit)
    assert [p.rank for p in decision.allocation.placements] == [0, 1, 2]
    assert decision.allocation.slots_milli == 3000


@pytest.mark.parametrize(("least", "starts"), [(3, ["a"]), (4, []), (None, [])])
def test_never_with_fewer_than_it_may(least: int | None, starts: list[str]) -> None:
    made = planned(
        queue(),
        node("n1", cpu=3),
        node("n2", cpu=9, state=NodeState.DRAINING),
        asked("a", replicas=5, min_replicas=least),
    )
    assert started(made) == starts


def test_a_gang_shrinks_to_its_quota_too() -> None:
    made = planned(
        queue("mobility", quota={"cpu": 4}), node("n1", cpu=9), busy("r", 1), asked("a", replicas=5, min_replicas=1)
    )
    assert places(made) == {"a": ("cpu", ["n1"] * 3)}


def test_whole_in_a_worse_pool_comes_before_fewer_in_the_best() -> None:
    made = planned(
        SSD, queue(), node("n1", cpu=3), node("s1", pool="ssd", cpu=5), asked("a", replicas=5, min_replicas=1)
    )
    assert places(made) == {"a": ("ssd", ["s1"] * 5)}
    made = planned(
        SSD, queue(), node("n1", cpu=3), node("s1", pool="ssd", cpu=4), asked("a", replicas=5, min_replicas=1)
    )
    assert places(made) == {"a": ("cpu", ["n1"] * 3)}


def test_fewer_comes_before_preempting() -> None:
    things = (
        queue("a", quota={"cpu": 4}),
        queue("b", quota={"cpu": 0}, borrowing=None),
        node("n1", cpu=4),
        replace(
            busy("r", 2, of="b"), attempts=(replace(busy("r", 2, of="b").attempts[0], admitted_at=0, running_at=0),)
        ),
    )
    whole = planned(*things, asked("x", replicas=4, of="a"))
    assert [type(decision) for decision in whole.decisions] == [Preempt]
    partly = planned(*things, asked("x", replicas=4, of="a", min_replicas=1))
    assert places(partly) == {"x": ("cpu", ["n1", "n1"])}


def test_a_gang_that_shrinks_can_be_as_large_as_a_node() -> None:
    nodes = (node("n1", cpu=2), node("n2", cpu=3))
    made = planned(queue(), *nodes, asked("a", replicas=9, min_replicas=1, topology=Topology.ONE_NODE))
    assert places(made) == {"a": ("cpu", ["n2"] * 3)}
    made = planned(queue(), *nodes, asked("a", replicas=9, min_replicas=1, topology=Topology.SPREAD))
    assert places(made) == {"a": ("cpu", ["n1", "n2"])}


# -- topology, models, flavors -----------------------------------------------------------------------------------------


def test_a_gang_of_one_node_goes_on_one_node() -> None:
    nodes = (node("n1", cpu=3), node("n2", cpu=4))
    assert places(planned(queue(), *nodes, asked("a", replicas=4, topology=Topology.ONE_NODE))) == {
        "a": ("cpu", ["n2"] * 4)
    }
    assert started(planned(queue(), *nodes, asked("a", replicas=5, topology=Topology.ONE_NODE))) == []


def test_a_gang_of_one_zone_stays_in_it() -> None:
    nodes = (node("n1", cpu=2, zone="east"), node("n2", cpu=2, zone="west"), node("n3", cpu=2, zone="west"))
    assert places(planned(queue(), *nodes, asked("a", replicas=3, topology=Topology.SAME_ZONE)))["a"][1] in (
        ["n2", "n2", "n3"], ["n2", "n3", "n3"]
    )  # fmt: skip
    assert started(planned(queue(), *nodes, asked("a", replicas=5, topology=Topology.SAME_ZONE))) == []


def test_a_spread_gang_has_a_node_for_each() -> None:
    nodes = (node("n1", cpu=9), node("n2", cpu=1))
    assert places(planned(queue(), *nodes, asked("a", replicas=2, topology=Topology.SPREAD))) == {
        "a": ("cpu", ["n1", "n2"])
    }
    assert started(planned(queue(), *nodes, asked("a", replicas=3, topology=Topology.SPREAD))) == []


def test_gpus_are_of_the_models_that_will_do() -> None:
    nodes = (
        node("g1", pool="gpu", gpus=1, gpu_model="a100"), node("g2", pool="gpu", gpus=1, gpu_model="h100"),
        node("g3", pool="gpu", gpus=1, gpu_model="t4"),
    )  # fmt: skip

    def wants(id: str, *models: str) -> Job:
        row = job(id, gpu=1)
        return replace(row, spec=replace(row.spec, gpu_models=models))

    made = planned(GPU, queue(), *nodes, wants("a", "h100"), wants("b", "t4", "a100"), wants("c", "v100"))
    assert places(made)["a"] == ("gpu", ["g2"])
    assert places(made)["b"][1][0] in ("g1", "g3")
    assert dict(made.waiting)[JobId("c")] is WaitReason.GANG_DOES_NOT_FIT


def test_flavors_are_tried_in_the_order_that_the_job_lists() -> None:
    nodes = (node("n1", cpu=1), node("s1", pool="ssd", cpu=1))
    jobs = [asked(f"j{i}", at=i, flavors=("ssd", "cpu")) for i in range(3)]
    assert places(planned(SSD, queue(), *nodes, *jobs)) == {"j0": ("ssd", ["s1"]), "j1": ("cpu", ["n1"])}
    only = [asked(f"j{i}", at=i, flavors=("ssd",)) for i in range(2)]
    assert places(planned(SSD, queue(), *nodes, *only)) == {"j0": ("ssd", ["s1"])}


# -- P5: quota that is held --------------------------------------------------------------------------------------------


def test_the_quota_is_held_in_its_pool_only() -> None:
    limited = queue("mobility", quota={"cpu": 2, "ssd": 9})
    made = planned(
        SSD,
        limited,
        node("n1", cpu=9),
        node("s1", pool="ssd", cpu=9),
        busy("r", 1),
        asked("first", 2, flavors=("cpu",)),
        asked("second", 1, at=1),
    )
    assert places(made) == {"second": ("ssd", ["s1"])}


def test_the_quota_is_held_for_the_first_who_needs_it() -> None:
    limited = queue("mobility", quota={"cpu": 4})
    planning = Planning(
        snapshot(
            CPU, limited, node("n1", cpu=9), busy("r", 2), asked("a", 3), asked("b", 4, at=1), asked("c", 1, at=2)
        ),
        Policy(),
        NOW,
    )
    planning.run()
    assert planning.lines[queue().name, "fair"].held_by(CPU.name) == "a"
    assert planning.lines[queue().name, "fair"].held_by(GPU.name) is None
    assert planning.decisions == []


def test_other_queues_are_not_held_up_by_a_quota_that_is_not_theirs() -> None:
    made = planned(
        queue("mobility", quota={"cpu": 2}), queue("water"), node("n1", cpu=9), busy("r", 1), asked("first", 2),
        asked("other", 3, of="water", at=5),
    )  # fmt: skip
    assert started(made) == ["other"]


def test_what_can_never_have_its_quota_holds_none() -> None:
    made = planned(queue("mobility", quota={"cpu": 2}), node("n1", cpu=9), asked("never", 3), asked("b", 2, at=1))
    assert started(made) == ["b"]


# -- P7: whom victims are looked for -----------------------------------------------------------------------------------


def grown(row: Job) -> Job:
    return replace(row, attempts=(replace(row.attempts[0], admitted_at=0, running_at=0),))


LENT = (queue("a", quota={"cpu": 4}), queue("b", quota={"cpu": 0}, borrowing=None))


def test_victims_are_looked_for_only_for_the_first_who_may_hope() -> None:
    things = (*LENT, node("n1", cpu=4), node("n2", cpu=1), grown(busy("r", 4, of="b")))
    # five CPUs on one node are nowhere: hopeless, so the next one is the first that may hope
    made = planned(
        *things, asked("never", 5, of="a"), asked("first", 3, of="a", at=1), asked("second", 4, of="a", at=2)
    )
    assert [(d.job_id, d.for_job) for d in made.decisions if isinstance(d, Preempt)] == [("r", "first")]


def test_behind_the_first_others_are_filled_in_but_preempt_nobody() -> None:
    things = (
        queue("a", quota={"cpu": 9}),
        queue("b", quota={"cpu": 4}, borrowing=None),
        node("n1", cpu=4),
        node("n2", cpu=2),
        grown(busy("r", 4, of="b")),
        busy("s", 1, "n2", of="a"),
    )
    made = planned(
        *things, asked("first", 4, of="a"), asked("second", 2, of="a", at=1), asked("third", 1, of="a", at=2)
    )
    assert [type(decision) for decision in made.decisions] == [Admit]
    assert started(made) == ["third"]


def test_a_preemptor_is_told_as_such_and_counts_for_its_quota() -> None:
    planning = Planning(
        snapshot(
            CPU,
            *LENT,
            node("n1", cpu=4),
            grown(busy("r", 4, of="b")),
            asked("x", 3, of="a"),
            asked("y", 2, of="a", at=1),
        ),
        Policy(),
        NOW,
    )
    planning.run()
    assert dict(planning.result().waiting)[JobId("x")] is WaitReason.WAITING_FOR_PREEMPTION
    stock = planning.cycle.stock(CPU.name)
    assert stock.used(LENT[0].name) == 3000
    assert [(r.job_id, r.starts_at) for r in stock.reservations if r.is_claim] == [("x", None)]


# -- P8 and the walk ---------------------------------------------------------------------------------------------------


def test_a_job_that_backs_off_holds_nobody_up_and_gets_no_room() -> None:
    planning = Planning(
        snapshot(
            CPU,
            queue(),
            node("n1", cpu=2),
            busy("r", 1),
            replace(asked("a", 2), not_before=NOW + 1),
            asked("b", 1, at=1),
        ),
        Policy(),
        NOW,
    )
    planning.run()
    assert [decision.job_id for decision in planning.decisions] == ["b"]
    assert planning.cycle.stock(CPU.name).reservations == []


@pytest.mark.parametrize(("depth", "starts"), [(0, []), (2, []), (3, ["fits"]), (50, ["fits"])])
def test_so_many_of_a_queue_may_be_passed_over(depth: int, starts: list[str]) -> None:
    """More than the quota ever gives: hopeless, and each is tried, as each is another gang."""
    gangs = [asked(f"g{i}", 9 + i, at=i) for i in range(3)]
    limited = queue("mobility", quota={"cpu": 8})
    made = planned(limited, node("n1", cpu=30), *gangs, asked("fits", 1, at=9), policy=Policy(depth=depth))
    assert started(made) == starts


def test_the_head_is_tried_though_others_like_it_were_not_admitted() -> None:
    """Two queues with heads of one lane: what refused the first is its own quota, not the lane."""
    made = planned(
        queue("a", quota={"cpu": 1}), queue("b"), node("n1", cpu=9), busy("r", 1, of="a"), asked("a1", of="a"),
        asked("b1", of="b", at=1),
    )  # fmt: skip
    assert started(made) == ["b1"]


def test_jobs_of_one_lane_are_tried_once_and_start_in_their_order() -> None:
    made = planned(queue(), node("n1", cpu=3), *(asked(f"j{i}", at=5 - i) for i in range(5)))
    assert started(made) == ["j4", "j3", "j2"]
    assert dict(made.waiting).keys() == {"j1"}


def test_lanes_are_walked_in_the_order_of_their_heads() -> None:
    made = planned(
        queue(),
        node("n1", cpu=9),
        node("n2", cpu=4),
        busy("r", 9),
        asked("big", 9),
        asked("a", 1, at=1),
        asked("b", 2, at=2),
        asked("c", 1, at=3),
        asked("d", 2, at=4),
        asked("e", 1, at=5),
    )
    assert started(made) == ["a", "b", "c"]


def test_a_high_class_goes_first_within_its_queue() -> None:
    made = planned(
        queue(), node("n1", cpu=2), asked("a", priority=PriorityClass.LOW), asked("b"),
        asked("c", priority=PriorityClass.HIGH), asked("d", priority=PriorityClass.HIGH, at=1),
    )  # fmt: skip
    assert started(made) == ["c", "d"]


def test_turns_are_taken_by_the_next_job_of_each_queue() -> None:
    """Ten small jobs of one queue and two large ones of another: a turn is whose share is less with it."""
    small = [asked(f"s{i}", of="a", at=i) for i in range(10)]
    large = [asked(f"l{i}", 4, of="b", at=i) for i in range(2)]
    made = planned(queue("a"), queue("b"), node("n1", cpu=12), *small, *large)
    assert started(made) == ["s0", "s1", "s2", "l0", "s3", "s4", "s5", "s6"]  # then it is the turn of l1: room is kept


def test_a_decision_names_the_runner_of_its_pool() -> None:
    other = pool("ssd", cpu=1, memory_gib=4, runner="runner-2")
    made = planned(other, queue(), node("s1", pool="ssd"), asked("a", pool="ssd"))
    assert [d.runner for d in made.decisions if isinstance(d, Admit)] == ["runner-2"]


def test_only_jobs_that_are_queued_are_decided_on() -> None:
    row = asked("a")
    for state in JobState:
        assert started(planned(queue(), node("n1"), replace(row, state=state))) == (
            ["a"] if state is JobState.QUEUED else []
        )


# -- when to plan again ------------------------------------------------------------------------------------------------


def test_the_next_plan_is_due_when_a_key_changes() -> None:
    las = replace(CPU, policy="least-attained-service")
    rows = (las, queue(), node("n1", cpu=4), busy("a", 1), busy("b", 2))
    assert plan(snapshot(*rows), Policy(), NOW).wake_at == NOW + 5 * MINUTE
    assert plan(snapshot(*rows), Policy(), NOW + 6 * MINUTE).wake_at == NOW + 10 * MINUTE
    fair = (replace(las, policy="fair"), *rows[1:])
    assert plan(snapshot(*fair), Policy(), NOW).wake_at is None


def test_where_nobody_runs_time_alone_changes_nothing() -> None:
    assert planned(queue(), node("n1"), asked("a", 99)).wake_at is None


def test_running_jobs_of_other_pools_do_not_wake_a_timed_one() -> None:
    las = replace(SSD, policy="shortest")
    assert planned(las, queue(), node("n1", cpu=4), node("s1", pool="ssd"), busy("a", 1)).wake_at is None


def test_a_plan_says_of_each_pool_what_holds_most() -> None:
    """Refused in several pools, a job is told the first of the reasons in their order of precedence."""
    made = planned(
        SSD, queue("mobility", quota={"cpu": 1}), node("n1", cpu=4), node("s1", pool="ssd", cpu=4), busy("r", 1),
        busy("s", 4, "s1", pool=SSD), asked("a", 1),
    )  # fmt: skip
    assert dict(made.waiting) == {JobId("a"): WaitReason.WAITING_FOR_QUOTA}


def test_a_plan_in_the_making_tells_whom_it_admitted() -> None:
    planning = Planning(
        snapshot(CPU, queue(), node("n1", cpu=2), *(asked(f"j{i}", at=i) for i in range(3))), Policy(), NOW
    )
    planning.run()
    for id in ("j0", "j1"):
        decision = planning.admitted(JobId(id))
        assert decision is not None
        assert decision.job_id == id
    assert planning.admitted(JobId("j2")) is None
    assert planning.result().decisions == tuple(planning.decisions)


def test_what_a_spared_victim_holds_counts_again_for_the_quota() -> None:
    """The city may hold four: with two ones gone there is room for two; the third need not go, and then may not."""
    city = queue("city", quota={"cpu": 4})
    lines = (queue("a", parent="city"), queue("b", parent="city"))
    lines = tuple(replace(row, quotas=queue(row.name, quota={"cpu": 0}, borrowing=None).quotas) for row in lines)
    old = [grown(busy(f"r{i}", 1, of="b")) for i in range(4)]
    made = planned(city, *lines, node("n1", cpu=9), *old, asked("x", 1, of="a", at=NOW))
    gone = [decision.job_id for decision in made.decisions if isinstance(decision, Preempt)]
    assert len(gone) == 1
    assert planned(city, *lines, node("n1", cpu=9), *old, asked("x", 2, of="a", at=NOW)).decisions == ()
