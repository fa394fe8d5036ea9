"""The runner's decision, one situation at a time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from factory.domain.ids import AttemptId, JobId, NodeId, RunnerId
from factory.domain.jobs import AttemptState, EndReason, Outcome, RayMode, Stop
from factory.lifecycle.reconciling import (
    Action,
    DesiredAttempt,
    DesiredState,
    FoundNode,
    FoundReplica,
    FoundState,
    KillReplica,
    NotifyStop,
    Process,
    ReplicaId,
    ReportEnded,
    ReportFound,
    ReportRunning,
    ReportStarting,
    StartReplica,
    StartWarm,
    StopWarm,
    SweepOrphan,
    reconcile,
    stop_everything,
)
from factory.testing import builders

A = AttemptId("job-a.1")
N1, N2 = NodeId("n1"), NodeId("n2")
DONE = Outcome(EndReason.COMPLETED)
RAISED = Outcome(EndReason.USER_ERROR, "ValueError")
CANCEL = Stop(EndReason.CANCELLED, 0, "key-1")


def wanted(
    *nodes: str, state: AttemptState = AttemptState.DESIRED, stop: Stop | None = None, id: str = A
) -> DesiredAttempt:
    held = builders.allocation(nodes or ("n1",), pool=builders.pool())
    job = builders.job("job-a", replicas=len(held.placements))
    return DesiredAttempt(AttemptId(id), JobId("job-a"), job.tenant, 1, state, job.spec, held, stop)


def replica(
    node: str = "n1",
    process: Process = Process.ALIVE,
    *,
    rank: int = 0,
    attempt: str | None = A,
    id: str = "",
    **facts: object,
) -> FoundReplica:
    name = id or f"rep-{node}-{rank}"
    facts.setdefault("began", attempt is not None and process is not Process.STARTING)
    return FoundReplica(
        ReplicaId(name),
        NodeId(node),
        process,
        None if attempt is None else AttemptId(attempt),
        rank,
        **facts,  # pyright: ignore[reportArgumentType]
    )


def decide(
    *attempts: DesiredAttempt,
    found: tuple[FoundReplica, ...] = (),
    nodes: tuple[FoundNode, ...] = (FoundNode(N1), FoundNode(N2)),
    warm: int = 0,
    now: int = 0,
) -> tuple[Action, ...]:
    return reconcile(DesiredState(RunnerId("runner-1"), attempts, warm), FoundState(nodes, found), now)


def kinds(actions: tuple[Action, ...]) -> list[type]:
    return [type(action) for action in actions]


def test_a_desired_attempt_is_started_on_its_node_and_said_to_start() -> None:
    start, said = decide(wanted())
    assert isinstance(start, StartReplica)
    assert (start.placement.node, start.warm) == (N1, None)
    assert said == ReportStarting(A)


def test_a_start_takes_a_warm_replica_of_the_node_and_replaces_it() -> None:
    warm = replica("n1", attempt=None, id="warm-1")
    start, _, fresh = decide(wanted(), found=(warm,), nodes=(FoundNode(N1),), warm=1)
    assert isinstance(start, StartReplica)
    assert start.warm == "warm-1"
    assert fresh == StartWarm(N1)


def test_a_job_that_uses_ray_inside_takes_no_warm_replica() -> None:
    attempt = wanted()
    attempt = replace(attempt, spec=replace(attempt.spec, ray=RayMode.TASKS))
    start = decide(attempt, found=(replica("n1", attempt=None, id="warm-1"),), warm=1)[0]
    assert isinstance(start, StartReplica)
    assert start.warm is None


@pytest.mark.parametrize(
    "silent",
    [(FoundNode(N1),), (FoundNode(N1), FoundNode(N2, reachable=False)), (FoundNode(N1), FoundNode(N2, scanned=False))],
)
def test_a_gang_is_not_started_while_one_of_its_nodes_is_silent(silent: tuple[FoundNode, ...]) -> None:
    assert decide(wanted("n1", "n2"), nodes=silent) == ()


def test_a_gang_cut_off_while_it_was_started_is_made_whole() -> None:
    actions = decide(wanted("n1", "n2"), found=(replica("n1", Process.STARTING),))
    assert [a.placement.rank for a in actions if isinstance(a, StartReplica)] == [1]


def test_a_rank_that_is_nowhere_after_user_code_began_ends_the_attempt() -> None:
    attempt = wanted("n1", "n2", state=AttemptState.RUNNING)
    assert kinds(decide(attempt, found=(replica("n1"),))) == [KillReplica]
    (said,) = decide(attempt, found=(replica("n1", Process.GONE, killed=True),))
    assert isinstance(said, ReportEnded)
    assert (said.outcome.reason, said.outcome.rank, said.proof) == (EndReason.WORKER_LOST, 1, "agent")


def test_running_is_said_only_when_every_rank_has_begun() -> None:
    attempt = wanted("n1", "n2", state=AttemptState.STARTING)
    half = (replica("n1"), replica("n2", rank=1, began=False))
    assert decide(attempt, found=half) == ()
    both = (replica("n1", code_digest="sha"), replica("n2", rank=1))
    assert decide(attempt, found=both) == (ReportRunning(A, "sha"),)
    assert decide(replace(attempt, state=AttemptState.RUNNING), found=both) == ()


def test_a_failed_rank_kills_the_others_and_is_reported_when_all_are_gone() -> None:
    attempt = wanted("n1", "n2", state=AttemptState.RUNNING)
    failed = replica("n2", Process.GONE, rank=1, outcome=RAISED, gone_at=5)
    (kill,) = decide(attempt, found=(replica("n1"), failed))
    assert isinstance(kill, KillReplica)
    assert kill.node == N1
    (said,) = decide(attempt, found=(replica("n1", Process.GONE, killed=True), failed))
    assert isinstance(said, ReportEnded)
    assert said.outcome == replace(RAISED, rank=1)


def test_a_rank_that_completed_waits_for_the_others() -> None:
    attempt = wanted("n1", "n2", state=AttemptState.RUNNING)
    first = replica("n1", Process.GONE, outcome=DONE)
    assert decide(attempt, found=(first, replica("n2", rank=1))) == ()
    (said,) = decide(attempt, found=(first, replica("n2", Process.GONE, rank=1, outcome=DONE)))
    assert isinstance(said, ReportEnded)
    assert (said.outcome.reason, said.proof) == (EndReason.COMPLETED, "report")


def test_the_rank_that_was_gone_first_decides_and_seen_at_once_the_memory_does() -> None:
    attempt = wanted("n1", "n2", state=AttemptState.RUNNING)
    oom = Outcome(EndReason.OUT_OF_MEMORY)
    for when, reason in ((5, EndReason.OUT_OF_MEMORY), (3, EndReason.USER_ERROR)):
        first = replica("n1", Process.GONE, outcome=RAISED, gone_at=when)
        (said,) = decide(attempt, found=(first, replica("n2", Process.GONE, rank=1, outcome=oom, gone_at=5)))
        assert isinstance(said, ReportEnded)
        assert said.outcome.reason is reason


def test_nothing_is_said_of_an_attempt_on_a_silent_node() -> None:
    nodes = (FoundNode(N1, reachable=False),)
    for state in AttemptState:
        assert decide(wanted(state=state), nodes=nodes) == ()
        assert decide(wanted(state=state), nodes=nodes, found=(replica("n1", Process.GONE, outcome=DONE),)) == ()


@pytest.mark.parametrize("state", [AttemptState.STARTING, AttemptState.RUNNING, AttemptState.UNKNOWN])
def test_an_attempt_that_began_and_is_nowhere_is_lost_and_never_started_again(state: AttemptState) -> None:
    (said,) = decide(wanted(state=state))
    assert isinstance(said, ReportEnded)
    assert said.outcome.reason is EndReason.WORKER_LOST


def test_an_unknown_attempt_that_lives_is_reported_found() -> None:
    assert decide(wanted(state=AttemptState.UNKNOWN), found=(replica(),)) == (ReportFound(A),)


def test_a_stop_is_a_notice_and_after_the_grace_a_kill() -> None:
    attempt = wanted(state=AttemptState.STOPPING, stop=CANCEL)
    (notice,) = decide(attempt, found=(replica(),))
    assert isinstance(notice, NotifyStop)
    assert (notice.reason, notice.grace_s) == (EndReason.CANCELLED, 10)
    assert decide(attempt, found=(replica(notified_at=0),), now=9_999) == ()
    assert kinds(decide(attempt, found=(replica(notified_at=0),), now=10_000)) == [KillReplica]
    (said,) = decide(attempt, found=(replica("n1", Process.GONE, notified_at=0, killed=True),))
    assert isinstance(said, ReportEnded)
    assert said.outcome.reason is EndReason.CANCELLED


def test_what_has_not_begun_is_killed_without_notice() -> None:
    attempt = wanted(state=AttemptState.STOPPING, stop=CANCEL)
    assert kinds(decide(attempt, found=(replica("n1", Process.STARTING),))) == [KillReplica]


def test_a_stopped_attempt_that_never_started_ends_without_starting() -> None:
    (said,) = decide(wanted(state=AttemptState.STOPPING, stop=CANCEL))
    assert isinstance(said, ReportEnded)
    assert said.outcome.reason is EndReason.CANCELLED


def test_an_error_of_before_the_notice_is_told_as_it_was() -> None:
    attempt = wanted(state=AttemptState.STOPPING, stop=CANCEL)
    said = decide(attempt, found=(replica("n1", Process.GONE, outcome=RAISED),))[-1]
    assert isinstance(said, ReportEnded)
    assert said.outcome.reason is EndReason.USER_ERROR


def test_what_a_job_left_behind_is_killed_before_its_end_is_reported() -> None:
    attempt = wanted(state=AttemptState.RUNNING)
    assert kinds(decide(attempt, found=(replica("n1", Process.LEFTOVER, outcome=DONE),))) == [KillReplica]
    (said,) = decide(attempt, found=(replica("n1", Process.GONE, outcome=DONE),))
    assert isinstance(said, ReportEnded)
    assert said.outcome.reason is EndReason.COMPLETED


def test_a_job_too_quick_to_be_seen_running_is_reported_with_its_code() -> None:
    ran, said = decide(wanted(), found=(replica("n1", Process.GONE, outcome=DONE, code_digest="sha"),))
    assert ran == ReportRunning(A, "sha")
    assert isinstance(said, ReportEnded)


def test_replicas_without_a_desired_attempt_are_swept_and_evidence_is_kept_while_desired() -> None:
    orphan = replica("n2", attempt="job-x.1")
    old = replica("n1", Process.GONE, attempt="job-y.1", id="old")
    assert decide(found=(orphan, old)) == (
        SweepOrphan(ReplicaId("old"), N1, AttemptId("job-y.1"), Process.GONE),
        SweepOrphan(orphan.id, N2, AttemptId("job-x.1"), Process.ALIVE),
    )
    kept = decide(wanted(), found=(replica("n1", Process.GONE, outcome=DONE),))
    assert not any(isinstance(action, SweepOrphan) for action in kept)


def test_a_second_process_for_a_rank_is_killed_and_the_end_waits_for_it() -> None:
    attempt = wanted(state=AttemptState.RUNNING)
    first = replica("n1", Process.GONE, outcome=DONE, id="a")
    assert kinds(decide(attempt, found=(first, replica("n1", id="b")))) == [KillReplica]


def test_warm_replicas_are_kept_at_their_number_per_node() -> None:
    warm = tuple(replica("n1", attempt=None, id=f"warm-{n}") for n in range(3))
    assert decide(found=warm, warm=2) == (StopWarm(ReplicaId("warm-2"), N1), StartWarm(N2), StartWarm(N2))
    dead = replica("n1", Process.GONE, attempt=None, id="warm-0")
    assert kinds(decide(found=(dead,), warm=1, nodes=(FoundNode(N1),))) == [SweepOrphan, StartWarm]


def test_an_orderly_shutdown_stops_every_attempt_for_the_factorys_sake() -> None:
    desired = stop_everything(DesiredState(RunnerId("runner-1"), (wanted(state=AttemptState.RUNNING),), 2), 7)
    assert desired.warm_per_node == 0
    gone = replica("n1", Process.GONE, notified_at=0, outcome=RAISED)
    (said,) = reconcile(desired, FoundState((FoundNode(N1),), (gone,)), 9)
    assert isinstance(said, ReportEnded)
    assert said.outcome.reason is EndReason.FACTORY_STOPPED


def test_the_order_in_which_things_are_found_does_not_matter() -> None:
    attempts = (wanted(), wanted("n2", id="job-b.1"))
    found = (replica("n1", attempt=None, id="w1"), replica("n2", attempt=None, id="w2"))
    assert decide(*attempts, found=found, warm=1) == decide(*attempts[::-1], found=found[::-1], warm=1)


def test_an_attempt_that_this_process_has_started_is_never_started_again() -> None:
    state = DesiredState(RunnerId("runner-1"), (wanted(),))
    (said,) = reconcile(state, FoundState((FoundNode(N1),), (), started=frozenset({A})), 0)
    assert isinstance(said, ReportEnded)
    assert said.outcome.reason is EndReason.WORKER_LOST
