"""Whatever the factory looks like, a plan keeps these promises; each is checked by plain sums over the rows."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from factory.domain.jobs import Job, JobState, WaitReason
from factory.domain.pools import Isolation, NodeState
from factory.domain.tenancy import Queue
from factory.scheduling.explaining import explain
from factory.scheduling.planning import Admit, Plan, Policy, plan
from factory.scheduling.snapshot import Rows, Snapshot
from factory.testing.builders import job, node, pool, queue, snapshot
from tests.properties.scheduling.scheduling_worlds import LIVE, NOW, Applied, admitted, after, changes, worlds

POLICY = Policy()
RELAXED = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def history(data: st.DataObject) -> tuple[Rows, Plan]:
    """A factory with a past, and the plan for its present."""
    rows = data.draw(worlds())
    for _ in range(data.draw(st.integers(0, 2))):
        rows = admitted(rows, plan(Snapshot.build(rows), POLICY, NOW), data.draw(st.sampled_from(LIVE))).rows
        rows = after(rows, data.draw(changes(rows)))
    return rows, plan(Snapshot.build(rows), POLICY, NOW)


@RELAXED
@given(st.data())
def test_no_node_gets_more_than_it_has_nor_anything_while_it_is_not_ready(data: st.DataObject) -> None:
    rows, made = history(data)
    nodes = {row.id: row for row in rows.nodes}
    cpu, memory, gpu = Counter[str](), Counter[str](), Counter[str]()
    for row in admitted(rows, made).rows.jobs:
        for placement in row.live_attempt.allocation.placements if row.live_attempt else ():
            cpu[placement.node] += placement.resources.cpu_milli
            memory[placement.node] += placement.resources.memory_bytes
            gpu[placement.node] += placement.resources.gpu_milli
    for decision in made.decisions:
        assert isinstance(decision, Admit)
        for placement in decision.allocation.placements:
            row = nodes[placement.node]
            assert row.state is NodeState.READY
            assert row.pool == decision.allocation.pool
            asked = placement.resources
            assert not asked.cpu_milli or cpu[row.id] <= row.capacity.cpu_milli
            assert not asked.memory_bytes or memory[row.id] <= row.capacity.memory_bytes
            assert not asked.gpu_milli or gpu[row.id] <= row.capacity.gpu_milli


@RELAXED
@given(st.data())
def test_no_device_is_given_twice_and_every_replica_gets_the_gpus_it_asked_for(data: st.DataObject) -> None:
    rows, made = history(data)
    nodes = {row.id: row for row in rows.nodes}
    given_out = Counter[tuple[str, int]]()
    for row in admitted(rows, made).rows.jobs:
        for placement in row.live_attempt.allocation.placements if row.live_attempt else ():
            for share in placement.devices:
                given_out[placement.node, share.index] += share.milli
    for decision in made.decisions:
        assert isinstance(decision, Admit)
        for placement in decision.allocation.placements:
            assert sum(share.milli for share in placement.devices) == placement.resources.gpu_milli
            if placement.resources.gpu_milli < 1000:
                assert len(placement.devices) <= 1  # a share is of one physical device
            for share in placement.devices:
                assert 0 <= share.index < nodes[placement.node].devices
                assert given_out[placement.node, share.index] <= 1000


@RELAXED
@given(st.data())
def test_no_admission_exceeds_a_quota_of_its_queue_or_of_one_above(data: st.DataObject) -> None:
    rows, made = history(data)
    lines = {row.name: row for row in rows.queues}
    held = Counter[tuple[str, str]]()
    for row in admitted(rows, made).rows.jobs:
        if row.live_attempt is not None:
            for name in ancestry(lines, row.spec.queue):
                held[name, row.live_attempt.allocation.pool] += row.live_attempt.allocation.slots_milli
    jobs = {row.id: row for row in rows.jobs}
    for decision in made.decisions:
        assert isinstance(decision, Admit)
        for name in ancestry(lines, jobs[decision.job_id].spec.queue):
            for quota in lines[name].quotas:
                if quota.pool == decision.allocation.pool and quota.borrowing_milli is not None:
                    assert held[name, quota.pool] <= quota.nominal_milli + quota.borrowing_milli


def ancestry(lines: dict[str, Queue], name: str) -> list[str]:
    found: list[str] = []
    current: str | None = name
    while current in lines and current not in found:
        found.append(current)
        current = lines[current].parent
    return found


@RELAXED
@given(st.data())
def test_gangs_start_whole_and_only_jobs_that_are_due_start(data: st.DataObject) -> None:
    rows, made = history(data)
    jobs = {row.id: row for row in rows.jobs}
    pools = {row.name: row for row in rows.pools}
    assert len({d.job_id for d in made.decisions}) == len(made.decisions)
    for decision in made.decisions:
        assert isinstance(decision, Admit)
        row, where = jobs[decision.job_id], pools[decision.allocation.pool]
        assert row.state is JobState.QUEUED
        assert row.live_attempt is None
        assert (row.not_before or 0) <= NOW
        assert row.spec.pool in (None, where.name)
        assert where.isolation is Isolation.SHARED or where.tenant == row.tenant
        assert decision.runner == where.runner
        assert [p.rank for p in decision.allocation.placements] == list(range(row.spec.replicas))
        assert all(p.resources == row.spec.resources for p in decision.allocation.placements)


@RELAXED
@given(st.data())
def test_the_order_of_the_rows_does_not_matter(data: st.DataObject) -> None:
    rows, made = history(data)
    shuffled = Rows(
        *(
            tuple(data.draw(st.permutations(part)))
            for part in (rows.pools, rows.nodes, rows.queues, rows.jobs, rows.runners)
        )
    )
    assert plan(Snapshot.build(shuffled), POLICY, NOW) == made


@RELAXED
@given(st.data())
def test_evolving_gives_what_building_gives_and_leaves_the_old_snapshots_alone(data: st.DataObject) -> None:
    rows = data.draw(worlds())
    snap = Snapshot.build(rows)
    past: list[tuple[Snapshot, Rows, Plan]] = []
    for _ in range(data.draw(st.integers(1, 4))):
        made = plan(snap, POLICY, NOW)
        past.append((snap, rows, made))
        step: Applied = admitted(rows, made, data.draw(st.sampled_from(LIVE)))
        happened = [*step.changes, *data.draw(changes(step.rows))]
        rows, snap = after(rows, happened), snap.evolve(happened)
        fresh = Snapshot.build(rows)
        assert plan(snap, POLICY, NOW) == plan(fresh, POLICY, NOW)
        assert indices(snap) == indices(fresh)
    for then, rows_then, made_then in past:
        assert plan(then, POLICY, NOW) == made_then
        assert indices(then) == indices(Snapshot.build(rows_then))


def indices(snap: Snapshot) -> tuple[object, ...]:
    """Everything that a snapshot derives, in comparable form."""
    return (
        snap.rows(),
        dict(snap.holdings.items()),
        {name: (list(i.loads.items()), dict(i.shapes), i.free) for name, i in snap.indices.items()},
        dict(snap.used.items()),
        dict(snap.tree_used.items()),
        {at: list(jobs.items()) for at, jobs in snap.holders.items()},
        {
            name: ({lane: list(order.items()) for lane, order in w.lanes.items()}, w.length)
            for name, w in snap.waiting.items()
        },
    )


@RELAXED
@given(st.data())
def test_every_queued_job_that_was_not_admitted_has_a_reason(data: st.DataObject) -> None:
    rows, made = history(data)
    came_true = Snapshot.build(admitted(rows, made).rows)
    tried = dict(made.waiting)
    for row in came_true.rows().jobs:
        told = explain(came_true, row.id, NOW)
        assert told.state is row.state
        if row.state is JobState.QUEUED:
            assert told.waiting is not None
            assert told.waiting.message
            assert told.position is not None
            assert 1 <= told.position <= told.queue_length
            if row.id in tried:  # what the plan said of it still holds once the plan came true
                assert told.waiting.reason is tried[row.id].reason
            if (row.not_before or 0) <= NOW:  # nothing that could start was left lying
                assert told.waiting.reason is not WaitReason.PENDING_EVALUATION
        else:
            assert told.waiting is None


@RELAXED
@given(
    sizes=st.lists(st.integers(1, 4), max_size=15),
    capacities=st.lists(st.integers(1, 6), min_size=1, max_size=4),
)
def test_one_queue_of_small_jobs_is_served_first_come_first_served_until_no_node_has_room(
    sizes: list[int], capacities: list[int]
) -> None:
    jobs: list[Job] = [job(f"job-{i:02}", cpu=size, submitted_at=i) for i, size in enumerate(sizes)]
    nodes = [node(f"n{i}", cpu=cpu) for i, cpu in enumerate(capacities)]
    made = plan(snapshot(pool(), queue(), *nodes, *jobs), POLICY, NOW)
    possible = [row for row in jobs if row.spec.resources.cpu_milli <= max(capacities) * 1000]
    started = [d.job_id for d in made.decisions]
    assert started == [row.id for row in possible[: len(started)]]  # in order, without a gap
    left = Counter({row.id: row.capacity.cpu_milli for row in nodes})
    for decision in made.decisions:
        assert isinstance(decision, Admit)
        for placement in decision.allocation.placements:
            left[placement.node] -= placement.resources.cpu_milli
    if len(started) < len(possible):
        assert all(room < possible[len(started)].spec.resources.cpu_milli for room in left.values())


@RELAXED
@given(st.data(), st.integers(0, 4))
def test_a_plan_that_is_cut_short_is_a_prefix_of_the_whole_plan(data: st.DataObject, most: int) -> None:
    rows, made = history(data)
    cut = plan(Snapshot.build(rows), replace(POLICY, max_decisions=most), NOW)
    assert cut.decisions == made.decisions[:most]
