"""What a person is told about a waiting job."""

from __future__ import annotations

from dataclasses import replace

import pytest

from factory.domain.ids import JobId
from factory.domain.jobs import AttemptState, Job, JobState, PriorityClass, Waiting, WaitReason
from factory.domain.pools import Node, NodeState, Pool
from factory.domain.tenancy import Queue
from factory.errors import NotFoundError
from factory.scheduling.explaining import Explanation, explain
from factory.testing.builders import allocation, job, node, pool, queue, running, snapshot

CPU = pool("cpu")
GPU = pool("gpu", cpu=4, memory_gib=16, gpu=1)


def told(id: str, *things: Pool | Node | Queue | Job, now: int = 0) -> Explanation:
    return explain(snapshot(*things), JobId(id), now)


def why(found: Explanation) -> Waiting:
    assert found.waiting is not None
    return found.waiting


def busy(id: str, cpu: float, *, queue: str = "mobility") -> Job:
    return running(job(id, cpu=cpu, queue=queue), allocation(["n1"], pool=CPU, cpu=cpu))


def test_a_gang_without_room_is_told_what_is_free_and_who_holds_the_rest() -> None:
    found = told(
        "job-a", CPU, queue(), queue("water"), node("n1", cpu=6), busy("job-r", 1), busy("job-w", 3, queue="water"),
        job("job-a", replicas=3),
    )  # fmt: skip
    assert why(found).reason is WaitReason.GANG_DOES_NOT_FIT
    assert why(found).message == (
        "needs 3 slots (3 x 1 cpu) in pool 'cpu'; 2 of 6 free, 1 held by job-r, 3 held by other queues, "
        "2 of its 3 replicas would fit now"
    )
    assert dict(why(found).numbers) == {
        "pool": "cpu", "asked_milli": 3000, "free_milli": 2000, "total_milli": 6000, "held_by_queue_milli": 1000,
        "asked_replicas": 3, "fitting_replicas": 2, "lent_milli": 0,
    }  # fmt: skip


def test_jobs_of_other_queues_are_never_named() -> None:
    found = told("job-a", CPU, queue(), queue("water"), node("n1", cpu=2), busy("job-secret", 2, queue="water"), job())
    assert "job-secret" not in why(found).message
    assert "water" not in why(found).message


def test_of_many_holders_three_are_named_and_the_rest_counted() -> None:
    holders = [busy(f"job-r{i}", 1) for i in range(5)]
    found = told("job-a", CPU, queue(), node("n1", cpu=5), *holders, job("job-a"))
    assert "5 held by job-r0, job-r1, job-r2 and 2 more of this queue" in why(found).message


def test_position_and_length_count_the_whole_queue() -> None:
    things = (
        CPU, GPU, queue(), queue("water"), job("job-a", submitted_at=1), job("job-b", gpu=1, submitted_at=2),
        job("job-c", submitted_at=3), job("job-d", priority=PriorityClass.HIGH, submitted_at=9),
        job("job-w", queue="water"),
    )  # fmt: skip
    assert [told(id, *things).position for id in ("job-d", "job-a", "job-b", "job-c")] == [1, 2, 3, 4]
    assert told("job-c", *things).queue_length == 4


def test_share_and_quota_are_those_of_the_queue_in_the_pools_it_may_use() -> None:
    limited = queue("mobility", quota={"cpu": 4, "gpu": 2})
    found = told("job-a", CPU, GPU, limited, node("n1"), busy("job-r", 1.5), job("job-a", pool="cpu"))
    assert (found.share_milli, found.nominal_milli) == (1500, 4000)


def test_a_queue_without_quota_has_no_nominal() -> None:
    assert told("job-a", CPU, queue(), node("n1"), job("job-a")).nominal_milli is None


def test_a_job_behind_a_blocked_gang_is_told_whose_turn_it_is() -> None:
    found = told(
        "job-b", CPU, queue(), node("n1", cpu=4), busy("job-r", 2), job("job-gang", replicas=4),
        job("job-b", submitted_at=1),
    )  # fmt: skip
    assert why(found).reason is WaitReason.HELD_BY_RESERVATION
    assert dict(why(found).numbers) == {"pool": "cpu", "job": "job-gang", "asked_replicas": 4}
    assert found.helps == ("an estimate of its run time, so that it may be filled in before what is reserved",)
    assert found.expected_start is None


