"""Whatever the factory looks like, a plan keeps these promises; each is checked by plain sums over the rows."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from factory.domain.jobs import AttemptState, Job, JobState, WaitReason
from factory.scheduling.changes import JobChanged, Rows
from factory.scheduling.explaining import explain
from factory.scheduling.planning import Admit, Plan, Policy, Preempt, plan
from factory.scheduling.snapshot import Snapshot
from factory.testing.builders import job, node, pool, queue, snapshot
from factory.testing.plan_checks import Books
from tests.properties.scheduling.scheduling_worlds import LIVE, NOW, Applied, admitted, after, changes, worlds

POLICY = Policy()
RELAXED = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def history(data: st.DataObject) -> tuple[Rows, Plan]:
    """A factory with a past, and the plan for its present."""
    rows = data.draw(worlds())
    for _ in range(data.draw(st.integers(0, 3))):
        rows = admitted(rows, plan(Snapshot.build(rows), POLICY, NOW), data.draw(st.sampled_from(LIVE))).rows
        rows = after(rows, data.draw(changes(rows)))
    return rows, plan(Snapshot.build(rows), POLICY, NOW)


@RELAXED
@given(st.data())
def test_a_plan_breaks_no_promise(data: st.DataObject) -> None:
    """No node, device or quota is given twice, gangs are whole, places allowed, preemptions legal and of use."""
    rows, made = history(data)
    assert Books(rows).faults(made, NOW) == []


@RELAXED
@given(st.data())
def test_the_order_of_the_rows_does_not_matter(data: st.DataObject) -> None:
    rows, made = history(data)
    shuffled = replace(
        rows,
        pools=tuple(data.draw(st.permutations(rows.pools))),
        nodes=tuple(data.draw(st.permutations(rows.nodes))),
        queues=tuple(data.draw(st.permutations(rows.queues))),
        jobs=tuple(data.draw(st.permutations(rows.jobs))),
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
        assert differing(indices(snap), indices(fresh)) == []
        assert plan(snap, POLICY, NOW) == plan(fresh, POLICY, NOW)
        assert differing(indices(Snapshot.build(snap.rows())), indices(snap)) == []
    for then, rows_then, made_then in past:
        assert plan(then, POLICY, NOW) == made_then
        assert differing(indices(then), indices(Snapshot.build(rows_then))) == []


def differing(one: dict[str, object], other: dict[str, object]) -> list[tuple[str, object, object]]:
    return [(name, value, other[name]) for name, value in one.items() if value != other[name]]


def indices(snap: Snapshot) -> dict[str, object]:
    """Everything that a snapshot derives, in comparable form."""
    return {
        "rows": snap.rows(),
        "holdings": dict(snap.holdings.items()),
        "fleets": {
            name: (
                fleet.nodes,
                [fleet.free.cpu.tolist(), fleet.free.memory.tolist(), fleet.free.gpu.tolist()],
                [row[: fleet.sizes[at]].tolist() for at, row in enumerate(fleet.free.devices)],
                fleet.ready.tolist(),
                dict(fleet.kinds),
            )
            for name, fleet in snap.fleets.items()
        },
        "used": dict(snap.used.items()),
        "tree": dict(snap.tree_used.items()),
        "holders": {at: list(jobs.items()) for at, jobs in snap.holders.items()},
        "waiting": {
            line: (
                list(waitlist.order.items()),
                {lane: list(jobs.items()) for alike in waitlist.lanes.values() for lane, jobs in alike.items()},
            )
            for line, waitlist in snap.waiting.items()
        },
        "places": dict(snap.places.items()),
        "gangs": dict(snap.gangs.items()),
        "ends": {name: list(ends.items()) for name, ends in snap.ends.items()},
        "stopping": sorted(snap.stopping),
        "claims": dict(snap.claims.items()),
        "shapes": dict(snap.shapes.items()),
        "runs": dict(snap.runs.items()),
        "members": {kind: sorted(ids) for kind, ids in snap.members.items()},
        "spent": dict(snap.spent.items()),
        "tree spent": dict(snap.tree_spent.items()),
        "tree slots": dict(snap.tree_slots.items()),
    }


@RELAXED
@given(st.data())
def test_every_queued_job_that_was_not_admitted_has_a_reason(data: st.DataObject) -> None:
    rows, made = history(data)
    came_true = Snapshot.build(admitted(rows, made).rows)
    for row in came_true.rows().jobs:
        told = explain(came_true, row.id, NOW)
        assert told.state is row.state
        if row.state is JobState.QUEUED and row.live_attempt is None:
            assert told.waiting is not None
            assert told.waiting.message
            assert told.position is not None
            assert 1 <= told.position <= told.queue_length
        elif row.state is not JobState.QUEUED:
            assert told.waiting is None


@RELAXED
@given(st.data())
def test_nothing_that_could_start_is_left_lying(data: st.DataObject) -> None:
    """Once the plan came true, the next one starts nobody: work-conserving up to reservations."""
    rows, made = history(data)
    came_true = admitted(rows, made, at=NOW).rows
    again = plan(Snapshot.build(came_true), POLICY, NOW)
    assert [d for d in again.decisions if isinstance(d, Admit)] == []


@RELAXED
@given(st.data())
def test_no_victim_could_have_been_spared(data: st.DataObject) -> None:
    rows, made = history(data)
    victims: dict[str, list[str]] = {}
    for decision in made.decisions:
        if isinstance(decision, Preempt):
            victims.setdefault(decision.for_job, []).append(decision.job_id)
    came_true = admitted(rows, made).rows
    for preemptor, gone in victims.items():
        for spared in gone:
            left = [
                _ended(row) if row.id in gone and row.id != spared else row
                for row in came_true.jobs
                if row.id == preemptor or row.live_attempt is not None
            ]
            pool_of = next(row for row in came_true.jobs if row.id == spared).attempts[-1].allocation.pool
            only = replace(came_true, jobs=tuple(left), pools=tuple(p for p in rows.pools if p.name == pool_of))
            started = [d.job_id for d in plan(Snapshot.build(only), POLICY, NOW).decisions if isinstance(d, Admit)]
            assert preemptor not in started


def _ended(row: Job) -> Job:
    last = replace(row.attempts[-1], state=AttemptState.ENDED, ended_at=NOW)
    return replace(row, state=JobState.SUSPENDED, attempts=(*row.attempts[:-1], last))


@RELAXED
@given(st.data())
def test_a_queue_that_nobody_changes_comes_to_rest(data: st.DataObject) -> None:
    """Preemption is stable: victims that are queued again do not take their slots back."""
    rows = data.draw(worlds())
    snap = Snapshot.build(rows)
    for _ in range(40):
        made = plan(snap, replace(POLICY, max_preemptions=1000), NOW)
        if not made.decisions:
            return
        step = admitted(rows, made)
        rows, snap = step.rows, snap.evolve(step.changes)
        stopped = [row for row in rows.jobs if row.live_attempt is not None and row.live_attempt.stop is not None]
        dead = [JobChanged(row.id, replace(_ended(row), state=JobState.QUEUED)) for row in stopped]
        rows, snap = after(rows, dead), snap.evolve(dead)
    raise AssertionError("40 plans and still no rest")


@RELAXED
@given(
    sizes=st.lists(st.integers(1, 4), max_size=15),
    capacities=st.lists(st.integers(1, 6), min_size=1, max_size=4),
)
def test_one_queue_is_served_in_order_and_who_goes_past_the_head_leaves_it_its_room(
    sizes: list[int], capacities: list[int]
) -> None:
    jobs: list[Job] = [job(f"job-{i:02}", cpu=size, submitted_at=i) for i, size in enumerate(sizes)]
    nodes = [node(f"n{i}", cpu=cpu) for i, cpu in enumerate(capacities)]
    made = plan(snapshot(pool(), queue(), *nodes, *jobs), POLICY, NOW)
    possible = [row for row in jobs if row.spec.resources.cpu_milli <= max(capacities) * 1000]
    started = [d.job_id for d in made.decisions]
    blocked = next((at for at, row in enumerate(possible) if row.id not in started), len(possible))
    assert started[:blocked] == [row.id for row in possible[:blocked]]  # in order, up to the first without room
    left = Counter({row.id: row.capacity.cpu_milli for row in nodes})
    past = Counter[str]()
    for decision in made.decisions:
        assert isinstance(decision, Admit)
        for placement in decision.allocation.placements:
            left[placement.node] -= placement.resources.cpu_milli
            if decision.job_id in {row.id for row in possible[blocked:]}:
                past[placement.node] += placement.resources.cpu_milli
    if blocked < len(possible):
        needed = possible[blocked].spec.resources.cpu_milli
        assert all(room < needed for room in left.values())
        assert any(row.capacity.cpu_milli - past[row.id] >= needed for row in nodes)  # room is kept somewhere


@RELAXED
@given(st.data(), st.integers(0, 4))
def test_a_plan_that_is_cut_short_is_a_prefix_of_the_whole_plan(data: st.DataObject, most: int) -> None:
    rows, made = history(data)
    cut = plan(Snapshot.build(rows), replace(POLICY, max_decisions=most), NOW)
    assert cut.decisions == made.decisions[: len(cut.decisions)]


@RELAXED
@given(st.data())
def test_what_the_plan_says_of_a_job_is_among_what_it_is_told(data: st.DataObject) -> None:
    """Pools refuse for reasons of their own; where there is one pool, both must tell the same."""
    rows, _ = history(data)
    rows = replace(rows, pools=rows.pools[:1])
    snap = Snapshot.build(rows)
    kinder = {WaitReason.BORROWING_LIMIT_REACHED: WaitReason.WAITING_FOR_QUOTA}
    for id, reason in plan(snap, POLICY, NOW).waiting:
        told = explain(snap, id, NOW).waiting
        assert told is not None
        if told.reason not in (WaitReason.HELD_BY_RESERVATION, WaitReason.EXCEEDS_MAX_QUOTA):
            assert kinder.get(told.reason, told.reason) is reason
