"""Who waits in what order, and which pools they may use."""

from __future__ import annotations

from dataclasses import replace

import pytest

from factory.domain.ids import JobId, PoolName, QueueName, TenantId
from factory.domain.jobs import AttemptState, Job, JobState, PriorityClass, Topology
from factory.domain.pools import Pool
from factory.scheduling.estimating import UNKNOWN, RunTimes
from factory.scheduling.fleet import Shape
from factory.scheduling.persistent import SortedMap, Trie, sorted_map
from factory.scheduling.waiting import (
    NOBODY,
    Lane,
    Place,
    Routes,
    Turn,
    Waitlist,
    counts_as,
    eligible_pools,
    gang_of,
    in_order,
    is_sound,
    lane_of,
    policy_of,
    shape_of,
    turn_of,
    waits,
)
from factory.testing.builders import allocation, job, pool, resources, running, spec

CPU = pool("cpu", cpu=1, memory_gib=4)
BARE = pool("bare", cpu=1, memory_gib=0)
GPU = pool("gpu", cpu=4, memory_gib=16, gpu=1)
WATER = TenantId("water")
LINE = (QueueName("mobility"), "fair")


def lane(*, tenant: str = "water", ms: int | None = None, **what: object) -> Lane:
    changed = {key: what.pop(key) for key in ("flavors", "gpu_models", "topology", "min_replicas") if key in what}
    return lane_of(replace(spec(**what), **changed), TenantId(tenant), ms)  # pyright: ignore[reportArgumentType]


def place(id: str, at: int, to: Lane) -> Place:
    return Place(LINE, to, ((at,), at, JobId(id)))


def names(pools: tuple[Pool, ...]) -> list[str]:
    return [row.name for row in pools]


def table(*pools: Pool) -> Trie[PoolName, Pool]:
    return Trie({row.name: row for row in pools})


# -- lanes -------------------------------------------------------------------------------------------------------------


def test_jobs_that_ask_for_the_very_same_share_a_lane() -> None:
    assert lane(cpu=2) is lane(cpu=2, name="other", priority=PriorityClass.HIGH, queue="else")


@pytest.mark.parametrize(
    "other",
    [
        {"tenant": "bikes"},
        {"pool": "cpu"},
        {"flavors": ("cpu",)},
        {"gpu_models": ("h100",)},
        {"cpu": 3},
        {"memory_gib": 1},
        {"gpu": 1},
        {"replicas": 5},
        {"min_replicas": 1},
        {"topology": Topology.SPREAD},
        {"ms": 4000},
    ],
    ids=lambda other: next(iter(other)),
)
def test_whatever_decides_where_a_job_fits_makes_a_lane_of_its_own(other: dict[str, object]) -> None:
    base: dict[str, object] = {"cpu": 2, "replicas": 4, "tenant": "water"}
    assert lane(**{**base, **other}) is not lane(**base)  # pyright: ignore[reportArgumentType]


def test_a_lane_says_what_is_asked_for() -> None:
    made = lane(cpu=2, gpu=1, replicas=4, min_replicas=3, topology=Topology.SAME_ZONE, gpu_models=("h100",), pool="gpu")
    assert made.asked == resources(cpu=2, gpu=1)
    assert made.shape == Shape(resources(cpu=2, gpu=1), ("h100",))
    assert (made.least, made.replicas, made.topology, made.pool) == (3, 4, Topology.SAME_ZONE, "gpu")
    assert (lane(replicas=4).least, lane().pool, lane().length) == (4, "", -1)


@pytest.mark.parametrize(("ms", "length"), [(None, -1), (0, 0), (999, 0), (1000, 1), (3999, 2), (4000, 3), (7999, 3)])
def test_lanes_tell_lengths_apart_by_binary_digits_of_seconds(ms: int | None, length: int) -> None:
    assert lane(ms=ms).length == length


def test_equal_gangs_are_one_object_whoever_asks_for_them() -> None:
    assert lane(cpu=7, tenant="bikes").gang is lane(cpu=7, ms=5).gang
    shape = shape_of(spec(cpu=7))
    assert gang_of(shape, 1, Topology.ANY) is lane(cpu=7).gang
    assert gang_of(shape, 2, Topology.ANY) is not lane(cpu=7).gang
    assert gang_of(shape, 1, Topology.SPREAD) is not lane(cpu=7).gang


def test_shapes_have_the_resources_and_the_models_that_will_do() -> None:
    assert shape_of(replace(spec(cpu=2), gpu_models=("a", "b"))) == Shape(resources(cpu=2), ("a", "b"))


