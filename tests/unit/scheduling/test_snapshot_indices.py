"""Each index of a snapshot: what it says, and that it follows every kind of change."""

from __future__ import annotations

from dataclasses import replace

import pytest

from factory.domain.ids import JobId, QueueName
from factory.domain.jobs import AttemptState, EndReason, Job, JobState, PriorityClass, Stop
from factory.domain.pools import Node, NodeState, Pool
from factory.domain.tenancy import Queue
from factory.domain.time import SECOND
from factory.scheduling.changes import JobChanged, NodeChanged, PoolChanged, QueueChanged, Rows
from factory.scheduling.estimating import UNKNOWN, RunTimes, kind_of
from factory.scheduling.fleet import Shape
from factory.scheduling.quota import ROOT
from factory.scheduling.snapshot import Snapshot, ending_of
from factory.scheduling.spending import HALF_LIFE_S, TICK_S, spent
from factory.scheduling.waiting import shape_of
from factory.testing.builders import allocation, job, node, pool, queue, resources, rows, running, snapshot

CPU = pool("cpu", cpu=1, memory_gib=4)
SSD = pool("ssd", cpu=1, memory_gib=4)
GPU = pool("gpu", cpu=4, memory_gib=16, gpu=1)
HOUR = 3600 * SECOND
TICK = TICK_S * SECOND


def changed(row: Job) -> JobChanged:
    return JobChanged(row.id, row)


def gone(row: Job) -> JobChanged:
    return JobChanged(row.id, None)


def on(
    id: str,
    *nodes: str,
    cpu: float = 1,
    of: str = "mobility",
    at: int = 0,
    estimate_s: int | None = None,
    pool: Pool = CPU,
) -> Job:
    """A job that runs since `at`."""
    row = job(id, cpu=cpu, queue=of, replicas=max(1, len(nodes)))
    row = replace(row, spec=replace(row.spec, estimate_s=estimate_s))
    row = running(row, allocation(nodes or ("n1",), pool=pool, cpu=cpu))
    return replace(row, attempts=(replace(row.attempts[0], admitted_at=at, running_at=at),))


def ended(row: Job, at: int, state: JobState = JobState.SUCCEEDED) -> Job:
    last = replace(row.attempts[-1], state=AttemptState.ENDED, ended_at=at)
    final = state in (JobState.SUCCEEDED, JobState.FAILED)
    return replace(row, state=state, attempts=(*row.attempts[:-1], last), ended_at=at if final else None)


def stopping(row: Job, by: str, at: int = 0, reason: EndReason = EndReason.PREEMPTED) -> Job:
    last = replace(row.attempts[-1], state=AttemptState.STOPPING, stop=Stop(reason, at, by))
    return replace(row, state=JobState.PREEMPTING, attempts=(*row.attempts[:-1], last))


def order(snap: Snapshot, of: str = "mobility", policy: str = "fair") -> list[str]:
    return [turn[2] for turn, _ in snap.waitlist((QueueName(of), policy)).order.items()]


# -- who holds what ----------------------------------------------------------------------------------------------------


def test_holders_are_listed_the_lowest_class_first_with_their_slots() -> None:
    low = on("z", "n1", "n1")
    low = replace(low, spec=replace(low.spec, priority=PriorityClass.LOW))
    snap = snapshot(CPU, queue(), node("n1"), on("b", cpu=2), on("a"), low)
    held = snap.holders[QueueName("mobility"), CPU.name]
    assert list(held.items()) == [((0, "z"), 2000), ((1, "a"), 1000), ((1, "b"), 2000)]
    assert snap.used[QueueName("mobility"), CPU.name] == 5000


def test_an_account_without_holders_is_not_kept() -> None:
    row = on("a")
    snap = snapshot(CPU, queue(), node("n1"), row).evolve([gone(row)])
    assert len(snap.holders) == len(snap.used) == len(snap.tree_used) == len(snap.holdings) == len(snap.tree_slots) == 0


