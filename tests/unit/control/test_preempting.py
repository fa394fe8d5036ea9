"""The loop and the kernel together: who makes room, for whom, when time alone decides, and what history teaches."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from factory.control.desired import desired_state
from factory.control.dispatching import dispatch
from factory.control.ledger import Refusal
from factory.control.view import View, build, catch_up, since_at
from factory.domain.events import AttemptRunning, PreemptRequested
from factory.domain.ids import JobId, RunnerId
from factory.domain.jobs import EndReason, JobState, Outcome, WaitReason
from factory.domain.tenancy import PLATFORM
from factory.scheduling.explaining import explain
from factory.scheduling.planning import Plan, Policy, plan
from factory.testing import builders
from tests.unit.control.factory_floor import START, Floor, said

PREEMPTED = Outcome(EndReason.PREEMPTED)


def shared_floor(cpu: int = 4) -> Floor:
    """Two departments with half of the pool each; the whole is lent."""
    return Floor(
        builders.pool(),
        builders.node("n1", cpu=cpu),
        builders.queue(quota={"cpu": cpu / 2}, borrowing=cpu / 2),
        builders.queue("water", tenant="water", quota={"cpu": cpu / 2}, borrowing=cpu / 2),
        builders.runner(seen_at=START),
    )


def runs(floor: Floor, id: str) -> None:
    floor.happen(id, AttemptRunning(floor.clock.at, floor.attempt(id).id, ""))


def seen(floor: Floor) -> Any:
    snapshot = floor.loop.snapshot
    assert snapshot is not None
    return snapshot


def test_what_was_lent_comes_back_when_the_borrower_has_run_its_minimum_although_nothing_else_happens() -> None:
    floor = shared_floor()
    floor.loop = floor.another_loop("a", policy=Policy(min_runtime_s=60), runner_silence_s=10_000)
    for n in range(4):
        floor.submit(f"job-a{n}")
    assert len(floor.tick().admitted) == 4
    for n in range(4):
        runs(floor, f"job-a{n}")
    floor.submit("job-w", spec=builders.spec("w", cpu=2, queue="water"))
    early = floor.tick(1)
    assert early.preempted == ()
    assert early.wake_at <= floor.clock.at + 60_000
    due, result = START + 60_000, early
    while floor.clock.at < due:
        result = floor.tick(max(1, result.wake_at - floor.clock.at) / 1000)
    assert floor.clock.at == due, "the loop asks to be woken at that very instant"
    assert len(result.preempted) == 2


def test_freed_slots_are_the_preemptors_and_nobody_elses() -> None:
    floor = shared_floor()
    floor.loop = floor.another_loop("a", policy=Policy(min_runtime_s=0))
    for n in range(4):
        floor.submit(f"job-a{n}")
    floor.tick()
    for n in range(4):
        runs(floor, f"job-a{n}")
    floor.submit("job-w", spec=builders.spec("w", cpu=2, queue="water"))
    first, second = floor.tick(1).preempted
    stop = floor.attempt(first).stop
    assert stop is not None
    assert (stop.reason, stop.by) == (EndReason.PREEMPTED, "job-w")
    assert explain(seen(floor), JobId("job-w"), floor.clock.at).waiting.reason is WaitReason.WAITING_FOR_PREEMPTION  # pyright: ignore[reportOptionalMemberAccess]
    floor.submit("job-small", spec=builders.spec("s", cpu=1, queue="water"))
    floor.report(said(floor.attempt(first).id, "ended", outcome=PREEMPTED))
    assert floor.tick(1).admitted == (), "one slot is free, and kept"
    assert (floor.job(first).state, floor.job(first).retries) == (JobState.QUEUED, 0)
    floor.report(said(floor.attempt(second).id, "ended", outcome=PREEMPTED))
    assert floor.tick(1).admitted == ("job-w",)
    for _ in range(5):
        again = floor.tick(30)
        assert (again.admitted, again.preempted) == ((), ()), "no ping-pong"


def test_an_attempt_is_asked_to_stop_once() -> None:
    floor = shared_floor()
    floor.loop = floor.another_loop("a", policy=Policy(min_runtime_s=0))
    for n in range(4):
        floor.submit(f"job-a{n}")
    floor.tick()
    for n in range(4):
        runs(floor, f"job-a{n}")
    floor.submit("job-w", spec=builders.spec("w", cpu=2, queue="water"))
    victims = floor.tick(1).preempted
    for _ in range(3):
        assert floor.tick(10).preempted == ()
    for id in victims:
        events = floor.store.read(lambda reader, id=id: reader.events(PLATFORM, id))
        assert sum(isinstance(entry.event, PreemptRequested) for entry in events) == 1


def planned_preemption() -> tuple[Floor, View, Plan]:
    """A plan that stops two jobs for one, not yet applied."""
    floor = shared_floor()
    for n in range(4):
        floor.submit(f"job-a{n}")
    floor.tick()
    for n in range(4):
        runs(floor, f"job-a{n}")
    floor.submit("job-w", spec=builders.spec("w", cpu=2, queue="water"))
    view = floor.store.read(lambda reader: build(reader, floor.clock.at))
    return floor, view, plan(view.snapshot, Policy(min_runtime_s=0), floor.clock.at)


def test_nobody_is_stopped_for_a_job_that_was_cancelled_meanwhile() -> None:
    floor, view, found = planned_preemption()
    floor.cancel("job-w")
    done = floor.write(lambda tx: dispatch(tx, view, found.decisions, epoch=1, now=floor.clock.at))
    assert (len(done.refused), done.preempted) == (2, ())
    assert all(floor.attempt(id).stop is None for id, _ in done.refused)


def test_nobody_is_stopped_if_one_of_those_who_had_to_go_changed_meanwhile() -> None:
    floor, view, found = planned_preemption()
    first = found.decisions[0].job_id
    floor.cancel(first)
    done = floor.write(lambda tx: dispatch(tx, view, found.decisions, epoch=1, now=floor.clock.at))
    assert ({reason for _, reason in done.refused}, done.preempted) == ({Refusal.STALE}, ())


def test_both_are_stopped_if_all_is_as_it_was() -> None:
    floor, view, found = planned_preemption()
    done = floor.write(lambda tx: dispatch(tx, view, found.decisions, epoch=1, now=floor.clock.at))
    assert len(done.preempted) == 2


def test_a_victim_that_is_cancelled_while_it_waits_takes_its_claim_along() -> None:
    floor = shared_floor()
    floor.loop = floor.another_loop("a", policy=Policy(min_runtime_s=0))
    for n in range(4):
        floor.submit(f"job-a{n}")
    floor.tick()
    for n in range(4):
        runs(floor, f"job-a{n}")
    floor.submit("job-w", spec=builders.spec("w", cpu=2, queue="water"))
    first, second = floor.tick(1).preempted
    floor.report(said(floor.attempt(first).id, "ended", outcome=PREEMPTED))
    floor.tick(1)
    floor.cancel(first)
    assert floor.tick(1).admitted == ()
    floor.report(said(floor.attempt(second).id, "ended", outcome=PREEMPTED))
    assert floor.tick(1).admitted == ("job-w",)


def test_a_gang_starts_with_fewer_replicas_and_all_that_follows_counts_those() -> None:
    floor = Floor()
    floor.submit("job-a", spec=replace(builders.spec("a", replicas=3), min_replicas=1))
    assert floor.tick().admitted == ("job-a",)
    held = floor.attempt("job-a").allocation
    assert (len(held.placements), held.slots_milli) == (2, 2000)
    wish = floor.store.read(lambda reader: desired_state(reader, RunnerId("runner-1"), warm_per_node=0))
    assert [p.rank for p in wish.attempts[0].allocation.placements] == [0, 1]
    floor.report(said("job-a.1", "ended"))
    assert floor.job("job-a").state is JobState.SUCCEEDED


def test_while_jobs_wait_a_plan_is_made_now_and_then_although_nothing_changes() -> None:
    floor = Floor()
    at: list[int] = []

    def noting(snapshot: Any, policy: Any, now: int) -> Plan:
        at.append(now - START)
        return plan(snapshot, policy, now)

    floor.loop._plan = noting
    floor.submit("job-a", cpu=2)
    floor.submit("job-b", cpu=2)
    for _ in range(30):
        floor.tick(1)
    assert at == [1000, 2000, 9000, 16_000, 23_000, 30_000]


def test_a_new_leader_knows_what_the_last_one_learned_and_who_used_how_much() -> None:
    floor = shared_floor()
    for n in range(4):
        floor.submit(f"job-{n}", spec=builders.spec("same", cpu=1))
        floor.tick(1)
        runs(floor, f"job-{n}")
        floor.clock.at += 40_000
        floor.report(said(f"job-{n}.1", "ended"))
    floor.tick()
    fresh = floor.store.read(lambda reader: build(reader, floor.clock.at)).snapshot
    known = seen(floor)
    assert dict(fresh.spent.items()) == dict(known.spent.items()) != {}
    assert dict(fresh.runs.items()) == dict(known.runs.items())
    assert [times.typical_ms for times in fresh.runs.values()] == [40_960]
    assert fresh.rows() == known.rows()


def test_a_job_that_lived_between_two_looks_counts_as_for_who_looked_all_the_time() -> None:
    floor = shared_floor()
    follower = floor.store.read(lambda reader: build(reader, floor.clock.at))
    floor.submit("job-a")
    floor.tick()
    runs(floor, "job-a")
    floor.clock.at += 90_000
    floor.report(said("job-a.1", "ended"))
    floor.tick()
    later, _ = floor.store.read(lambda reader: catch_up(reader, follower))
    assert dict(later.snapshot.spent.items()) == dict(seen(floor).spent.items()) != {}
    again, changed = floor.store.read(lambda reader: catch_up(reader, later))
    assert changed.is_empty
    assert again.snapshot.rows() == seen(floor).rows()


def test_all_count_usage_from_the_same_instant_however_long_they_have_been_up() -> None:
    floor = shared_floor()
    floor.submit("job-a")
    floor.tick()
    assert seen(floor).since == 0
    floor.clock.at += 80 * 4 * 3600 * 1000  # eighty half-lives
    floor.tick()
    fresh = floor.store.read(lambda reader: build(reader, floor.clock.at)).snapshot
    assert seen(floor).since == fresh.since == since_at(floor.clock.at) > 0
    assert dict(seen(floor).spent.items()) == dict(fresh.spent.items())