@pytest.mark.parametrize(
    ("made", "sound"),
    [
        (lane(), True),
        (lane(replicas=3, min_replicas=1), True),
        (lane(replicas=3, min_replicas=3), True),
        (lane(replicas=3, min_replicas=4), False),
        (lane(replicas=3, min_replicas=0), False),
        (lane(replicas=0), False),
        (lane(gpu=0.5), True),
        (lane(gpu=1), True),
        (lane(gpu=2), True),
        (lane(gpu=1.5), False),
        (lane(cpu=-1), False),
        (lane(memory_gib=-1), False),
    ],
)
def test_what_makes_no_sense_is_not_sound(made: Lane, sound: bool) -> None:
    assert is_sound(made) is sound


# -- who waits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", list(JobState))
def test_only_queued_jobs_wait(state: JobState) -> None:
    assert waits(job(state=state)) is (state is JobState.QUEUED)


@pytest.mark.parametrize("state", list(AttemptState))
def test_a_live_attempt_rules_the_next_one_out(state: AttemptState) -> None:
    base = running(job(), allocation(["n1"], pool=CPU))
    row = replace(base, state=JobState.QUEUED, attempts=(replace(base.attempts[0], state=state),))
    assert waits(row) is (state is AttemptState.ENDED)


def test_a_turn_is_the_key_of_the_policy_then_time_then_id() -> None:
    row = job("job-a", submitted_at=70)
    assert turn_of(row, "shortest", RunTimes((), 5_000)) == ((5_000, 70), 70, "job-a")
    assert turn_of(row, "least-attained-service", UNKNOWN) == ((0, 70), 70, "job-a")
    assert turn_of(row, "unheard-of", UNKNOWN) == turn_of(row, "fair", UNKNOWN)


# -- waitlists ---------------------------------------------------------------------------------------------------------


def test_a_waitlist_keeps_all_in_order_and_each_lane_by_itself() -> None:
    small, large = lane(cpu=1), lane(cpu=2)
    held = Waitlist.of([place("c", 3, small), place("a", 1, large), place("b", 2, small)])
    assert [turn[2] for turn, _ in held.order.items()] == ["a", "b", "c"]
    assert [found for _, found in held.order.items()] == [large, small, small]
    assert list(held.lanes[small.gang][small].values()) == ["b", "c"]
    assert list(held.lanes[large.gang][large].values()) == ["a"]
    assert (len(held), held.submitted) == (3, 6)
    assert held.position(((3,), 3, JobId("c"))) == 3
    assert held.position(((0,), 0, JobId(""))) == 1


def test_joining_and_leaving_gives_the_waitlist_of_those_who_are_there() -> None:
    small, large, alike = lane(cpu=1), lane(cpu=2), lane(cpu=1, tenant="bikes")
    everybody = [place("a", 1, small), place("b", 2, large), place("c", 3, alike), place("d", 4, small)]
    held = NOBODY
    for each in reversed(everybody):
        held = held.joined(each)
    assert held == Waitlist.of(everybody)
    for gone in range(len(everybody)):
        left = held
        for each in everybody[: gone + 1]:
            left = left.left(each)
        assert left == Waitlist.of(everybody[gone + 1 :])
        assert left.submitted == sum(each.turn[1] for each in everybody[gone + 1 :])
    assert held.left(everybody[0]).left(everybody[3]).lanes.keys() == {small.gang, large.gang}


def test_an_empty_lane_and_an_empty_gang_are_not_kept() -> None:
    small, alike = lane(cpu=1), lane(cpu=1, tenant="bikes")
    held = Waitlist.of([place("a", 1, small), place("b", 2, alike)])
    assert set(held.left(place("a", 1, small)).lanes[small.gang]) == {alike}
    assert held.left(place("a", 1, small)).left(place("b", 2, alike)) == NOBODY
    assert not NOBODY.lanes


def test_joining_leaves_the_old_waitlist_as_it_was() -> None:
    small = lane(cpu=1)
    held = Waitlist.of([place("a", 1, small)])
    held.joined(place("b", 2, small))
    held.left(place("a", 1, small))
    assert held == Waitlist.of([place("a", 1, small)])


# -- the order that counts ---------------------------------------------------------------------------------------------


def turn(level: int, at: int, id: str = "x") -> Turn:
    return (level, at), at, JobId(id)


def listed(horizon: int | None, *turns: Turn, after: Turn | None = None) -> list[tuple[int, int]]:
    jobs: SortedMap[Turn, None] = sorted_map((each, None) for each in turns)
    return [(key[0], key[1]) for (key, _, _), _ in in_order(jobs, horizon, after)]


def test_without_a_horizon_keys_alone_decide() -> None:
    assert listed(None, turn(5, 1), turn(4, 9), turn(0, 3)) == [(0, 3), (4, 9), (5, 1)]