def test_a_job_that_moves_to_another_queue_takes_its_slots_along() -> None:
    row = on("a", cpu=2)
    moved = replace(row, spec=replace(row.spec, queue=QueueName("water")), seq=9)
    moved = replace(moved, attempts=(replace(moved.attempts[0], checkpointed_at=1),))
    snap = snapshot(CPU, queue(), queue("water"), node("n1"), row).evolve([changed(moved)])
    assert dict(snap.used.items()) == {("water", "cpu"): 2000}
    assert dict(snap.tree_used.items()) == {("water", "cpu"): 2000, (ROOT, "cpu"): 2000}


def test_what_queues_hold_in_all_pools_is_summed_up_the_tree() -> None:
    rows_ = (
        CPU,
        SSD,
        queue("city"),
        queue("a", parent="city"),
        queue("b", parent="city"),
        node("n1"),
        on("j1", of="a", cpu=2),
        on("j2", of="a", cpu=1, pool=SSD),
        on("j3", of="b", cpu=3),
    )
    snap = snapshot(*rows_)
    assert dict(snap.tree_slots.items()) == {"a": 3000, "b": 3000, "city": 6000}
    after = snap.evolve([gone(on("j1", of="a", cpu=2)), changed(on("j4", of="b", cpu=1))])
    assert dict(after.tree_slots.items()) == {"a": 1000, "b": 4000, "city": 5000}
    moved = after.evolve([QueueChanged(QueueName("b"), queue("b"))])
    assert dict(moved.tree_slots.items()) == {"a": 1000, "b": 4000, "city": 1000}


def test_what_the_queues_of_a_removed_row_hold_stays_with_their_name() -> None:
    snap = snapshot(CPU, queue("a"), node("n1"), on("j", of="a", cpu=2)).evolve([QueueChanged(QueueName("a"), None)])
    assert dict(snap.used.items()) == {("a", "cpu"): 2000}
    assert dict(snap.tree_used.items()) == {(ROOT, "cpu"): 2000}
    assert dict(snap.tree_slots.items()) == {"a": 2000}


# -- expected ends -----------------------------------------------------------------------------------------------------


def test_an_attempt_of_declared_length_is_expected_to_end() -> None:
    snap = snapshot(CPU, queue(), node("n1"), on("a", at=5 * SECOND, estimate_s=60), on("b"), job("c"))
    assert list(snap.ends[CPU.name].keys()) == [(65 * SECOND, "a")]
    assert dict(snap.endings.items()) == {"a": ("cpu", 65 * SECOND)}


def test_an_attempt_that_does_not_run_yet_is_expected_from_its_admission() -> None:
    row = on("a", at=5 * SECOND, estimate_s=60)
    row = replace(row, attempts=(replace(row.attempts[0], running_at=None, admitted_at=3 * SECOND),))
    assert ending_of(row, UNKNOWN) == ("cpu", 63 * SECOND)


def test_an_attempt_that_is_being_stopped_ends_with_its_grace_whatever_its_length() -> None:
    row = stopping(on("a", estimate_s=9), "x", at=100 * SECOND)
    assert ending_of(row, UNKNOWN) == ("cpu", 110 * SECOND)
    assert ending_of(stopping(on("b"), "x", at=100 * SECOND), UNKNOWN) == ("cpu", 110 * SECOND)


def test_what_does_not_run_or_whose_length_nobody_knows_has_no_end() -> None:
    assert ending_of(job("a"), RunTimes((), 5)) is None
    assert ending_of(on("a"), UNKNOWN) is None
    assert ending_of(on("a"), RunTimes((), 5)) == ("cpu", 5)


def test_ends_follow_the_attempt() -> None:
    row = on("a", at=0, estimate_s=60)
    snap = snapshot(CPU, queue(), node("n1"), row)
    stopped = snap.evolve([changed(stopping(row, "x", at=7 * SECOND))])
    assert list(stopped.ends[CPU.name].keys()) == [(17 * SECOND, "a")]
    over = stopped.evolve([changed(ended(row, 9))])
    assert len(over.ends) == len(over.endings) == 0
    assert list(snap.ends[CPU.name].keys()) == [(60 * SECOND, "a")]


# -- claims ------------------------------------------------------------------------------------------------------------


