"""The runner's decision, rule by rule (R1 to R6), in every detail that a runner relies on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from factory.domain.ids import AttemptId, JobId, NodeId, RunnerId, TenantId
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
    desired_attempt,
    reconcile,
    stop_everything,
)
from factory.testing import builders

A = AttemptId("job-a.1")
N1, N2, N3 = NodeId("n1"), NodeId("n2"), NodeId("n3")
ALL = (FoundNode(N1), FoundNode(N2), FoundNode(N3))
CANCEL = Stop(EndReason.CANCELLED, 0, "key-1")
S = AttemptState


def wanted(*nodes: str, state: AttemptState = S.DESIRED, stop: Stop | None = None, id: str = A) -> DesiredAttempt:
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
    facts.setdefault("began", attempt is not None and process is not Process.STARTING)
    at = None if attempt is None else AttemptId(attempt)
    return FoundReplica(ReplicaId(id or f"rep-{node}-{rank}"), NodeId(node), process, at, rank, **facts)  # pyright: ignore[reportArgumentType]


def decide(
    *attempts: DesiredAttempt,
    found: tuple[FoundReplica, ...] = (),
    nodes: tuple[FoundNode, ...] = ALL,
    warm: int = 0,
    now: int = 0,
    started: frozenset[AttemptId] = frozenset(),
) -> tuple[Action, ...]:
    return reconcile(DesiredState(RunnerId("runner-1"), attempts, warm), FoundState(nodes, found, started), now)


def end_of(actions: tuple[Action, ...]) -> Outcome:
    (said,) = [action for action in actions if isinstance(action, ReportEnded)]
    return said.outcome


# -- what a runner is told ---------------------------------------------------------------------------------------------


def test_a_runner_is_told_all_that_an_attempt_needs() -> None:
    held = builders.allocation(["n1"], pool=builders.pool())
    job = builders.running(builders.job("job-a", tenant="water"), held)
    live = replace(job.attempts[0], stop=CANCEL)
    told = desired_attempt(job, live, queued_at=7)
    assert told == DesiredAttempt(A, JobId("job-a"), TenantId("water"), 1, S.RUNNING, job.spec, held, CANCEL, 7)
    assert told.grace_s == job.spec.grace_s == 10
    assert desired_attempt(job, live).queued_at == 0


def test_an_orderly_shutdown_leaves_earlier_wishes_as_they_are() -> None:
    stopping, up = wanted(state=S.STOPPING, stop=CANCEL), wanted(id="job-b.1")
    made = stop_everything(DesiredState(RunnerId("runner-1"), (stopping, up), 3), 70)
    assert made.attempts[0] == stopping
    assert made.attempts[1] == replace(up, stop=Stop(EndReason.FACTORY_STOPPED, 70, "runner"))
    assert (made.runner, made.warm_per_node) == ("runner-1", 0)


# -- R1, R4: starting --------------------------------------------------------------------------------------------------


def test_a_gang_is_started_in_the_order_of_its_ranks() -> None:
    attempt = wanted("n2", "n1", "n2")
    *starts, said = decide(attempt)
    assert starts == [StartReplica(attempt, placement, None) for placement in attempt.allocation.placements]
    assert said == ReportStarting(A)


def test_its_start_is_said_once() -> None:
    attempt = wanted("n1", "n2", state=S.STARTING)
    assert decide(attempt, found=(replica("n1", Process.STARTING),)) == (
        StartReplica(attempt, attempt.allocation.placements[1], None),
    )
    both = (replica("n1", Process.STARTING), replica("n2", Process.STARTING, rank=1))
    assert decide(wanted("n1", "n2"), found=both) == (ReportStarting(A),)
    assert decide(attempt, found=both) == ()


def test_each_start_uses_up_a_warm_replica_that_is_ready() -> None:
    warm = (
        replica("n1", attempt=None, id="w1"), replica("n1", attempt=None, id="w2"),
        replica("n1", Process.STARTING, attempt=None, id="w0"),
    )  # fmt: skip
    starts = [a for a in decide(wanted("n1", "n1", "n1"), found=warm, warm=3) if isinstance(a, StartReplica)]
    assert [start.warm for start in starts] == ["w1", "w2", None]


def test_warm_replicas_that_were_used_are_replaced_up_to_their_number() -> None:
    warm = (replica("n1", attempt=None, id="w1"), replica("n1", attempt=None, id="w2"))
    actions = decide(wanted("n1"), found=warm, warm=2, nodes=(FoundNode(N1),))
    assert actions[-1:] == (StartWarm(N1),)
    assert not any(isinstance(action, StopWarm) for action in actions)


@pytest.mark.parametrize("ray", [RayMode.TASKS, RayMode.LIBRARY])
def test_who_uses_ray_inside_starts_cold(ray: RayMode) -> None:
    attempt = replace(wanted(), spec=replace(wanted().spec, ray=ray))
    start = decide(attempt, found=(replica("n1", attempt=None, id="w1"),), warm=1)[0]
    assert isinstance(start, StartReplica)
    assert start.warm is None


def test_a_rank_that_starts_is_no_reason_to_call_the_missing_ones_lost() -> None:
    for state in (S.DESIRED, S.STARTING):
        actions = decide(wanted("n1", "n2", state=state), found=(replica("n1", Process.STARTING),))
        assert isinstance(actions[0], StartReplica)


@pytest.mark.parametrize("state", [S.STARTING, S.UNKNOWN, S.RUNNING])
def test_nothing_of_an_attempt_that_began_is_anywhere(state: AttemptState) -> None:
    outcome = end_of(decide(wanted("n1", "n2", state=state)))
    assert outcome == Outcome(EndReason.WORKER_LOST, "rank 0 is nowhere on node n1, nor is its evidence", rank=0)


def test_a_missing_rank_beside_one_whose_code_has_begun_is_lost() -> None:
    for state in (S.DESIRED, S.STARTING):
        actions = decide(wanted("n1", "n2", state=state), found=(replica("n1"),))
        assert actions == (KillReplica(ReplicaId("rep-n1-0"), N1, A, "another rank of its gang has ended"),)


def test_a_missing_rank_beside_a_dead_one_is_lost_even_if_that_never_began() -> None:
    dead = replica("n1", Process.GONE, began=False, outcome=Outcome(EndReason.COMPLETED))
    assert end_of(decide(wanted("n1", "n2", state=S.STARTING), found=(dead,))).rank == 1


def test_an_attempt_that_was_asked_for_and_is_stopped_before_it_began_is_not_lost_but_stopped() -> None:
    actions = decide(wanted(state=S.STOPPING, stop=CANCEL), started=frozenset({A}))
    assert end_of(actions) == Outcome(EndReason.CANCELLED, "stopped as asked by key-1")


# -- R2: the end of a gang ---------------------------------------------------------------------------------------------


def test_the_ranks_beside_a_failed_one_are_killed_with_the_reason() -> None:
    attempt = wanted("n1", "n2", "n3", state=S.RUNNING)
    failed = replica("n2", Process.LEFTOVER, rank=1, outcome=Outcome(EndReason.USER_ERROR))
    assert decide(attempt, found=(replica("n1"), failed, replica("n3", rank=2))) == (
        KillReplica(ReplicaId("rep-n1-0"), N1, A, "another rank of its gang has ended"),
        KillReplica(ReplicaId("rep-n2-1"), N2, A, "left behind"),
        KillReplica(ReplicaId("rep-n3-2"), N3, A, "another rank of its gang has ended"),
    )


def test_a_rank_without_evidence_failed() -> None:
    attempt = wanted("n1", "n2", state=S.RUNNING)
    vanished = replica("n2", Process.GONE, rank=1)
    assert decide(attempt, found=(replica("n1"), vanished)) == (
        KillReplica(ReplicaId("rep-n1-0"), N1, A, "another rank of its gang has ended"),
    )
    killed = replica("n1", Process.GONE, killed=True)
    assert end_of(decide(attempt, found=(killed, vanished))) == Outcome(
        EndReason.WORKER_LOST, "the process of rank 1 on node n2 died without a word", rank=1
    )


def test_of_a_completed_gang_the_first_rank_speaks() -> None:
    attempt = wanted("n1", "n2", state=S.RUNNING)
    results = [Outcome(EndReason.COMPLETED, result_json=text) for text in ("1", "2")]
    found = [replica(f"n{rank + 1}", Process.GONE, rank=rank, outcome=each) for rank, each in enumerate(results)]
    for order in (found, found[::-1]):
        (said,) = decide(attempt, found=tuple(order))
        assert said == ReportEnded(A, replace(results[0], rank=0), "report")


@pytest.mark.parametrize(
    ("one", "other", "decisive"),
    [
        (EndReason.OUT_OF_MEMORY, EndReason.USER_ERROR, EndReason.OUT_OF_MEMORY),
        (EndReason.USER_ERROR, EndReason.ENVIRONMENT_FAILED, EndReason.ENVIRONMENT_FAILED),
        (EndReason.USER_ERROR, None, EndReason.WORKER_LOST),
        (EndReason.NODE_LOST, EndReason.USER_ERROR, EndReason.USER_ERROR),
        (EndReason.ENVIRONMENT_FAILED, EndReason.OUT_OF_MEMORY, EndReason.OUT_OF_MEMORY),
        (EndReason.USER_ERROR, EndReason.USER_ERROR, EndReason.USER_ERROR),
    ],
)
def test_seen_at_once_the_end_from_which_the_others_follow_decides(
    one: EndReason, other: EndReason | None, decisive: EndReason
) -> None:
    found = tuple(
        replica(f"n{rank + 1}", Process.GONE, rank=rank, gone_at=5, outcome=None if why is None else Outcome(why))
        for rank, why in enumerate((one, other))
    )
    outcome = end_of(decide(wanted("n1", "n2", state=S.RUNNING), found=found))
    assert outcome.reason is decisive
    assert outcome.rank == (0 if one is decisive else 1)


def test_who_was_never_seen_gone_decides_last() -> None:
    early = replica("n1", Process.GONE, gone_at=None, outcome=Outcome(EndReason.OUT_OF_MEMORY))
    late = replica("n2", Process.GONE, rank=1, gone_at=10**12, outcome=Outcome(EndReason.USER_ERROR))
    assert end_of(decide(wanted("n1", "n2", state=S.RUNNING), found=(early, late))).reason is EndReason.USER_ERROR


def test_a_rank_that_was_killed_explains_nothing() -> None:
    killed = replica("n1", Process.GONE, killed=True, gone_at=1, outcome=Outcome(EndReason.OUT_OF_MEMORY))
    failed = replica("n2", Process.GONE, rank=1, gone_at=9, outcome=Outcome(EndReason.USER_ERROR))
    attempt = wanted("n1", "n2", state=S.RUNNING)
    assert end_of(decide(attempt, found=(killed, failed))) == Outcome(EndReason.USER_ERROR, rank=1)
    all_killed = (killed, replace(failed, killed=True))
    assert end_of(decide(attempt, found=all_killed)) == Outcome(
        EndReason.WORKER_LOST, "its processes were killed and left no evidence"
    )


def test_completed_beside_failed_is_failed() -> None:
    done = replica("n1", Process.GONE, gone_at=1, outcome=Outcome(EndReason.COMPLETED))
    failed = replica("n2", Process.GONE, rank=1, gone_at=9, outcome=Outcome(EndReason.USER_ERROR))
    assert end_of(decide(wanted("n1", "n2", state=S.RUNNING), found=(done, failed))).reason is EndReason.USER_ERROR


# -- R3: proof ---------------------------------------------------------------------------------------------------------


def test_evidence_of_all_ranks_is_a_report_and_else_the_agents_word() -> None:
    attempt = wanted("n1", "n2", state=S.RUNNING)
    error = Outcome(EndReason.USER_ERROR)
    told = (replica("n1", Process.GONE, outcome=error), replica("n2", Process.GONE, rank=1, outcome=error))
    for found, proof in ((told, "report"), ((told[0], replace(told[1], outcome=None)), "agent"), (told[:1], "agent")):
        (said,) = decide(attempt, found=found)
        assert isinstance(said, ReportEnded)
        assert said.proof == proof


def test_an_end_waits_until_every_process_is_gone() -> None:
    error = Outcome(EndReason.USER_ERROR)
    for process in (Process.STARTING, Process.ALIVE, Process.LEFTOVER):
        found = (replica("n1", Process.GONE, outcome=error), replica("n2", process, rank=1))
        actions = decide(wanted("n1", "n2", state=S.RUNNING), found=found)
        assert [type(action) for action in actions] == [KillReplica]


def test_an_end_waits_for_a_silent_node_and_kills_what_it_can_meanwhile() -> None:
    error = replica("n1", Process.LEFTOVER, outcome=Outcome(EndReason.USER_ERROR))
    silent = replica("n2", Process.ALIVE, rank=1)
    nodes = (FoundNode(N1), FoundNode(N2, reachable=False))
    actions = decide(wanted("n1", "n2", state=S.RUNNING), found=(error, silent), nodes=nodes)
    assert actions == (KillReplica(error.id, N1, A, "left behind"),)


def test_a_replica_on_a_node_where_it_should_not_be_counts_as_silent_too() -> None:
    stray = replica("n9", Process.ALIVE, outcome=None)
    assert decide(wanted("n1", state=S.RUNNING), found=(stray,)) == ()
    gone = replica("n9", Process.GONE, outcome=Outcome(EndReason.USER_ERROR))
    assert end_of(decide(wanted("n1", state=S.RUNNING), found=(gone,))).reason is EndReason.USER_ERROR


def test_what_was_over_before_anybody_looked_is_said_to_have_run() -> None:
    found = (
        replica("n1", Process.GONE, outcome=Outcome(EndReason.COMPLETED), code_digest="zero"),
        replica("n2", Process.GONE, rank=1, outcome=Outcome(EndReason.COMPLETED), code_digest="one"),
    )
    for state in (S.DESIRED, S.STARTING):
        ran, said = decide(wanted("n1", "n2", state=state), found=found)
        assert ran == ReportRunning(A, "zero")
        assert isinstance(said, ReportEnded)
    for state in (S.RUNNING, S.UNKNOWN):
        assert [type(a) for a in decide(wanted("n1", "n2", state=state), found=found)] == [ReportEnded]
    half = (found[0], replace(found[1], began=False))
    assert [type(a) for a in decide(wanted("n1", "n2", state=S.STARTING), found=half)] == [ReportEnded]


def test_a_second_process_is_killed_only_where_somebody_answers() -> None:
    attempt = wanted(state=S.RUNNING)
    first, second = replica("n1", id="a"), replica("n2", id="b")
    assert decide(attempt, found=(first, second)) == (
        KillReplica(ReplicaId("b"), N2, A, "a second process for the same rank"),
    )
    assert decide(attempt, found=(first, second), nodes=(FoundNode(N1),)) == ()
    assert decide(attempt, found=(first, replica("n2", Process.GONE, id="b"))) == ()


# -- R5: stopping ------------------------------------------------------------------------------------------------------


def test_every_rank_gets_its_notice_and_its_grace() -> None:
    attempt = wanted("n1", "n2", state=S.STOPPING, stop=Stop(EndReason.PREEMPTED, 0, "job-b"))
    found = (replica("n1", notified_at=4_000), replica("n2", rank=1))
    assert decide(attempt, found=found, now=13_999) == (NotifyStop(found[1].id, N2, A, EndReason.PREEMPTED, 10),)
    assert decide(attempt, found=found, now=14_000) == (
        KillReplica(found[0].id, N1, A, "still alive 10 s after the notice to stop"),
        NotifyStop(found[1].id, N2, A, EndReason.PREEMPTED, 10),
    )


def test_without_grace_the_kill_follows_the_notice_at_once() -> None:
    base = wanted(state=S.STOPPING, stop=CANCEL)
    attempt = replace(base, spec=replace(base.spec, grace_s=0))
    assert [type(a) for a in decide(attempt, found=(replica(notified_at=5),), now=5)] == [KillReplica]


def test_what_runs_no_user_code_gets_no_grace() -> None:
    attempt = wanted("n1", "n2", "n3", state=S.STOPPING, stop=CANCEL)
    found = (
        replica("n1", Process.STARTING), replica("n2", Process.ALIVE, rank=1, began=False),
        replica("n3", Process.LEFTOVER, rank=2, outcome=Outcome(EndReason.COMPLETED)),
    )  # fmt: skip
    assert decide(attempt, found=found) == tuple(
        KillReplica(each.id, each.node, A, "no grace for what runs no user code: Cancelled") for each in found
    )


def test_a_silent_attempt_that_is_to_stop_is_found_before_it_is_stopped() -> None:
    attempt = wanted(state=S.UNKNOWN, stop=CANCEL)
    assert decide(attempt, found=(replica(),)) == (
        ReportFound(A), NotifyStop(ReplicaId("rep-n1-0"), N1, A, EndReason.CANCELLED, 10)
    )  # fmt: skip
    nodes = (FoundNode(N1),)
    two = wanted("n1", "n2", state=S.UNKNOWN, stop=CANCEL)
    actions = decide(two, found=(replica(),), nodes=nodes)
    assert [type(action) for action in actions] == [NotifyStop]  # half a look is no news


def test_a_rank_that_fails_after_the_notice_was_stopped() -> None:
    attempt = wanted(state=S.STOPPING, stop=Stop(EndReason.TIMED_OUT, 0, ""))
    silent = replica("n1", Process.GONE, notified_at=5)
    assert end_of(decide(attempt, found=(silent,))) == Outcome(EndReason.TIMED_OUT, "stopped as asked by control")
    error = replica("n1", Process.GONE, notified_at=5, outcome=Outcome(EndReason.USER_ERROR))
    assert end_of(decide(attempt, found=(error,))).reason is EndReason.TIMED_OUT


def test_work_that_completes_in_its_grace_is_complete() -> None:
    attempt = wanted(state=S.STOPPING, stop=CANCEL)
    done = replica("n1", Process.GONE, notified_at=5, outcome=Outcome(EndReason.COMPLETED, result_json="7"))
    assert end_of(decide(attempt, found=(done,))) == Outcome(EndReason.COMPLETED, result_json="7", rank=0)


def test_an_error_of_before_the_notice_stays_an_error_and_a_silent_death_does_not() -> None:
    attempt = wanted("n1", "n2", state=S.STOPPING, stop=CANCEL)
    error = replica("n1", Process.GONE, gone_at=9, outcome=Outcome(EndReason.USER_ERROR))
    vanished = replica("n2", Process.GONE, rank=1, gone_at=1)
    assert end_of(decide(attempt, found=(error, vanished))).reason is EndReason.WORKER_LOST
    assert end_of(decide(attempt, found=(replace(error, outcome=None), vanished))).reason is EndReason.CANCELLED


# -- news --------------------------------------------------------------------------------------------------------------


def test_a_silent_attempt_that_lives_is_found_and_nothing_else_is_said() -> None:
    found = (replica("n1"), replica("n2", Process.STARTING, rank=1))
    assert decide(wanted("n1", "n2", state=S.UNKNOWN), found=found) == (ReportFound(A),)


def test_running_is_said_with_the_code_of_the_first_rank() -> None:
    found = (replica("n2", rank=1, code_digest="one"), replica("n1", code_digest="zero"))
    for state in (S.DESIRED, S.STARTING):
        assert decide(wanted("n1", "n2", state=state), found=found) == (ReportRunning(A, "zero"),)
    assert decide(wanted("n1", "n2", state=S.RUNNING), found=found) == ()


def test_half_a_look_is_no_news() -> None:
    found = (replica("n1"), replica("n2", rank=1))
    for state in S:
        assert decide(wanted("n1", "n2", state=state), found=found, nodes=(FoundNode(N1),)) == ()


# -- R6, R8: sweeping and keeping warm ---------------------------------------------------------------------------------


def test_only_where_an_agent_answers_is_anything_swept() -> None:
    orphan = replica("n1", attempt="job-x.1")
    assert decide(found=(orphan,), nodes=()) == ()
    assert decide(found=(orphan,), nodes=(FoundNode(N1, scanned=False),)) == ()
    assert decide(found=(orphan,)) == (SweepOrphan(orphan.id, N1, AttemptId("job-x.1"), Process.ALIVE),)


@pytest.mark.parametrize("process", [Process.LEFTOVER, Process.GONE])
def test_a_dead_warm_replica_is_swept_and_replaced(process: Process) -> None:
    dead = replica("n1", process, attempt=None, id="w1")
    assert decide(found=(dead,), warm=1, nodes=(FoundNode(N1),)) == (
        SweepOrphan(ReplicaId("w1"), N1, None, process), StartWarm(N1)
    )  # fmt: skip


def test_warm_replicas_that_start_count_and_are_the_first_to_go() -> None:
    found = (
        replica("n1", Process.ALIVE, attempt=None, id="w1"), replica("n1", Process.ALIVE, attempt=None, id="w2"),
        replica("n1", Process.STARTING, attempt=None, id="w0"),
    )  # fmt: skip
    one = (FoundNode(N1),)
    assert decide(found=found, warm=3, nodes=one) == ()
    assert decide(found=found, warm=2, nodes=one) == (StopWarm(ReplicaId("w0"), N1),)
    assert decide(found=found, warm=1, nodes=one) == (StopWarm(ReplicaId("w0"), N1), StopWarm(ReplicaId("w2"), N1))
    assert decide(found=found, warm=0, nodes=one)[-1] == StopWarm(ReplicaId("w1"), N1)
    assert decide(found=found, warm=5, nodes=one) == (StartWarm(N1), StartWarm(N1))


def test_nothing_is_kept_warm_where_nobody_answers() -> None:
    assert decide(warm=1, nodes=(FoundNode(N2), FoundNode(N1), FoundNode(N3, reachable=False))) == (
        StartWarm(N1), StartWarm(N2)
    )  # fmt: skip


def test_attempts_are_dealt_with_by_their_id_then_what_is_swept_then_what_is_warm() -> None:
    actions = decide(wanted("n2", id="job-b.1"), wanted(), found=(replica("n1", attempt="job-x.1"),), warm=1)
    assert [type(action) for action in actions] == [
        StartReplica, ReportStarting, StartReplica, ReportStarting, SweepOrphan, StartWarm, StartWarm, StartWarm
    ]  # fmt: skip
    assert [action.attempt.id for action in actions if isinstance(action, StartReplica)] == ["job-a.1", "job-b.1"]