def test_from_the_horizon_on_the_time_of_submission_decides() -> None:
    turns = turn(5, 1), turn(4, 9), turn(3, 4), turn(2, 8), turn(2, 7), turn(0, 50)
    assert listed(3, *turns) == [(0, 50), (2, 7), (2, 8), (5, 1), (3, 4), (4, 9)]
    assert listed(4, *turns) == [(0, 50), (2, 7), (2, 8), (3, 4), (5, 1), (4, 9)]
    assert listed(0, *turns) == [(5, 1), (3, 4), (2, 7), (2, 8), (4, 9), (0, 50)]


def test_of_one_time_above_the_horizon_the_id_decides() -> None:
    jobs: SortedMap[Turn, None] = sorted_map((each, None) for each in (turn(5, 1, "a"), turn(4, 1, "b")))
    assert [each[2] for each, _ in in_order(jobs, 3)] == ["a", "b"]


def test_what_comes_after_a_turn_comes_after_it_as_it_counts() -> None:
    turns = turn(5, 1), turn(4, 9), turn(3, 4), turn(2, 8)
    assert listed(3, *turns, after=turn(5, 1)) == [(3, 4), (4, 9)]
    assert listed(3, *turns, after=turn(3, 4)) == [(4, 9)]
    assert listed(3, *turns, after=turn(2, 7)) == [(2, 8), (5, 1), (3, 4), (4, 9)]
    assert listed(None, *turns, after=turn(3, 4)) == [(4, 9), (5, 1)]
    assert listed(None, *turns, after=turn(5, 1)) == []


def test_nobody_is_in_no_order() -> None:
    assert listed(3) == listed(None) == listed(3, after=turn(0, 0)) == []


def test_a_turn_counts_as_its_key_does() -> None:
    assert counts_as(turn(9, 4, "b"), 3) == ((3, 4), 4, "b")
    assert counts_as(turn(9, 4, "b"), None) == turn(9, 4, "b")


# -- pools -------------------------------------------------------------------------------------------------------------


def test_a_pool_of_another_tenant_may_not_be_used() -> None:
    own, others = pool("own", tenant="water"), pool("others", tenant="bikes")
    assert names(eligible_pools(table(CPU, own, others), lane())) == ["cpu", "own"]


def test_a_named_pool_is_the_only_one() -> None:
    assert names(eligible_pools(table(CPU, GPU), lane(pool="gpu"))) == ["gpu"]
    assert names(eligible_pools(table(CPU, GPU), lane(pool="nowhere"))) == []


def test_a_pool_must_have_all_that_is_asked_for() -> None:
    assert names(eligible_pools(table(CPU, BARE, GPU), lane(gpu=1))) == ["gpu"]
    assert names(eligible_pools(table(CPU, BARE, GPU), lane(memory_gib=1))) == ["cpu", "gpu"]


def test_flavors_are_taken_as_listed_and_no_others() -> None:
    pools = table(CPU, GPU, pool("z", flavor="cpu"), pool("a", flavor="tpu"))
    assert names(eligible_pools(pools, lane(flavors=("gpu", "cpu")))) == ["gpu", "cpu", "z"]
    assert names(eligible_pools(pools, lane(flavors=("cpu",)))) == ["cpu", "z"]
    assert names(eligible_pools(pools, lane(flavors=("tpu", "x")))) == ["a"]


def test_gpus_are_not_wasted_while_there_is_another_pool_and_then_memory() -> None:
    assert names(eligible_pools(table(CPU, BARE, GPU), lane(cpu=1))) == ["bare", "cpu", "gpu"]
    assert names(eligible_pools(table(BARE, pool("a", memory_gib=1)), lane(cpu=1))) == ["bare", "a"]
    bare_gpu = pool("bare-gpu", memory_gib=0, gpu=1)
    assert names(eligible_pools(table(CPU, bare_gpu), lane(cpu=1))) == ["cpu", "bare-gpu"]
    assert names(eligible_pools(table(CPU, pool("a", cpu=1, memory_gib=4)), lane(cpu=1, memory_gib=1))) == ["a", "cpu"]


def test_routes_are_the_eligible_pools_and_none_for_what_makes_no_sense() -> None:
    routes = Routes(table(CPU, GPU))
    assert names(routes[lane(cpu=1)]) == ["cpu", "gpu"]
    assert routes[lane(cpu=1)] is routes[lane(cpu=1)]
    assert routes[lane(gpu=1.5)] == ()


def test_jobs_wait_under_the_policy_of_their_best_pool() -> None:
    assert policy_of((replace(CPU, policy="fifo"), GPU)) == "fifo"
    assert policy_of((replace(CPU, policy="unheard-of"), replace(GPU, policy="fifo"))) == "fair"
    assert policy_of(()) == "fair"


def test_a_job_of_the_builders_is_in_the_lane_of_its_tenant() -> None:
    row: Job = job("job-a", tenant="water")
    assert lane_of(row.spec, WATER) is lane(tenant="water")