def test_a_claim_names_all_that_were_preempted_for_a_job() -> None:
    snap = snapshot(CPU, queue(), node("n1"), stopping(on("v2"), "p"), stopping(on("v1"), "p"), stopping(on("v3"), "q"))
    assert dict(snap.claims.items()) == {"p": ("v1", "v2"), "q": ("v3",)}


def test_only_a_preemption_claims() -> None:
    cancelled = stopping(on("v"), "key-1", reason=EndReason.CANCELLED)
    assert len(snapshot(CPU, queue(), node("n1"), cancelled, on("r"), job("w")).claims) == 0


def test_a_claim_stays_until_the_victim_starts_again_or_is_gone() -> None:
    row = stopping(on("v"), "p")
    dead = ended(row, 9, JobState.QUEUED)
    snap = snapshot(CPU, queue(), node("n1"), row).evolve([changed(dead)])
    assert dict(snap.claims.items()) == {"p": ("v",)}
    again = running(dead, allocation(["n1"], pool=CPU))
    assert len(snap.evolve([changed(again)]).claims) == 0
    assert len(snap.evolve([gone(dead)]).claims) == 0
    assert dict(snap.evolve([changed(stopping(again, "q"))]).claims.items()) == {"q": ("v",)}


def test_of_two_victims_one_may_start_again() -> None:
    one, two = stopping(on("v1"), "p"), stopping(on("v2"), "p")
    snap = snapshot(CPU, queue(), node("n1"), one, two).evolve(
        [changed(running(ended(one, 9), allocation(["n1"], pool=CPU)))]
    )
    assert dict(snap.claims.items()) == {"p": ("v2",)}


# -- shapes and kinds --------------------------------------------------------------------------------------------------


def test_shapes_count_the_replicas_that_wait_or_run() -> None:
    wide = job("w", cpu=2, replicas=3)
    snap = snapshot(CPU, queue(), node("n1"), on("a"), job("b"), wide)
    assert dict(snap.shapes.items()) == {Shape(resources(cpu=1)): 2, Shape(resources(cpu=2)): 3}
    assert dict(snap.evolve([gone(wide)]).shapes.items()) == {Shape(resources(cpu=1)): 2}
    fewer = replace(wide, spec=replace(wide.spec, replicas=1))
    assert snap.evolve([changed(fewer)]).shapes[shape_of(wide.spec)] == 1


def test_typical_shapes_are_those_asked_for_most() -> None:
    snap = snapshot(CPU, queue(), *(job(f"a{i}", cpu=1) for i in range(8)), *(job(f"b{i}", cpu=2) for i in range(3)))
    assert [shape.resources.cpu_milli for shape, _ in snap.typical().shapes] == [1000, 2000]
    assert snap.typical() == snap.evolve([changed(job("a9", cpu=1))]).typical()  # rounded: one more is no news


@pytest.mark.parametrize(
    ("count", "rounded"), [(1, 1), (2, 2), (3, 3), (4, 4), (5, 4), (6, 6), (7, 6), (8, 8), (11, 8), (12, 12)]
)
def test_counts_of_shapes_are_rounded_down_to_two_binary_digits(count: int, rounded: int) -> None:
    many = [job(f"a{i:02}", cpu=1) for i in range(count)]
    equal = [job(f"b{i:02}", cpu=2) for i in range(rounded)]
    weights = [weight for _, weight in snapshot(CPU, queue(), *many, *equal).typical().shapes]
    assert weights == [5000, 5000]


def test_members_are_those_of_a_kind_that_have_not_ended() -> None:
    row = on("a")
    snap = snapshot(CPU, queue(), node("n1"), row, job("b"))
    assert {kind: sorted(ids) for kind, ids in snap.members.items()} == {kind_of(row): ["a"], kind_of(job("b")): ["b"]}
    assert len(snap.evolve([changed(ended(row, 9)), gone(job("b"))]).members) == 0


