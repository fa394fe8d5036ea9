"""Who starts, rule by rule."""

from __future__ import annotations

from dataclasses import replace

from factory.domain.jobs import AttemptState, Job, JobState, PriorityClass, WaitReason
from factory.domain.pools import Node, NodeState, Pool
from factory.domain.tenancy import Queue
from factory.scheduling.planning import Admit, Plan, Policy, plan
from factory.testing.builders import allocation, job, node, pool, queue, running, snapshot

CPU = pool("cpu")
GPU = pool("gpu", cpu=4, memory_gib=16, gpu=1)


def planned(*things: Pool | Node | Queue | Job, now: int = 0, policy: Policy | None = None) -> Plan:
    return plan(snapshot(*things), policy or Policy(), now)


def started(made: Plan) -> list[str]:
    return [decision.job_id for decision in made.decisions]


def reasons(made: Plan) -> dict[str, WaitReason]:
    return dict(made.waiting)


def busy(
    id: str, cpu: float, *, queue: str = "mobility", on: str = "n1", state: AttemptState = AttemptState.RUNNING
) -> Job:
    return running(job(id, cpu=cpu, queue=queue), allocation([on], pool=CPU, cpu=cpu), state=state)


# one queue


def test_an_empty_factory_plans_nothing() -> None:
    assert planned() == Plan((), ())


def test_a_job_that_fits_is_admitted_with_its_slots_and_the_runner_of_the_pool() -> None:
    made = planned(pool("cpu", runner="r-7"), queue(), node("n1"), job("job-a", cpu=2))
    (decision,) = made.decisions
    assert isinstance(decision, Admit)
    assert decision.runner == "r-7"
    assert decision.allocation.slots_milli == 2000
    assert [p.node for p in decision.allocation.placements] == ["n1"]
    assert not made.waiting


def test_jobs_start_by_priority_then_time_then_id() -> None:
    jobs = [
        job("job-d", submitted_at=2),
        job("job-c", submitted_at=1),
        job("job-b", submitted_at=1),
        job("job-low", priority=PriorityClass.LOW),
        job("job-high", priority=PriorityClass.HIGH, submitted_at=9),
    ]
    made = planned(CPU, queue(), node("n1"), *jobs)
    assert started(made) == ["job-high", "job-b", "job-c", "job-d", "job-low"]


def test_a_job_that_is_queued_again_keeps_its_place() -> None:
    again = job("job-z", submitted_at=1, seq=9)
    assert started(planned(CPU, queue(), node("n1", cpu=1), job("job-a", submitted_at=5), again)) == ["job-z"]


def test_a_gang_waits_until_every_member_fits() -> None:
    gang = job("job-gang", replicas=3)
    made = planned(CPU, queue(), node("n1", cpu=2), node("n2", cpu=2), busy("job-r", 2), gang)
    assert not made.decisions
    assert reasons(made) == {"job-gang": WaitReason.GANG_DOES_NOT_FIT}
    assert started(planned(CPU, queue(), node("n1", cpu=2), node("n2", cpu=2), busy("job-r", 1), gang)) == ["job-gang"]


def test_smaller_jobs_behind_a_blocked_gang_do_not_starve_it() -> None:
    made = planned(
        CPU, queue(), node("n1", cpu=4), busy("job-r", 2), job("job-gang", replicas=4), job("job-small", submitted_at=1)
    )
    assert not made.decisions
    assert reasons(made) == {"job-gang": WaitReason.GANG_DOES_NOT_FIT}


def test_a_blocked_gang_holds_back_only_the_pools_that_it_waits_for() -> None:
    made = planned(
        CPU, GPU, queue(), node("n1", cpu=4), node("n2", pool="gpu", gpus=1), busy("job-r", 2),
        job("job-gang", replicas=4, pool="cpu"),
        job("job-small", pool="cpu", submitted_at=1),
        job("job-gpu", gpu=1, submitted_at=2),
        job("job-any", submitted_at=3),
    )  # fmt: skip
    assert started(made) == ["job-gpu", "job-any"]
    any_pool = made.decisions[1]
    assert isinstance(any_pool, Admit)
    assert any_pool.allocation.pool == "gpu"  # the pool that is not held


def test_a_gang_that_ready_nodes_cannot_hold_holds_nobody_back() -> None:
    made = planned(
        CPU, queue(), node("n1", cpu=4), node("n2", cpu=4, state=NodeState.LOST),
        job("job-gang", replicas=6), job("job-small", submitted_at=1),
    )  # fmt: skip
    assert started(made) == ["job-small"]
    assert reasons(made) == {"job-gang": WaitReason.GANG_DOES_NOT_FIT}


