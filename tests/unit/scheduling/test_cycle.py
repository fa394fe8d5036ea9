"""What is left of a pool while a plan gives it away: the figures that every decision rests on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from factory.domain.ids import JobId, NodeId, PoolName, QueueName
from factory.domain.jobs import Allocation, AttemptState, EndReason, Job, JobState, Stop, Topology, WaitReason
from factory.domain.pools import Node, NodeState, Pool
from factory.domain.resources import slots_in
from factory.domain.tenancy import Queue
from factory.domain.time import SECOND
from factory.scheduling.cycle import (
    READY,
    Cycle,
    Fit,
    Policy,
    Refused,
    Reservation,
    Stock,
    begin_of,
    slots_of,
)
from factory.scheduling.quota import ENDLESS
from factory.scheduling.waiting import Gang, Lane, gang_of, lane_of, shape_of
from factory.testing.builders import allocation, attempt, job, node, pool, queue, resources, running, snapshot, spec

CPU = pool("cpu", cpu=1, memory_gib=4)
GPU = pool("gpu", cpu=4, memory_gib=16, gpu=1)
NOW = 10_000_000
MINUTE = 60 * SECOND
Q = QueueName("mobility")


def cycle(*things: Pool | Node | Queue | Job, policy: Policy | None = None) -> Cycle:
    return Cycle(snapshot(CPU, queue(), *things), policy or Policy(), NOW)


def stock(*things: Pool | Node | Queue | Job) -> Stock:
    return cycle(*things).stock(CPU.name)


def gang(cpu: float = 1, replicas: int = 1, topology: Topology = Topology.ANY, *, gpu: float = 0) -> Gang:
    return gang_of(shape_of(spec(cpu=cpu, gpu=gpu)), replicas, topology)


def lane(row: Job, ms: int | None = None) -> Lane:
    return lane_of(row.spec, row.tenant, ms)


def held(*nodes: str, cpu: float = 1) -> Allocation:
    return allocation(nodes, pool=CPU, cpu=cpu)


def busy(
    id: str, cpu: float = 1, on: str = "n1", *, of: str = "mobility", estimate_s: int | None = None, since: int = NOW
) -> Job:
    row = job(id, cpu=cpu, queue=of)
    row = running(replace(row, spec=replace(row.spec, estimate_s=estimate_s)), held(on, cpu=cpu))
    return replace(row, attempts=(replace(row.attempts[0], admitted_at=since, running_at=since),))


def keep(
    to: Stock, *nodes: str, cpu: float, starts_at: int | None, is_claim: bool = False, gone: Job | None = None
) -> None:
    """Keep CPUs of nodes for `big`, as they will be when `gone` has ended."""
    room = to.floor.copy()
    if gone is not None:
        room.give(gone.attempts[-1].allocation.placements)
    placements = held(*nodes, cpu=cpu).placements
    room.take(placements)
    to.reserve(Reservation(JobId("big"), Q, placements, starts_at, is_claim), room)


# -- slots -------------------------------------------------------------------------------------------------------------


def test_a_pool_has_as_many_slots_as_its_scarcest_resource_makes() -> None:
    assert slots_in(resources(cpu=8, memory_gib=16), CPU.flavor.slot) == 4000
    assert slots_in(resources(cpu=3, memory_gib=64), CPU.flavor.slot) == 3000
    assert slots_in(resources(cpu=8, memory_gib=64, gpu=1), GPU.flavor.slot) == 1000
    assert slots_in(resources(cpu=8, memory_gib=64, gpu=3), GPU.flavor.slot) == 2000
    assert slots_in(resources(cpu=-1, memory_gib=64), CPU.flavor.slot) == 0
    assert slots_in(resources(), CPU.flavor.slot) == 0
    assert slots_in(resources(cpu=5), resources()) == 0


def test_only_ready_nodes_make_capacity() -> None:
    made = stock(
        node("n1", cpu=2), node("n2", cpu=4, state=NodeState.DRAINING), node("n3", cpu=8, state=NodeState.LOST)
    )
    assert made.capacity == 2000
    assert {NodeState.READY} == READY


def test_a_replica_takes_the_largest_part_of_any_resource() -> None:
    made = stock()
    assert made.slots_of(resources(cpu=1.5)) == 1500
    assert made.slots_of(resources(cpu=1, memory_gib=6)) == 1500
    assert made.slots_of(resources()) == 0
    assert slots_of(resources(cpu=1, memory_gib=6), 3, CPU) == 4500
    with pytest.raises(ValueError, match="does not have"):
        slots_of(resources(gpu=1), 1, CPU)


def test_a_pool_is_out_of_reach_if_no_node_is_but_lost() -> None:
    assert stock(node("n1", state=NodeState.LOST)).is_lost
    assert stock().is_lost
    assert not stock(node("n1", state=NodeState.LOST), node("n2", state=NodeState.DRAINING)).is_lost


# -- usage -------------------------------------------------------------------------------------------------------------


def test_what_the_plan_gives_away_counts_up_the_tree() -> None:
    made = Cycle(
        snapshot(CPU, queue("city", quota={"cpu": 3}), queue(parent="city"), node("n1"), busy("r")), Policy(), NOW
    )
    left = made.stock(CPU.name)
    assert (left.used(Q), left.used(QueueName("city")), left.available(Q)) == (1000, 1000, 2000)
    left.take(Q, held("n1"), None)
    assert (left.used(Q), left.used(QueueName("city")), left.available(Q)) == (2000, 2000, 1000)
    assert left.settled(Q) == 2000
    assert left.over(QueueName("city")) == -1000
    assert left.over(Q) == 2000
    assert left.potential(Q) == 3000
    assert left.floor.free_of(NodeId("n1"))[0].cpu_milli == 8000 - 2000


def test_what_leaves_counts_only_for_what_is_expected() -> None:
    left = stock(node("n1"), busy("r", 3))
    left.expect(Q, -3000)
    assert (left.used(Q), left.settled(Q)) == (3000, 0)
    left.count(Q, 1000)
    assert (left.used(Q), left.settled(Q)) == (4000, 1000)


def test_overs_are_forgotten_up_the_path_when_something_is_counted() -> None:
    made = Cycle(
        snapshot(CPU, queue("city"), queue(parent="city"), queue("else", parent="city"), node("n1")), Policy(), NOW
    )
    left = made.stock(CPU.name)
    for name in ("city", "mobility", "else"):
        assert left.over(QueueName(name)) == 0
    left.count(Q, 500)
    assert [left.over(QueueName(name)) for name in ("city", "mobility", "else")] == [500, 500, 0]


# -- what fits ---------------------------------------------------------------------------------------------------------


def test_what_would_fit_on_idle_nodes_and_what_fits_now() -> None:
    left = stock(node("n1", cpu=4), node("n2", cpu=2), busy("r", 3))
    assert [left.could_fit(gang(size)) for size in (1, 4, 5)] == [True, True, False]
    assert [left.could_fit(gang(1, size)) for size in (6, 7)] == [True, False]
    assert [left.has_room(gang(size)) for size in (1, 2, 3)] == [True, True, False]
    assert [left.fits(gang(1, size), None) for size in (3, 4)] == [True, False]
    assert left.room(gang(1).shape) == 3


def test_slots_that_lack_a_resource_have_no_room_for_it_whatever_the_nodes_have() -> None:
    left = Cycle(snapshot(pool("bare", memory_gib=0), queue(), node("n1", pool="bare", gpus=1)), Policy(), NOW).stock(
        PoolName("bare")
    )
    assert left.has_room(gang(1))
    assert not left.has_room(gang(1, gpu=1))
    assert not left.has_room(gang_of(shape_of(spec(cpu=0, memory_gib=1)), 1, Topology.ANY))
    assert left.has_room(gang_of(shape_of(spec(cpu=0)), 1, Topology.ANY))


def test_what_did_not_fit_is_not_tried_again_in_a_plan() -> None:
    left = stock(node("n1", cpu=2), busy("r", 2))
    assert not left.fits(gang(1), None)
    left.floor.give(held("n1").placements)
    assert not left.fits(gang(1), None)
    assert not left.has_room(gang(1))
    assert left.longest(gang(1)) == -1
    assert left.longest(gang(0.5)) == ENDLESS


def test_a_gang_goes_with_as_many_replicas_as_fit() -> None:
    left = stock(node("n1", cpu=3), node("n2", cpu=4))
    for most, count in ((2, 2), (7, 7), (9, 7), (100, 7)):
        assert len(left.place(gang().shape, 1, most, Topology.ANY, None)) == count
    assert len(left.place(gang().shape, 1, 9, Topology.ONE_NODE, None)) == 4
    assert len(left.place(gang().shape, 2, 9, Topology.SPREAD, None)) == 2
    assert len(left.place(gang().shape, 3, 3, Topology.ANY, None)) == 3


def test_a_plan_gives_no_more_than_the_quota_admits() -> None:
    limited = replace(queue("mobility", quota={"cpu": 3}))
    made = Cycle(snapshot(CPU, limited, node("n1", cpu=8)), Policy(), NOW)
    row = job("a", cpu=1, replicas=5)
    row = replace(row, spec=replace(row.spec, min_replicas=2))
    found = made.try_pool(row, lane(row), made.stock(CPU.name))
    assert isinstance(found, Fit)
    assert (found.allocation.slots_milli, len(found.allocation.placements)) == (3000, 3)
    assert made.try_pool(row, lane(row), made.stock(CPU.name), gang(1, 5)) == Refused(
        WaitReason.EXCEEDS_MAX_QUOTA, CPU.name, is_hopeless=True
    )


def test_a_job_that_takes_no_slots_goes_whole() -> None:
    made = Cycle(snapshot(CPU, queue("mobility", quota={"cpu": 0}), node("n1", cpu=8)), Policy(), NOW)
    row = job("a", cpu=0, replicas=4)
    found = made.try_pool(row, lane(row), made.stock(CPU.name))
    assert isinstance(found, Fit)
    assert len(found.allocation.placements) == 4
    assert found.allocation.slots_milli == 0


# -- beside reservations -----------------------------------------------------------------------------------------------


def test_short_jobs_may_use_what_is_kept_and_others_may_not() -> None:
    big = busy("r", 2)
    left = stock(node("n1", cpu=4), big)
    keep(left, "n1", cpu=4, starts_at=NOW + MINUTE, gone=big)
    assert not left.fits(gang(2), None)
    assert left.longest(gang(2)) == 6  # binary digits of the sixty seconds until it is needed
    assert left.fits(gang(2), NOW + MINUTE)
    assert not left.fits(gang(2), NOW + MINUTE + 1)
    assert left.has_room(gang(2))
    assert left.room(gang(2).shape) == 0
    assert left.place(gang(1).shape, 1, 2, Topology.ANY, NOW + MINUTE) != ()


def test_with_several_reservations_the_first_start_counts() -> None:
    big = busy("r", 2)
    left = stock(node("n1", cpu=4), node("n2", cpu=4), big)
    keep(left, "n2", cpu=4, starts_at=NOW + 5 * MINUTE)
    assert left.fits(gang(4), NOW + 5 * MINUTE)
    keep(left, "n1", cpu=4, starts_at=NOW + MINUTE, gone=big)
    assert not left.fits(gang(4), NOW + 5 * MINUTE)
    assert left.fits(gang(3), NOW + MINUTE)
    keep(left, "n1", cpu=1, starts_at=None)
    assert not left.fits(gang(2, 2), NOW + MINUTE)


def test_what_is_claimed_is_nobody_elses_however_short() -> None:
    left = stock(node("n1", cpu=4))
    keep(left, "n1", cpu=3, starts_at=None, is_claim=True)
    assert left.may_reserve
    assert not left.fits(gang(2), NOW)
    assert left.fits(gang(1), None)
    assert left.room(gang(1).shape) == 1


def test_a_claim_after_a_reservation_binds_both() -> None:
    left = stock(node("n1", cpu=4), node("n2", cpu=4))
    keep(left, "n2", cpu=4, starts_at=NOW + MINUTE)
    keep(left, "n1", cpu=4, starts_at=None, is_claim=True)
    assert left.room(gang(1).shape) == 0
    assert left.fits(gang(4), NOW + MINUTE)
    assert not left.fits(gang(1, 5), NOW + MINUTE)
    assert not left.may_reserve


def test_what_is_taken_is_taken_from_what_is_kept_too() -> None:
    left = stock(node("n1", cpu=4), node("n2", cpu=4))
    keep(left, "n2", cpu=4, starts_at=NOW + MINUTE)
    left.take(Q, held("n1", cpu=3), None)
    assert left.room(gang(1).shape) == 1
    assert left.fits(gang(5, 1), None) is False


# -- expected ends -----------------------------------------------------------------------------------------------------


def test_who_ends_when_in_the_order_of_time() -> None:
    left = stock(
        node("n1"), busy("c", estimate_s=300), busy("a", estimate_s=60), busy("b", estimate_s=120), busy("d"),
        busy("late", estimate_s=10, since=NOW - 15 * SECOND),
    )  # fmt: skip
    ends = [end - NOW for end, _ in left.expected_ends(99)]
    assert ends == [5 * SECOND, MINUTE, 2 * MINUTE, 5 * MINUTE]
    assert len(left.expected_ends(2)) == 2
    left.take(Q, held("n1", cpu=2), NOW + 90 * SECOND)
    left.take(Q, held("n1", cpu=2), None)
    assert [end - NOW for end, _ in left.expected_ends(2)] == [5 * SECOND, MINUTE, 90 * SECOND]


def test_a_pool_in_which_nobody_is_expected_to_end_has_no_ends() -> None:
    assert stock(node("n1"), busy("a")).expected_ends(9) == []


def test_an_end_on_the_minute_is_ahead_by_one_more_term() -> None:
    left = stock(node("n1"), busy("a", estimate_s=60, since=NOW - MINUTE))
    assert [end - NOW for end, _ in left.expected_ends(9)] == [MINUTE]


def test_how_long_a_job_runs_on() -> None:
    made = cycle(node("n1"), busy("a", estimate_s=60, since=NOW - 20 * SECOND), busy("b"), job("w"))
    jobs = made.snapshot.jobs
    assert made.running_ms(jobs[JobId("a")]) == 40 * SECOND
    assert made.running_ms(jobs[JobId("b")]) is None
    assert made.running_ms(jobs[JobId("w")]) is None
    stop = Stop(EndReason.PREEMPTED, NOW - 3 * SECOND)
    row = busy("c")
    stopping = replace(row, attempts=(replace(row.attempts[0], stop=stop, state=AttemptState.STOPPING),))
    assert cycle(node("n1"), stopping).running_ms(stopping) == 7 * SECOND


def test_a_job_that_starts_now_ends_when_its_estimate_says() -> None:
    made = cycle(node("n1"))
    row = replace(job("a"), spec=replace(job("a").spec, estimate_s=60))
    assert made.ends_at(row, lane(row, 60_000)) == NOW + MINUTE
    assert made.ends_at(row, lane(row)) is None  # its lane says that it is not known


def test_an_attempt_began_when_it_ran_or_else_when_it_was_admitted() -> None:
    base = replace(attempt(admitted_at=5), running_at=9)
    assert begin_of(base) == 9
    assert begin_of(replace(base, running_at=None)) == 5
    assert begin_of(replace(base, running_at=0)) == 0


# -- refusals ----------------------------------------------------------------------------------------------------------


def refused(row: Job, *things: Pool | Node | Queue | Job) -> Refused | None:
    made = Cycle(snapshot(CPU, *things), Policy(), NOW)
    return made.refusal(row, lane(row), made.stock(CPU.name))


def test_the_first_reason_that_holds_is_told() -> None:
    limited = queue("mobility", quota={"cpu": 3})
    big, small = job("a", cpu=4), job("b", cpu=2)
    lost = (limited, node("n1", cpu=2, state=NodeState.LOST))
    assert refused(big, *lost) == Refused(WaitReason.RUNNER_UNREACHABLE, CPU.name, True)
    assert refused(big, limited, node("n1", cpu=2)) == Refused(WaitReason.EXCEEDS_MAX_QUOTA, CPU.name, True)
    narrow = (limited, node("n1", cpu=1))
    assert refused(small, *narrow, busy("r", 3, "n9")) == Refused(WaitReason.GANG_DOES_NOT_FIT, CPU.name, True)
    wide = (limited, node("n1", cpu=2), busy("r", 2))
    assert refused(small, *wide) == Refused(WaitReason.WAITING_FOR_QUOTA, CPU.name, False)
    free = (queue("mobility", quota={"cpu": 4}), node("n1", cpu=3), busy("r", 2))
    assert refused(small, *free) == Refused(WaitReason.GANG_DOES_NOT_FIT, CPU.name, False)
    assert refused(job("c", cpu=1), *free) is None


def test_exactly_what_is_left_is_enough() -> None:
    exact = (queue("mobility", quota={"cpu": 3}), node("n1", cpu=3), busy("r", 1))
    assert refused(job("a", cpu=2), *exact) is None
    assert refused(job("a", cpu=2.001), *exact) == Refused(WaitReason.WAITING_FOR_QUOTA, CPU.name, False)
    assert refused(job("a", cpu=3), queue("mobility", quota={"cpu": 3}), node("n1", cpu=3)) is None


def test_a_gang_is_refused_by_what_it_may_start_with() -> None:
    row = job("a", replicas=4)
    row = replace(row, spec=replace(row.spec, min_replicas=2))
    assert refused(row, queue(), node("n1", cpu=2)) is None
    made = Cycle(snapshot(CPU, queue(), node("n1", cpu=2)), Policy(), NOW)
    assert made.refusal(row, lane(row), made.stock(CPU.name), gang(1, 3)) is not None


# -- the whole cycle ---------------------------------------------------------------------------------------------------


def test_pools_are_known_by_name_and_listed_in_order() -> None:
    made = Cycle(snapshot(GPU, CPU, queue()), Policy(), NOW)
    assert [each.pool.name for each in made.stocks] == ["cpu", "gpu"]
    assert made.stock(GPU.name).pool is GPU
    assert [each.pool.name for each in made.eligible(lane(job(cpu=1)))] == ["cpu", "gpu"]
    assert [each.pool.name for each in made.eligible(lane(job(gpu=1)))] == ["gpu"]
    assert made.eligible(lane(job(gpu=1))) is made.eligible(lane(job("other", gpu=1)))


def test_a_gang_is_full_for_all_if_no_pool_has_room() -> None:
    made = Cycle(snapshot(CPU, GPU, queue(), node("n1", cpu=1), node("g1", pool="gpu", cpu=4, gpus=1)), Policy(), NOW)
    assert [(option.at, option.bit, option.slots, option.longest) for option in made.options(gang(1))] == [
        (0, 1, 1000, ENDLESS), (1, 2, 250, ENDLESS)
    ]  # fmt: skip
    assert [(option.at, option.slots) for option in made.options(gang(2, 2))] == [(1, 1000)]
    assert [(option.at, option.slots) for option in made.options(gang(4))] == [(1, 1000)]
    assert made.options(gang(5)) == made.options(gang(1, gpu=2)) == ()
    made.stock(GPU.name).floor.give(allocation(["g1"], pool=GPU, cpu=4).placements)
    assert made.options(gang(5)) == ()  # once found, it holds for the plan


def test_what_is_known_of_a_gang_is_looked_at_again_when_it_did_not_fit() -> None:
    made = cycle(node("n1", cpu=2))
    left = made.stock(CPU.name)
    assert len(made.options(gang(2))) == 1
    left.take(Q, held("n1", cpu=1), None)
    assert len(made.options(gang(2))) == 1
    assert not left.fits(gang(2), None)
    assert made.options(gang(2)) == ()


def test_the_pools_of_a_lane_are_bits_in_the_order_of_their_names() -> None:
    made = Cycle(snapshot(CPU, GPU, pool("ssd", cpu=1, memory_gib=4), queue()), Policy(), NOW)
    assert made.mask(lane(job(cpu=1))) == 0b111
    assert made.mask(lane(job(gpu=1))) == 0b010
    assert made.mask(lane(job(pool="ssd"))) == 0b100
    assert made.mask(lane(job(gpu=1.5))) == 0


def test_a_lane_may_fit_where_its_pools_have_room_for_its_length() -> None:
    big = busy("r", 2)
    made = cycle(GPU, node("n1", cpu=4), node("g1", pool="gpu", cpu=1, gpus=1), big)
    keep(made.stock(CPU.name), "n1", cpu=4, starts_at=NOW + MINUTE, gone=big)
    assert made.may_fit(lane(job(cpu=1)))  # in the other pool
    assert not made.may_fit(lane(job(cpu=1, pool="cpu")))
    assert not made.may_fit(lane(job(cpu=2)))
    for seconds, fits in ((0, True), (32, True), (63, True), (64, False), (600, False)):
        assert made.may_fit(lane(job(cpu=2, pool="cpu"), ms=seconds * SECOND)) is fits
    assert not made.may_fit(lane(job(cpu=3), ms=0))


def test_where_the_start_of_a_reservation_is_not_known_nobody_is_short_enough() -> None:
    made = cycle(node("n1", cpu=4))
    keep(made.stock(CPU.name), "n1", cpu=4, starts_at=None)
    assert made.options(gang(2))[0].longest == -1
    assert not made.may_fit(lane(job(cpu=2), ms=0))
    late = cycle(node("n1", cpu=4))
    keep(late.stock(CPU.name), "n1", cpu=4, starts_at=NOW - MINUTE)
    assert late.options(gang(2))[0].longest == 0


@pytest.mark.parametrize(("waits", "horizon"), [((0,), 3), ((400_000,), 4), ((100_000, 700_000), 4), ((800_000,), 5)])
def test_the_horizon_follows_the_mean_wait_of_those_who_wait(waits: tuple[int, ...], horizon: int) -> None:
    """In minutes: a tenth of a slot over 400,000 minutes is 40,000 slot-minutes, beyond the ninth limit."""
    las = replace(CPU, policy="least-attained-service")
    now = 800_000 * MINUTE
    jobs = [job(f"w{i}", submitted_at=now - wait * MINUTE) for i, wait in enumerate(waits)]
    others = [job(f"o{i}", queue="fast", cpu=1, gpu=1, submitted_at=0) for i in range(3)]  # of another policy
    made = Cycle(snapshot(las, GPU, queue(), queue("fast"), *jobs, *others), Policy(), now)
    mean = sum(waits) // len(waits)
    order = made.stock(CPU.name).order
    assert made.horizon("least-attained-service") == order.horizon(mean * MINUTE)
    assert made.horizon("fair") is None


def test_where_nobody_waits_the_horizon_is_the_least() -> None:
    las = replace(CPU, policy="least-attained-service")
    made = Cycle(snapshot(las, queue()), Policy(), NOW)
    assert made.horizon("least-attained-service") == 3
    early = Cycle(snapshot(las, queue(), job("w", submitted_at=NOW + 99)), Policy(), NOW)
    assert early.horizon("least-attained-service") == 3


def test_states_of_builders_are_those_of_the_domain() -> None:
    assert busy("a").state is JobState.RUNNING