def test_a_changed_spec_is_another_kind() -> None:
    row = job("a")
    larger = replace(row, spec=replace(row.spec, resources=resources(cpu=3)))
    snap = snapshot(CPU, queue(), row).evolve([changed(larger)])
    assert [kind.cpu_milli for kind, _ in snap.members.items()] == [3000]
    assert dict(snap.shapes.items()) == {Shape(resources(cpu=3)): 1}


# -- lessons -----------------------------------------------------------------------------------------------------------


def done(number: int, seconds: int, id: str = "") -> Job:
    """A job like `w` that ran so long."""
    row = replace(on(id or f"d{number}", at=0), spec=job("w").spec)
    return ended(row, seconds * SECOND)


def test_three_jobs_that_succeed_teach_how_long_the_next_runs() -> None:
    snap = snapshot(CPU, queue(), node("n1"), job("w"))
    assert snap.remaining_ms(job("w")) is None
    for number in range(3):
        assert snap.places[JobId("w")].lane.length == -1
        snap = snap.evolve([changed(done(number, 64))])
    assert snap.remaining_ms(job("w")) == 65_536
    assert snap.times(job("w")).typical_ms == 65_536
    assert snap.places[JobId("w")].lane.length == 7
    assert snap.jobs.get(JobId("d0")) is None
    assert snap.times(job("other")) is UNKNOWN


def test_jobs_that_are_alike_are_lined_up_again_when_something_is_learned() -> None:
    shortest = replace(CPU, policy="shortest")
    alike = [replace(job(f"w{i}", submitted_at=i), spec=job("w").spec) for i in range(3)]
    other = job("x", submitted_at=1)
    snap = snapshot(shortest, queue(), node("n1"), *alike, other)
    assert order(snap, policy="shortest") == ["w0", "w1", "x", "w2"]
    taught = snap.evolve([changed(done(number, 9_000)) for number in range(3)])
    assert order(taught, policy="shortest") == ["x", "w0", "w1", "w2"]
    assert order(snap, policy="shortest") == ["w0", "w1", "x", "w2"]


def test_a_running_job_is_expected_to_end_when_something_is_learned() -> None:
    row = replace(on("r", at=10 * SECOND), spec=job("w").spec)
    snap = snapshot(CPU, queue(), node("n1"), row)
    assert len(snap.ends) == 0
    taught = snap.evolve([changed(done(number, 64)) for number in range(3)])
    assert list(taught.ends[CPU.name].keys()) == [(10 * SECOND + 65_536, "r")]


def test_what_failed_teaches_nothing_and_what_is_told_twice_no_more_than_once() -> None:
    snap = snapshot(CPU, queue(), node("n1"), job("w"))
    snap = snap.evolve([changed(replace(done(number, 64), state=JobState.FAILED)) for number in range(3)])
    snap = snap.evolve([changed(done(7, 64)) for _ in range(3)])
    assert len(snap.times(job("w")).runs) == 1
    assert snap.remaining_ms(job("w")) is None


def test_lessons_are_handed_on_with_the_rows() -> None:
    snap = snapshot(CPU, queue(), node("n1"), job("w")).evolve([changed(done(number, 64)) for number in range(3)])
    again = Snapshot.build(snap.rows())
    assert again.remaining_ms(job("w")) == 65_536
    assert again.rows() == snap.rows()
    assert Snapshot.build(
        replace(rows(CPU, queue(), job("w")), jobs=(job("w"), *(done(n, 64) for n in range(3))))
    ).times(job("w")) == snap.times(job("w"))


# -- spending ----------------------------------------------------------------------------------------------------------


def test_what_queues_have_used_counts_for_all_above_them() -> None:
    tree = (queue("city"), queue("a", parent="city"), queue("b", parent="city"))
    one, two = ended(on("j1", of="a", at=10 * TICK), 70 * TICK), on("j2", of="b", at=20 * TICK)
    snap = Snapshot.build(replace(rows(CPU, *tree, node("n1"), one, two), since=0))
    assert dict(snap.spent.items()) == {"a": spent(one, 0), "b": spent(two, 0)}
    assert dict(snap.tree_spent.items()) == {
        "a": spent(one, 0), "b": spent(two, 0), "city": spent(one, 0) + spent(two, 0)
    }  # fmt: skip
    over = snap.evolve([changed(ended(two, 90 * TICK))])
    assert over.spent[QueueName("b")] == spent(ended(two, 90 * TICK), 0)
    assert over.tree_spent[QueueName("city")] == spent(one, 0) + spent(ended(two, 90 * TICK), 0)