def test_of_many_hopeless_jobs_of_one_shape_only_the_first_is_tried() -> None:
    hopeless = [job(f"job-{i}", cpu=99) for i in range(5)]
    made = planned(CPU, queue(), node("n1"), *hopeless, job("job-x", submitted_at=1))
    assert reasons(made) == {"job-0": WaitReason.GANG_DOES_NOT_FIT}
    assert started(made) == ["job-x"]


def test_a_job_that_backs_off_is_passed_over_until_its_time() -> None:
    things = (CPU, queue(), node("n1", cpu=1), job("job-a", not_before=50), job("job-b", submitted_at=1))
    assert started(planned(*things, now=49)) == ["job-b"]
    assert started(planned(*things, now=50)) == ["job-a"]


def test_only_queued_jobs_are_candidates() -> None:
    others = [
        job(f"job-{state.value}", state=state)
        for state in JobState
        if state is not JobState.QUEUED
    ]  # fmt: skip
    assert planned(CPU, queue(), node("n1"), *others) == Plan((), ())


def test_a_plan_makes_at_most_so_many_decisions() -> None:
    made = planned(CPU, queue(), node("n1"), *(job(f"job-{i}") for i in range(5)), policy=Policy(max_decisions=2))
    assert started(made) == ["job-0", "job-1"]


# several queues


def test_queues_take_turns_by_used_slots_per_weight() -> None:
    jobs = [job(f"{name}-{i}", queue=name, submitted_at=i) for name in ("bikes", "water") for i in range(6)]
    made = planned(CPU, queue("bikes", weight=1), queue("water", weight=2), node("n1", cpu=6), *jobs)
    assert started(made) == ["water-0", "bikes-0", "water-1", "water-2", "bikes-1", "water-3"]


def test_what_a_queue_holds_already_counts_for_its_turn() -> None:
    made = planned(
        CPU, queue("bikes"), queue("water"), node("n1", cpu=4), busy("job-r", 2, queue="bikes"),
        *(job(f"{name}-{i}", queue=name) for name in ("bikes", "water") for i in range(3)),
    )  # fmt: skip
    assert started(made) == ["water-0", "water-1"]


def test_shares_are_compared_exactly() -> None:
    # 1000/3 against a hair less, which no float can tell apart: the name would decide
    hair_less = replace(allocation(["n2"], pool=CPU), slots_milli=10**20 - 1)
    made = planned(
        CPU, queue("a", weight=3), queue("b", weight=3 * 10**17), node("n1", cpu=2), busy("a-r", 1, queue="a"),
        running(job("b-r", queue="b"), hair_less), job("a-0", queue="a"), job("b-0", queue="b"),
    )  # fmt: skip
    assert started(made) == ["b-0"]


def test_a_queue_of_weight_zero_goes_after_all_others() -> None:
    jobs = [job(f"{name}-0", queue=name) for name in ("aside", "water")]
    made = planned(CPU, queue("aside", weight=0), queue("water"), node("n1", cpu=9), busy("r", 8, queue="water"), *jobs)
    assert started(made) == ["water-0"]


def test_a_blocked_head_does_not_hold_other_queues_back() -> None:
    made = planned(
        CPU, queue("bikes"), queue("water"), node("n1", cpu=4), node("n2", cpu=3), busy("job-r", 2, queue="water"),
        job("bikes-gang", queue="bikes", cpu=4), job("water-0", queue="water"),
    )  # fmt: skip
    assert started(made) == ["water-0"]
    assert reasons(made) == {"bikes-gang": WaitReason.GANG_DOES_NOT_FIT}


def test_jobs_of_a_queue_that_is_gone_do_not_start() -> None:
    made = planned(CPU, node("n1"), job("job-a"))
    assert not made.decisions


# quota


def test_a_queue_holds_no_more_than_nominal_and_borrowing() -> None:
    jobs = [job(f"job-{i}") for i in range(5)]
    made = planned(CPU, queue("mobility", quota={"cpu": 2}, borrowing=1), node("n1"), *jobs)
    assert started(made) == ["job-0", "job-1", "job-2"]
    assert reasons(made) == {"job-3": WaitReason.WAITING_FOR_QUOTA}


