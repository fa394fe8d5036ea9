"""What a tick does: leads, lets time act, holds and lets go, admits what still fits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from factory.control.ledger import Refusal
from factory.domain.datasets import VersionState
from factory.domain.events import AttemptRunning, Queued
from factory.domain.ids import DatasetName, JobId, VersionId
from factory.domain.jobs import (
    AttemptState,
    DatasetInput,
    EndReason,
    JobState,
    Outcome,
    Purpose,
    Waiting,
    WaitReason,
)
from factory.domain.pools import NodeState
from factory.domain.tenancy import PLATFORM
from factory.errors import FencedError, StaleWriteError
from factory.scheduling.planning import Plan, plan
from factory.testing import builders
from tests.unit.control.factory_floor import START, Floor, node_report, said

WAITS = Waiting(WaitReason.DEPENDENCY_PENDING, "not yet judged")


def reading(purpose: Purpose = Purpose.TRAIN) -> Any:
    read = DatasetInput("flow", DatasetName("flow"), 1, VersionId("dsv-1"), purpose)
    return replace(builders.spec("a"), inputs=(read,))


def test_a_queued_job_that_fits_is_admitted() -> None:
    floor = Floor()
    floor.submit("job-a")
    result = floor.tick()
    assert result.admitted == ("job-a",)
    assert floor.job("job-a").state is JobState.ADMITTED


def test_what_does_not_fit_waits_until_proof_of_death_frees_the_slots() -> None:
    floor = Floor()
    floor.submit("job-a", cpu=2)
    floor.submit("job-b", cpu=2)
    floor.tick()
    floor.cancel("job-a")
    assert floor.tick().admitted == ()
    floor.report(said("job-a.1", "ended"))
    assert floor.tick().admitted == ("job-b",)


def test_nothing_new_costs_no_plan() -> None:
    floor = Floor()
    seen: list[object] = []

    def counting(snapshot: Any, policy: Any, now: int) -> Plan:
        seen.append(snapshot)
        return plan(snapshot, policy, now)

    floor.loop._plan = counting
    floor.submit("job-a")
    for _ in range(5):
        floor.tick()
    assert len(seen) == 2  # the job, and the loop's own admission of it


def test_one_leads_and_the_other_follows_until_the_lease_ends() -> None:
    floor = Floor()
    other = floor.another_loop("b")
    assert floor.tick().leading
    assert not other.tick(floor.clock.at).leading
    floor.clock.at += 16_000
    taken = other.tick(floor.clock.at)
    assert (taken.leading, taken.epoch) == (True, 2)
    assert not floor.tick().leading


def test_a_leader_that_lost_its_lease_unnoticed_writes_nothing() -> None:
    floor = Floor()
    other = floor.another_loop("b")
    floor.tick()
    floor.submit("job-a")
    floor.clock.at += 2_000
    # the lease ends for the store while this loop still takes it for fresh
    floor.write(lambda tx: tx.release_lease("a"))
    other.tick(floor.clock.at)
    floor.submit("job-b")
    result = floor.tick()
    assert (result.leading, result.fenced, result.admitted) == (False, True, ())
    assert floor.job("job-b").state is JobState.QUEUED


def test_a_leader_proven_dead_is_followed_at_once() -> None:
    floor = Floor()
    floor.tick()
    heir = floor.another_loop("b")
    heir._proven_dead = True
    assert heir.tick(floor.clock.at).epoch == 2


def test_a_released_lease_is_free_at_once() -> None:
    floor = Floor()
    floor.tick()
    floor.loop.release()
    assert floor.another_loop("b").tick(floor.clock.at).leading


def test_a_job_follows_its_dependency_and_falls_with_it() -> None:
    floor = Floor()
    floor.submit("job-a")
    floor.submit("job-b", after=("job-a",), hold=WAITS)
    floor.submit("job-c", after=("job-b",), hold=WAITS)
    floor.tick()
    held = floor.job("job-b").hold
    assert held is not None
    assert "job-a" in held.message
    floor.report(said("job-a.1", "ended"))
    floor.tick()
    assert floor.job("job-b").state is JobState.ADMITTED
    floor.cancel("job-b")
    floor.report(said("job-b.1", "ended"))
    floor.tick()
    lost = floor.job("job-c")
    assert lost.state is JobState.CANCELLED
    assert lost.outcome is not None
    assert "job-b" in lost.outcome.message
    assert floor.ended == ["job-a", "job-b", "job-c"]


def test_an_input_holds_the_job_until_its_verdict_and_a_failed_gate_goes_on_holding_it() -> None:
    floor = Floor()
    floor.version("dsv-1", VersionState.STAGED)
    floor.submit("job-a", spec=reading(), hold=WAITS)
    floor.submit("job-b", spec=reading(Purpose.REPAIR), hold=WAITS)
    floor.tick()
    assert floor.job("job-a").state is JobState.PENDING
    floor.version("dsv-1", VersionState.QUARANTINED)
    floor.tick()
    held = floor.job("job-a").hold
    assert held is not None
    assert held.reason is WaitReason.DATASET_GATE_FAILED
    assert floor.job("job-b").state is JobState.ADMITTED  # repair is what a quarantined version is for
    floor.version("dsv-1", VersionState.PUBLISHED)
    floor.tick()
    assert floor.job("job-a").state is JobState.ADMITTED


def test_a_gate_that_shut_after_the_job_was_queued_is_read_again_at_admission() -> None:
    floor = Floor()
    floor.version("dsv-1", VersionState.QUARANTINED)
    floor.submit("job-a", spec=reading())
    result = floor.tick()
    assert result.refused == (("job-a", Refusal.GATE),)
    assert floor.job("job-a").state is JobState.PENDING


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ({"state": NodeState.DRAINING}, Refusal.NODE),
        ({"capacity": builders.resources(cpu=0.5, memory_gib=64)}, Refusal.CAPACITY),
    ],
)
def test_what_changed_between_plan_and_commit_is_seen_in_the_transaction(
    change: dict[str, Any], refusal: Refusal
) -> None:
    floor = Floor()
    floor.submit("job-a")

    def slow(snapshot: Any, policy: Any, now: int) -> Plan:
        found = plan(snapshot, policy, now)
        floor.change_node(**change)
        floor.loop._plan = plan
        return found

    floor.loop._plan = slow
    assert floor.tick().refused == (("job-a", refusal),)
    assert floor.job("job-a").state is JobState.QUEUED


def test_a_quota_that_was_cut_between_plan_and_commit_is_kept() -> None:
    floor = Floor(
        builders.pool(), builders.node("n1"), builders.queue(quota={"cpu": 2}), builders.runner(seen_at=START)
    )
    floor.submit("job-a", cpu=2)

    def slow(snapshot: Any, policy: Any, now: int) -> Plan:
        found = plan(snapshot, policy, now)
        cut = builders.queue(quota={"cpu": 1}).quotas
        floor.write(lambda tx: [tx.put_queue(replace(q, quotas=cut)) for q in tx.queues(PLATFORM)])
        floor.loop._plan = plan
        return found

    floor.loop._plan = slow
    assert floor.tick().refused == (("job-a", Refusal.QUOTA),)


def test_a_job_cancelled_between_plan_and_commit_stays_cancelled() -> None:
    floor = Floor()
    floor.submit("job-a")

    def slow(snapshot: Any, policy: Any, now: int) -> Plan:
        found = plan(snapshot, policy, now)
        floor.cancel("job-a")
        floor.loop._plan = plan
        return found

    floor.loop._plan = slow
    assert floor.tick().refused == (("job-a", Refusal.STALE),)
    assert floor.job("job-a").state is JobState.CANCELLED


def test_a_row_that_changes_under_the_transaction_is_tried_again_by_the_next_tick() -> None:
    floor = Floor()
    floor.submit("job-a")
    real = floor.store.transact

    def stale_once(fn: Any, *, epoch: int | None = None) -> Any:
        if epoch is None:
            return real(fn)
        floor.store.transact = real  # pyright: ignore[reportAttributeAccessIssue]
        raise StaleWriteError("changed")

    floor.store.transact = stale_once  # pyright: ignore[reportAttributeAccessIssue]
    first = floor.tick()
    assert (first.stale, first.admitted, first.wake_at) == (1, (), floor.clock.at)
    assert floor.tick().admitted == ("job-a",)


def test_a_tick_cut_off_by_the_store_forgets_nothing() -> None:
    floor = Floor()
    floor.submit("job-a", timeout_s=5)
    floor.tick()
    floor.happen("job-a", AttemptRunning(floor.clock.at, floor.attempt("job-a").id))
    floor.tick()
    real = floor.store.transact

    def down(fn: Any, *, epoch: int | None = None) -> Any:
        if epoch is None:
            return real(fn)
        raise FencedError("away")

    floor.store.transact = down  # pyright: ignore[reportAttributeAccessIssue]
    assert floor.tick(6).fenced
    floor.store.transact = real  # pyright: ignore[reportAttributeAccessIssue]
    floor.tick()
    assert floor.attempt("job-a").stop is not None


def test_an_attempt_over_its_time_is_told_to_stop_and_holds_its_slots() -> None:
    floor = Floor()
    floor.submit("job-a", timeout_s=5, cpu=2)
    floor.submit("job-b", cpu=2)
    floor.tick()
    floor.report(said("job-a.1", "running"))
    asleep = floor.tick()
    assert asleep.wake_at <= floor.clock.at + 5_000
    result = floor.tick(5)
    stop = floor.attempt("job-a").stop
    assert stop is not None
    assert stop.reason is EndReason.TIMED_OUT
    assert result.admitted == ()


def test_an_attempt_that_does_not_begin_in_time_is_stopped() -> None:
    floor = Floor()
    floor.submit("job-a")
    floor.tick()
    for _ in range(31):
        floor.report()  # the runner is there
        floor.tick(10)
    stop = floor.attempt("job-a").stop
    assert stop is not None
    assert stop.reason is EndReason.START_TIMEOUT


def test_a_back_off_is_waited_out() -> None:
    floor = Floor()
    floor.submit("job-a")
    floor.tick()
    lost = said("job-a.1", "ended").model_copy(update={"outcome": Outcome(EndReason.WORKER_LOST, "killed")})
    floor.report(lost)
    waiting = floor.tick()
    assert (waiting.admitted, waiting.wake_at) == ((), floor.clock.at + 1_000)
    assert floor.tick(1).admitted == ("job-a",)


def test_a_silent_runner_makes_its_attempts_unknown_and_its_nodes_lost_and_frees_nothing() -> None:
    floor = Floor()
    floor.report()  # heard now
    floor.submit("job-a", cpu=2)
    floor.tick()
    floor.submit("job-b", cpu=2)
    floor.tick(31)
    assert floor.attempt("job-a").state is AttemptState.UNKNOWN
    assert floor.node().state is NodeState.LOST
    floor.report(said("job-a.1", "running"), nodes=[node_report()])
    assert floor.tick().admitted == ()
    assert floor.attempt("job-a").state is AttemptState.RUNNING
    assert floor.node().state is NodeState.READY


def test_a_lost_node_makes_only_its_own_attempts_unknown() -> None:
    floor = Floor(
        builders.pool(),
        builders.node("n1", cpu=1),
        builders.node("n2", cpu=1),
        builders.queue(),
        builders.runner(seen_at=START),
    )
    floor.report()
    floor.submit("job-a")
    floor.submit("job-b")
    floor.tick()
    floor.report(nodes=[node_report("n1", is_alive=False), node_report("n2")])
    floor.tick()
    states = {floor.attempt(id).allocation.placements[0].node: floor.attempt(id).state for id in ("job-a", "job-b")}
    assert states == {"n1": AttemptState.UNKNOWN, "n2": AttemptState.DESIRED}


def test_a_loop_whose_feed_was_pruned_builds_its_view_again() -> None:
    floor = Floor()
    floor.tick()
    for n in range(5):
        floor.submit(f"job-{n}", hold=WAITS)
        floor.happen(f"job-{n}", Queued(floor.clock.at))
    floor.write(lambda tx: tx.prune_feed(tx.feed_head()))
    assert set(floor.tick().admitted) == {JobId("job-0"), JobId("job-1")}