def test_a_job_whose_row_is_removed_has_used_what_it_had_ended() -> None:
    row = running(ended(on("j", at=10 * TICK), 70 * TICK, JobState.QUEUED), allocation(["n1"], pool=CPU))
    past = replace(row, attempts=row.attempts[:1])
    snap = Snapshot.build(replace(rows(CPU, queue(), node("n1"), row), since=0))
    assert dict(snap.evolve([gone(row)]).spent.items()) == {"mobility": spent(past, 0)}


def test_an_end_that_is_told_again_is_not_counted_again() -> None:
    row = on("j", at=10 * TICK)
    over = ended(row, 70 * TICK)
    snap = Snapshot.build(replace(rows(CPU, queue(), node("n1"), row), since=0)).evolve([changed(over)])
    assert dict(snap.evolve([changed(over), changed(over)]).spent.items()) == dict(snap.spent.items())


def test_the_beginning_of_the_count_is_a_while_before_the_first_attempt() -> None:
    grid = 64 * HALF_LIFE_S * SECOND
    assert Snapshot.build(rows(CPU, queue())).since == 0
    assert Snapshot.build(rows(CPU, queue(), on("a", at=grid - 1))).since == 0
    assert Snapshot.build(rows(CPU, queue(), on("a", at=3 * grid + 7), on("b", at=2 * grid + 5))).since == 2 * grid
    assert Snapshot.build(Rows(since=99)).since == 99
    assert Snapshot.build(rows(CPU, queue(), on("a", at=-5))).since == 0


def test_what_was_used_by_jobs_that_are_gone_is_handed_on() -> None:
    snap = Snapshot.build(replace(rows(CPU, queue(), node("n1"), on("j", at=10 * TICK)), since=0))
    over = snap.evolve([changed(ended(on("j", at=10 * TICK), 70 * TICK)), changed(on("k", at=80 * TICK))])
    assert over.rows().spent == (("mobility", spent(ended(on("j", at=10 * TICK), 70 * TICK), 0)),)
    assert dict(Snapshot.build(over.rows()).spent.items()) == dict(over.spent.items())


# -- lining up ---------------------------------------------------------------------------------------------------------


def test_jobs_wait_under_the_policy_of_their_best_pool_and_move_when_it_changes() -> None:
    snap = snapshot(CPU, GPU, queue(), job("a"), job("g", gpu=1, submitted_at=1))
    assert order(snap) == ["a", "g"]
    other = snap.evolve([PoolChanged(GPU.name, replace(GPU, policy="fifo"))])
    assert (order(other), order(other, policy="fifo")) == (["a"], ["g"])
    assert [name for name, _ in other.lines(QueueName("mobility"))] == ["fair", "fifo"]
    assert order(snap) == ["a", "g"]


@pytest.mark.parametrize(
    "changed_pool",
    [
        replace(CPU, policy="fifo"),
        None,
        pool("cpu", tenant="water"),
        replace(CPU, flavor=replace(GPU.flavor, name="cpu")),
    ],
    ids=["policy", "gone", "isolated", "flavor"],
)
def test_whatever_decides_who_may_use_a_pool_lines_everybody_up_again(changed_pool: Pool | None) -> None:
    things = (CPU, queue(), job("a"), job("b", submitted_at=1))
    snap = snapshot(*things).evolve([PoolChanged(CPU.name, changed_pool)])
    pools = () if changed_pool is None else (changed_pool,)
    fresh = snapshot(*pools, *things[1:])
    assert dict(snap.places.items()) == dict(fresh.places.items())
    assert dict(snap.waiting.items()) == dict(fresh.waiting.items())