def test_a_queue_that_may_not_borrow_waits_for_quota() -> None:
    made = planned(CPU, queue("mobility", quota={"cpu": 1}), node("n1"), busy("job-r", 1), job("job-a"))
    assert reasons(made) == {"job-a": WaitReason.WAITING_FOR_QUOTA}


def test_a_quota_binds_only_in_its_pool() -> None:
    made = planned(CPU, GPU, queue("mobility", quota={"cpu": 0}), node("n2", pool="gpu", gpus=1), job("job-a", gpu=1))
    assert started(made) == ["job-a"]


def test_siblings_share_the_quota_of_their_parent() -> None:
    lines = [queue("city", quota={"cpu": 3}), queue("bikes", parent="city"), queue("water", parent="city")]
    jobs = [job(f"{name}-{i}", queue=name) for name in ("bikes", "water") for i in range(3)]
    made = planned(CPU, *lines, node("n1"), *jobs)
    assert started(made) == ["bikes-0", "water-0", "bikes-1"]
    assert set(reasons(made).values()) == {WaitReason.WAITING_FOR_QUOTA}


def test_a_quota_that_was_cut_admits_nothing_until_usage_is_below_it() -> None:
    made = planned(CPU, queue("mobility", quota={"cpu": 2}), node("n1"), busy("job-r", 5), job("job-a"))
    assert not made.decisions


def test_a_job_over_its_whole_quota_holds_nobody_back() -> None:
    made = planned(
        CPU, queue("mobility", quota={"cpu": 2}), node("n1"), job("job-a", cpu=3), job("job-b", submitted_at=1)
    )
    assert started(made) == ["job-b"]
    assert reasons(made) == {"job-a": WaitReason.EXCEEDS_MAX_QUOTA}


# pools and nodes


def test_slots_of_unknown_and_stopping_attempts_stay_held() -> None:
    for state in (AttemptState.UNKNOWN, AttemptState.STOPPING):
        assert not planned(CPU, queue(), node("n1", cpu=1), busy("job-r", 1, state=state), job("job-a")).decisions


def test_draining_and_lost_nodes_take_nothing_new() -> None:
    made = planned(
        CPU, queue(), node("n1", state=NodeState.DRAINING), node("n2", state=NodeState.LOST), job("job-a")
    )  # fmt: skip
    assert not made.decisions
    assert reasons(made) == {"job-a": WaitReason.GANG_DOES_NOT_FIT}


def test_a_pool_whose_nodes_are_all_lost_is_out_of_reach() -> None:
    made = planned(CPU, queue(), node("n1", state=NodeState.LOST), job("job-a"))
    assert reasons(made) == {"job-a": WaitReason.RUNNER_UNREACHABLE}


def test_a_pool_whose_runner_was_never_seen_is_planned_by_the_state_of_its_nodes() -> None:
    assert started(planned(CPU, queue(), node("n1"), job("job-a"))) == ["job-a"]


def test_an_isolated_pool_takes_only_its_tenants_jobs() -> None:
    things = (pool("vault", tenant="water"), node("n1", pool="vault"), queue("water"), queue("bikes"))
    made = planned(*things, job("job-w", queue="water"), job("job-b", queue="bikes"))
    assert started(made) == ["job-w"]


def test_a_job_that_names_no_pool_goes_where_it_wastes_no_gpus() -> None:
    made = planned(GPU, pool("zcpu"), queue(), node("n1", pool="gpu", gpus=2), node("n2", pool="zcpu"), job("job-a"))
    (decision,) = made.decisions
    assert isinstance(decision, Admit)
    assert decision.allocation.pool == "zcpu"


def test_a_job_that_names_no_pool_overflows_to_the_next() -> None:
    made = planned(
        CPU, GPU, queue(), node("n1", cpu=1), node("n2", pool="gpu", gpus=1), job("job-a"), job("job-b")
    )  # fmt: skip
    assert [d.allocation.pool for d in made.decisions if isinstance(d, Admit)] == ["cpu", "gpu"]


def test_fractions_of_one_plan_share_a_device() -> None:
    jobs = [job(f"job-{i}", gpu=0.5) for i in range(3)]
    made = planned(GPU, queue(), node("n1", pool="gpu", gpus=2), *jobs)
    shares = [d.allocation.placements[0].devices[0] for d in made.decisions if isinstance(d, Admit)]
    assert [(share.index, share.milli) for share in shares] == [(0, 500), (0, 500), (1, 500)]