def test_a_job_behind_a_blocked_gang_for_another_pool_is_not_held() -> None:
    found = told(
        "job-b", CPU, GPU, queue(), node("n1", cpu=4), node("n2", pool="gpu", gpus=1), busy("job-r", 2),
        job("job-gang", replicas=4, pool="cpu"), job("job-b", submitted_at=1),
    )  # fmt: skip
    assert why(found).reason is WaitReason.PENDING_EVALUATION


def test_a_job_over_quota_is_told_what_is_left_of_it() -> None:
    found = told("job-a", CPU, queue("mobility", quota={"cpu": 4}), node("n1"), busy("job-r", 3), job(replicas=2))
    assert why(found).reason is WaitReason.WAITING_FOR_QUOTA
    assert why(found).message == (
        "needs 2 slots (2 x 1 cpu) in pool 'cpu'; 1 free under its quota: queue 'mobility' holds 3 (4 nominal)"
    )
    assert found.helps == ("a smaller gang: the quota has room for 1 replica now (min_replicas)",)


def test_a_job_behind_one_that_waits_for_quota_is_told_so() -> None:
    found = told(
        "job-b", CPU, queue("mobility", quota={"cpu": 4}), node("n1", cpu=9), busy("job-r", 3),
        job("job-a", replicas=4), job("job-b", submitted_at=1),
    )  # fmt: skip
    assert why(found).reason is WaitReason.HELD_BY_RESERVATION
    assert dict(why(found).numbers)["job"] == "job-a"


def test_a_borrower_at_its_limit_is_told_the_limit() -> None:
    limited = queue("mobility", quota={"cpu": 2}, borrowing=1)
    found = told("job-a", CPU, limited, node("n1"), busy("job-r", 3), job("job-a"))
    assert why(found).reason is WaitReason.BORROWING_LIMIT_REACHED
    assert "queue 'mobility' holds 3 (2 nominal + 1 borrowed at most)" in why(found).message


def test_the_first_in_line_that_fits_is_expected_now() -> None:
    found = told("job-a", CPU, queue(), node("n1"), job("job-a"), now=77)
    assert why(found).reason is WaitReason.PENDING_EVALUATION
    assert found.expected_start == 77


def test_one_that_fits_behind_others_that_fit_is_expected_now_too() -> None:
    found = told("job-b", CPU, queue(), node("n1"), job("job-a"), job("job-b", submitted_at=1), now=7)
    assert why(found).message == "fits pool 'cpu' now; the next plan decides"
    assert (found.position, found.expected_start) == (2, 7)


def test_a_job_that_backs_off_is_told_until_when() -> None:
    found = told("job-a", CPU, queue(), node("n1"), job("job-a", not_before=5_500, retries=2), now=1_000)
    assert why(found).message == "backs off for 5 s after 2 retries"
    assert found.expected_start == 5_500


def test_a_job_whose_pools_nodes_are_all_lost_is_told_so() -> None:
    found = told("job-a", CPU, queue(), node("n1", state=NodeState.LOST), job("job-a"))
    assert why(found).reason is WaitReason.RUNNER_UNREACHABLE
    assert dict(why(found).numbers) == {"pool": "cpu", "nodes": 1, "lost": 1}


def test_one_lost_pool_is_not_the_reason_if_another_is_only_full() -> None:
    found = told(
        "job-a", CPU, GPU, queue(), node("n1", cpu=1), node("n2", pool="gpu", state=NodeState.LOST), busy("job-r", 1),
        job("job-a"),
    )  # fmt: skip
    assert why(found).reason is WaitReason.GANG_DOES_NOT_FIT
    assert dict(why(found).numbers)["pool"] == "cpu"


def test_a_pending_or_suspended_job_is_told_what_holds_it() -> None:
    hold = Waiting(WaitReason.DEPENDENCY_PENDING, "waits for job-x")
    for state in (JobState.PENDING, JobState.SUSPENDED):
        found = told("job-a", CPU, queue(), node("n1"), job("job-a", state=state, hold=hold))
        assert found.waiting == hold
        assert found.position is None


def test_a_running_job_waits_for_nothing() -> None:
    found = told("job-r", CPU, queue(), node("n1"), busy("job-r", 1))
    assert (found.state, found.waiting, found.position) == (JobState.RUNNING, None, None)


def test_a_queued_job_whose_attempt_may_still_live_waits_for_proof() -> None:
    alive = running(job("job-a"), allocation(["n1"], pool=CPU), state=AttemptState.UNKNOWN)
    found = told("job-a", CPU, queue(), node("n1"), replace(alive, state=JobState.QUEUED))
    assert "job-a.1 is unknown" in why(found).message


def test_an_unknown_job_is_not_found() -> None:
    with pytest.raises(NotFoundError):
        told("job-x", CPU, queue())