def test_a_pool_that_only_has_another_runner_leaves_the_lines_alone() -> None:
    snap = snapshot(CPU, queue(), job("a"))
    after = snap.evolve([PoolChanged(CPU.name, replace(CPU, version=7))])
    assert after.waiting is snap.waiting
    assert after.pools[CPU.name].version == 7
    assert [found.version for found in after.routes[after.places[JobId("a")].lane]] == [7]


def test_a_new_pool_changes_where_jobs_may_go() -> None:
    snap = snapshot(GPU, queue(), job("a"))
    assert [found.name for found in snap.routes[snap.places[JobId("a")].lane]] == ["gpu"]
    after = snap.evolve([PoolChanged(CPU.name, CPU)])
    assert [found.name for found in after.routes[after.places[JobId("a")].lane]] == ["cpu", "gpu"]


def test_lanes_are_of_all_tenants_until_a_pool_is_ones_own() -> None:
    one, two = job("a", tenant="t1"), job("b", tenant="t2")
    snap = snapshot(CPU, queue(), one, two)
    assert snap.places[one.id].lane is snap.places[two.id].lane
    split = snap.evolve([PoolChanged(SSD.name, pool("ssd", cpu=1, memory_gib=4, tenant="t1"))])
    assert split.places[one.id].lane is not split.places[two.id].lane
    assert [found.name for found in split.routes[split.places[one.id].lane]] == ["cpu", "ssd"]
    assert [found.name for found in split.routes[split.places[two.id].lane]] == ["cpu"]


def test_the_sum_of_times_of_submission_follows_those_who_wait() -> None:
    snap = snapshot(CPU, queue(), job("a", submitted_at=5), job("b", submitted_at=7))
    line = (QueueName("mobility"), "fair")
    assert snap.waitlist(line).submitted == 12
    assert snap.evolve([gone(job("a", submitted_at=5))]).waitlist(line).submitted == 7
    assert snap.waitlist((QueueName("else"), "fair")).submitted == 0


def test_a_line_in_which_nobody_waits_is_not_kept() -> None:
    row = job("a")
    assert len(snapshot(CPU, queue(), row).evolve([gone(row)]).waiting) == 0


# -- rows and nodes ----------------------------------------------------------------------------------------------------


def test_rows_come_back_each_kind_by_id() -> None:
    things: list[Pool | Node | Queue | Job] = [
        SSD, CPU, queue("b"), queue("a"), node("n2"), node("n1"), job("y"), job("x")
    ]  # fmt: skip
    found = snapshot(*things).rows()
    assert [row.name for row in found.pools] == ["cpu", "ssd"]
    assert [row.name for row in found.queues] == ["a", "b"]
    assert [row.id for row in found.nodes] == ["n1", "n2"]
    assert [row.id for row in found.jobs] == ["x", "y"]


def test_a_fleet_follows_what_is_held_and_what_the_node_reports() -> None:
    row = on("a", "n1", cpu=3)
    snap = snapshot(CPU, queue(), node("n1", cpu=8), row)
    grown = snap.evolve([NodeChanged(node("n1").id, node("n1", cpu=16))])
    assert grown.fleet(CPU.name).offered.cpu_milli == 13_000
    lost = grown.evolve([NodeChanged(node("n1").id, node("n1", cpu=16, state=NodeState.LOST)), gone(row)])
    assert lost.fleet(CPU.name).offered.cpu_milli == 0
    assert lost.fleet(CPU.name).count(NodeState.LOST) == 1
    back = lost.evolve([NodeChanged(node("n1").id, node("n1", cpu=16))])
    assert back.fleet(CPU.name).offered.cpu_milli == 16_000
    assert len(back.evolve([NodeChanged(node("n1").id, None)]).fleets) == 0
    assert snap.fleet(SSD.name).nodes == ()


def test_the_chain_of_a_queue_goes_up_to_the_root() -> None:
    snap = snapshot(queue("a", parent="b"), queue("b", parent="c"), queue("c"), queue("d", parent="gone"))
    assert [row.name for row in snap.chain(QueueName("a"))] == ["a", "b", "c"]
    assert [row.name for row in snap.chain(QueueName("d"))] == ["d"]
    assert snap.chain(QueueName("gone")) == ()
