"""Every reason with its numbers, who holds what was lent, and what would help."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest

from factory.domain.ids import JobId
from factory.domain.jobs import AttemptState, EndReason, Job, Stop, Topology, Waiting, WaitReason
from factory.domain.pools import Node, NodeState, Pool
from factory.domain.tenancy import Queue
from factory.domain.time import SECOND
from factory.scheduling.explaining import Explanation, explain, why_in
from factory.scheduling.planning import Planning, Policy
from factory.testing.builders import allocation, job, node, pool, queue, running, snapshot

CPU = pool("cpu", cpu=1, memory_gib=4)
SSD = pool("ssd", cpu=1, memory_gib=4)
GPU = pool("gpu", cpu=4, memory_gib=16, gpu=1)
NOW = 1_700_000_000_000  # 22:13 UTC
MINUTE = 60 * SECOND


def asked(
    id: str = "a", cpu: float = 1, replicas: int = 1, *, of: str = "mobility", at: int = 0, **changed: object
) -> Job:
    row = job(id, cpu=cpu, replicas=replicas, queue=of, submitted_at=NOW - 1000 + at)
    return replace(row, spec=replace(row.spec, **changed))  # pyright: ignore[reportArgumentType]


def busy(
    id: str,
    cpu: float = 1,
    on: str = "n1",
    *,
    of: str = "mobility",
    minutes: float | None = None,
    since: int = NOW,
    pool: Pool = CPU,
) -> Job:
    estimate = None if minutes is None else round(60 * minutes)
    row = running(asked(id, cpu, of=of, estimate_s=estimate), allocation([on], pool=pool, cpu=cpu))
    return replace(row, attempts=(replace(row.attempts[0], admitted_at=since, running_at=since),))


def told(
    *things: Pool | Node | Queue | Job, id: str = "a", policy: Policy | None = None, now: int = NOW
) -> Explanation:
    return explain(snapshot(CPU, *things), JobId(id), now, policy)


def why(found: Explanation) -> Waiting:
    assert found.waiting is not None
    return found.waiting


def numbers(found: Explanation) -> dict[str, int | str]:
    return dict(why(found).numbers)


# -- no room -----------------------------------------------------------------------------------------------------------


def test_one_replica_is_told_what_is_free_without_counting_replicas() -> None:
    found = told(queue(), node("n1", cpu=4), busy("r", 3), asked(cpu=2))
    assert why(found) == Waiting(
        WaitReason.GANG_DOES_NOT_FIT,
        "needs 2 slots (1 x 2 cpu) in pool 'cpu'; 1 of 4 free, 3 held by r",
        "it starts when enough of the running jobs end",
        (
            ("asked_milli", 2000), ("asked_replicas", 1), ("fitting_replicas", 0), ("free_milli", 1000),
            ("held_by_queue_milli", 3000), ("lent_milli", 0), ("pool", "cpu"), ("total_milli", 4000),
        ),
    )  # fmt: skip


def test_a_gang_that_fits_partly_is_told_that_it_could_be_smaller() -> None:
    found = told(queue(), node("n1", cpu=4), busy("r", 2), asked(replicas=3))
    assert why(found).hint == "it starts when enough of the running jobs end, or sooner as a smaller gang"
    assert found.helps[0] == "a smaller gang: 2 replicas would fit pool 'cpu' now (min_replicas)"
    one = told(queue(), node("n1", cpu=4), busy("r", 3), asked(replicas=3))
    assert one.helps[0] == "a smaller gang: 1 replica would fit pool 'cpu' now (min_replicas)"


def test_a_gang_of_which_nothing_fits_is_not_told_to_be_smaller() -> None:
    found = told(queue(), node("n1", cpu=4), busy("r", 4), asked(replicas=3))
    assert found.helps == ("an estimate of its run time, so that it may be filled in before what is reserved",)
    assert told(queue(), node("n1", cpu=4), busy("r", 4), asked(replicas=3, estimate_s=60)).helps == ()


def test_a_gang_that_needs_one_node_is_never_told_that_it_would_fit_whole_in_pieces() -> None:
    found = told(
        queue(), node("n1", cpu=2), node("n2", cpu=3), busy("r", 1, "n2"),
        asked(replicas=3, topology=Topology.ONE_NODE, estimate_s=60),
    )  # fmt: skip
    assert numbers(found)["fitting_replicas"] == 4
    assert found.helps == ("a smaller gang: 2 replicas would fit pool 'cpu' now (min_replicas)",)


def test_a_reservation_tells_when_the_gang_is_expected_to_start() -> None:
    found = told(queue(), node("n1", cpu=4), busy("r", 2, minutes=30), asked(replicas=4, estimate_s=60))
    assert found.expected_start == NOW + 30 * MINUTE
    assert numbers(found)["reserved_at"] == NOW + 30 * MINUTE
    assert [name for name, _ in why(found).numbers] == sorted(numbers(found))


def test_a_start_that_is_hours_away_is_told_to_wait_for_off_peak_hours() -> None:
    for minutes, helps in ((240, False), (241, True)):
        found = told(queue(), node("n1", cpu=4), busy("r", 4, minutes=minutes), asked(cpu=4, estimate_s=60))
        assert found.expected_start == NOW + minutes * MINUTE
        assert ("off-peak hours: it is expected to start hours from now" in found.helps) is helps


def test_too_few_ready_nodes_are_told_by_their_states() -> None:
    found = told(
        queue(),
        node("n1", cpu=2),
        node("n2", cpu=4, state=NodeState.DRAINING),
        node("n3", cpu=4, state=NodeState.LOST),
        node("n4", cpu=4, state=NodeState.LOST),
        asked(replicas=5),
    )
    assert why(found) == Waiting(
        WaitReason.GANG_DOES_NOT_FIT,
        "needs 5 x 1 cpu at once, but the ready nodes of pool 'cpu' could hold at most 2 (1 ready, 1 draining, 2 lost)",
        "it can start when nodes come back; others are not held up meanwhile",
        (("asked_replicas", 5), ("draining", 1), ("largest_gang", 2), ("lost", 2), ("pool", "cpu"), ("ready", 1)),
    )


def test_what_even_all_nodes_could_not_hold_is_told_as_at_submit() -> None:
    found = told(queue(), node("n1", cpu=2), asked(replicas=5))
    assert "could hold at most 2 when idle" in why(found).message
    assert found.helps[0].startswith("a smaller gang: 2 replicas")


# -- out of reach ------------------------------------------------------------------------------------------------------


def test_a_pool_without_nodes_or_with_lost_ones_is_out_of_reach() -> None:
    none = told(queue(), asked())
    assert why(none).message == "pool 'cpu' has no nodes: its runner has not reported any"
    assert numbers(none) == {"pool": "cpu", "nodes": 0, "lost": 0}
    two = told(queue(), *(node(f"n{i}", state=NodeState.LOST) for i in range(2)), asked())
    assert why(two).message == "pool 'cpu' is out of reach: 2 nodes lost, none ready"
    assert why(two).hint == "it goes on when the runner is back; an operator can look with: factory nodes"


# -- quota -------------------------------------------------------------------------------------------------------------


def test_the_level_that_binds_is_told() -> None:
    tree = (queue("city", quota={"cpu": 4}), queue("mobility", parent="city", quota={"cpu": 3}, borrowing=None))
    # the city has seven in all
    found = told(
        *tree, queue("water", parent="city"), node("n1", cpu=20), busy("r", 2), busy("w", 5, of="water"), asked(cpu=2)
    )
    assert why(found).reason is WaitReason.WAITING_FOR_QUOTA
    assert why(found).message.startswith(
        "needs 2 slots (1 x 2 cpu) in pool 'cpu'; 0 free under its quota: queue 'city' holds 7 (7 nominal)"
    )
    assert why(found).hint == "it starts when jobs that count for this quota end"
    assert numbers(found)["used_milli"] == 7000
    assert numbers(found)["nominal_milli"] == 7000
    assert numbers(found)["queue"] == "mobility"


def test_a_borrowing_limit_is_told_as_such_only_where_something_may_be_borrowed() -> None:
    for borrowing, reason in ((1, WaitReason.BORROWING_LIMIT_REACHED), (0, WaitReason.WAITING_FOR_QUOTA)):
        limited = queue("mobility", quota={"cpu": 2}, borrowing=borrowing)
        found = told(limited, node("n1", cpu=9), busy("r", 2 + borrowing), asked())
        assert why(found).reason is reason
        assert ("borrowed at most" in why(found).message) is bool(borrowing)


def test_what_others_keep_of_the_pool_is_told() -> None:
    found = told(
        queue("mobility"), queue("water", quota={"cpu": 3}, lending=0), node("n1", cpu=4), busy("r", 1), asked(cpu=1)
    )
    assert "the queues below keep 3 of 4 slots for themselves" in why(found).message
    assert numbers(found)["available_milli"] == 0


def test_a_quota_that_was_cut_has_nothing_left_not_less() -> None:
    found = told(queue("mobility", quota={"cpu": 2}), node("n1", cpu=9), busy("r", 5), asked())
    assert numbers(found)["available_milli"] == 0
    assert "0 free under its quota: queue 'mobility' holds 5 (2 nominal)" in why(found).message


def test_more_than_the_quota_ever_gives_is_told_as_at_submit() -> None:
    found = told(queue("mobility", quota={"cpu": 2}, borrowing=1), node("n1", cpu=9), asked(cpu=4))
    assert why(found).reason is WaitReason.EXCEEDS_MAX_QUOTA
    assert numbers(found)["potential_milli"] == 3000


def test_a_gang_over_quota_is_told_how_much_of_it_the_quota_has_room_for() -> None:
    limited = queue("mobility", quota={"cpu": 5})
    found = told(limited, node("n1", cpu=9), busy("r", 2), asked(replicas=4))
    assert found.helps == ("a smaller gang: the quota has room for 3 replicas now (min_replicas)",)
    wide = told(limited, node("n1", cpu=9), busy("r", 2), asked(cpu=2, replicas=2))
    assert wide.helps == ("a smaller gang: the quota has room for 1 replica now (min_replicas)",)
    assert told(limited, node("n1", cpu=9), busy("r", 5), asked(replicas=4)).helps == ()


# -- what was lent -----------------------------------------------------------------------------------------------------


LENDERS = (
    queue("city"), queue("mobility", parent="city", quota={"cpu": 4}),
    queue("water", parent="city", quota={"cpu": 0}, borrowing=None),
    queue("bikes", parent="city", quota={"cpu": 0}, borrowing=None),
)  # fmt: skip


def test_who_holds_what_was_lent_and_until_about_when() -> None:
    found = told(
        *LENDERS, node("n1", cpu=4), busy("w", 2, of="water", minutes=7), busy("b", 1, of="bikes", minutes=3),
        busy("r", 1), asked(cpu=3, estimate_s=60),
    )  # fmt: skip
    assert why(found).message.endswith("; 3 of its quota lent to 'water' and 'bikes' until about 22:16 UTC")
    assert numbers(found)["lent_milli"] == 3000


def test_what_nobody_knows_the_end_of_is_told_without_a_time() -> None:
    found = told(*LENDERS, node("n1", cpu=4), busy("w", 3, of="water"), busy("r", 1), asked(cpu=3, estimate_s=60))
    assert why(found).message.endswith("; 3 of its quota lent to 'water'")


def test_what_is_free_is_not_lent() -> None:
    found = told(*LENDERS, node("n1", cpu=4), busy("w", 2, of="water"), asked(cpu=3, estimate_s=60))
    assert numbers(found)["lent_milli"] == 2000
    none = told(*LENDERS, node("n1", cpu=4), busy("r", 4), asked(cpu=1, estimate_s=60))
    assert numbers(none)["lent_milli"] == 0
    assert "lent" not in why(none).message


def test_of_many_borrowers_the_three_that_hold_most_are_named() -> None:
    borrowers = [queue(f"q{i}", parent="city", quota={"cpu": 0}, borrowing=None) for i in range(5)]
    jobs = [busy(f"b{i}", 1 + i % 3, of=f"q{i}") for i in range(5)]
    found = told(
        queue("city"), queue("mobility", parent="city", quota={"cpu": 9}), *borrowers, node("n1", cpu=9), *jobs,
        asked(cpu=9, estimate_s=60),
    )  # fmt: skip
    assert "lent to 'q2', 'q1' and 'q4'" in why(found).message


# -- held --------------------------------------------------------------------------------------------------------------


def test_behind_a_reservation_with_a_known_start_one_is_told_until_when() -> None:
    found = told(
        queue(), queue("water"), node("n1", cpu=4), busy("r", 2, minutes=30), asked("gang", replicas=4),
        asked("a", 2, of="water", at=5), id="a",
    )  # fmt: skip
    assert why(found).reason is WaitReason.HELD_BY_RESERVATION
    assert why(found).message == (
        "it would fit, but room in pool 'cpu' is kept for gang (4 x 1 cpu) until 22:43 UTC, which must not be starved"
    )
    assert numbers(found) == {"pool": "cpu", "job": "gang", "asked_replicas": 4, "until": NOW + 30 * MINUTE}
    assert why(found).hint == (
        "a job that is expected to end before that may start; so would one of higher priority, or in another pool"
    )
    own = told(
        queue(), node("n1", cpu=4), busy("r", 2, minutes=30), asked("gang", replicas=4), asked("a", 2, at=5), id="a"
    )
    assert "kept for gang before it in queue 'mobility' (4 x 1 cpu)" in why(own).message


def test_behind_a_job_that_waits_for_quota_one_is_told_its_name() -> None:
    found = told(
        queue("mobility", quota={"cpu": 4}), node("n1", cpu=9), busy("r", 3), asked("first", 2), asked("a", 1, at=5)
    )
    assert why(found).reason is WaitReason.HELD_BY_RESERVATION
    assert numbers(found) == {"pool": "cpu", "job": "first", "asked_replicas": 1}
    assert found.helps == ("an estimate of its run time, so that it may be filled in before what is reserved",)


# -- preemption --------------------------------------------------------------------------------------------------------


def victim(id: str, cpu: float = 1, *, grace_s: int = 10, stop: Stop | None = None) -> Job:
    row = busy(id, cpu, of="water", since=NOW - 3600 * SECOND)
    row = replace(row, spec=replace(row.spec, grace_s=grace_s))
    if stop is None:
        return row
    return replace(row, attempts=(replace(row.attempts[0], stop=stop, state=AttemptState.STOPPING),))


def test_a_preemptor_is_told_how_many_make_room_and_within_what_time() -> None:
    found = told(*LENDERS, node("n1", cpu=2), victim("v1", grace_s=30), victim("v2", grace_s=20), asked(cpu=2))
    assert why(found) == Waiting(
        WaitReason.WAITING_FOR_PREEMPTION,
        "2 jobs in pool 'cpu' make room for it (within 30 s)",
        "it starts when they have stopped; what they free is kept for it",
        (("grace_s", 30), ("pool", "cpu"), ("victims", 2)),
    )
    assert found.expected_start == NOW + 30 * SECOND
    one = told(*LENDERS, node("n1", cpu=2), victim("v1", 2), asked(cpu=2))
    assert why(one).message == "1 job in pool 'cpu' makes room for it (within 10 s)"


def test_while_its_victims_stop_it_is_told_the_same() -> None:
    stop = Stop(EndReason.PREEMPTED, NOW - SECOND, "a")
    found = told(*LENDERS, node("n1", cpu=2), victim("v1", 2, grace_s=40, stop=stop), asked(cpu=2))
    assert why(found).message == "1 job in pool 'cpu' makes room for it (within 40 s)"
    assert found.expected_start == NOW + 40 * SECOND


# -- several pools -----------------------------------------------------------------------------------------------------


def test_a_job_that_lists_its_flavors_is_told_of_another_that_would_do() -> None:
    found = told(
        SSD,
        queue(),
        node("n1", cpu=1),
        node("s1", pool="ssd", cpu=4),
        busy("r", 1),
        asked(flavors=("cpu",), estimate_s=60),
    )
    assert found.helps == ("another flavor: it would fit pool 'ssd' (ssd) now",)


def test_what_would_not_fit_either_or_is_another_tenants_is_not_told() -> None:
    private = pool("vault", cpu=1, memory_gib=4, tenant="water")
    own = pool("own", cpu=1, memory_gib=4, tenant="mobility")
    found = told(
        SSD, private, own, queue(), node("n1", cpu=1), node("s1", pool="ssd", cpu=4), node("v1", pool="vault", cpu=4),
        node("o1", pool="own", cpu=4), busy("r", 1), busy("s", 4, "s1", pool=SSD), asked(pool=CPU.name, estimate_s=60),
    )  # fmt: skip
    assert found.helps == ("another flavor: it would fit pool 'own' (own) now",)


def test_of_several_pools_the_one_that_may_still_help_is_told_of() -> None:
    found = told(
        SSD, queue(), node("n1", cpu=1), node("s1", pool="ssd", cpu=4), busy("s", 4, "s1", pool=SSD), asked(cpu=2)
    )
    assert numbers(found)["pool"] == "ssd"


def test_of_several_that_may_help_the_first_reason_in_order_is_told() -> None:
    limited = queue("mobility", quota={"ssd": 1})
    found = told(
        SSD,
        limited,
        node("n1", cpu=2),
        node("s1", pool="ssd", cpu=4),
        busy("r", 2),
        busy("s", 1, "s1", pool=SSD),
        asked(),
    )
    assert why(found).reason is WaitReason.WAITING_FOR_QUOTA
    assert numbers(found)["pool"] == "ssd"


# -- states and figures ------------------------------------------------------------------------------------------------


def test_what_the_policy_had_no_time_for_is_told_to_be_decided_next() -> None:
    """The operator's limit of decisions does not bind an explanation."""
    jobs = [asked(f"x{i}", at=i) for i in range(3)]
    found = told(queue(), node("n1", cpu=9), *jobs, asked("a", at=9), policy=Policy(max_decisions=1))
    assert why(found).message == "fits pool 'cpu' now; the next plan decides"
    assert (found.position, found.queue_length) == (4, 4)
    cut = Planning(snapshot(CPU, queue(), node("n1", cpu=9), *jobs, asked("a", at=9)), Policy(max_decisions=1), NOW)
    cut.run()
    reason, start, helps = why_in(cut, cut.snapshot.jobs[JobId("a")], NOW)
    assert reason is not None
    assert (reason.message, start, helps) == (
        "fits now, but the plan before it was full; the next plan decides", NOW, ()
    )  # fmt: skip


@pytest.mark.parametrize(("left_ms", "seconds"), [(1, 1), (1000, 1), (1001, 2), (59_000, 59)])
def test_a_back_off_is_told_in_whole_seconds_rounded_up(left_ms: int, seconds: int) -> None:
    row = replace(asked(), not_before=NOW + left_ms, retries=1)
    found = told(queue(), node("n1"), row)
    assert why(found).message == f"backs off for {seconds} s after 1 retry"
    assert numbers(found) == {"not_before": NOW + left_ms, "retries": 1}
    over = replace(row, not_before=NOW)
    assert "fits pool" in why(told(queue(), node("n1"), over)).message


def test_shares_and_quotas_add_up_over_the_pools_it_may_use() -> None:
    both = queue("mobility", quota={"cpu": 2, "ssd": 3})
    things = (SSD, both, node("n1", cpu=9), node("s1", pool="ssd", cpu=9), busy("r", 1), busy("s", 3, "s1", pool=SSD))
    found = told(*things, asked())
    assert (found.share_milli, found.nominal_milli) == (4000, 5000)
    one = told(*things, asked(pool=SSD.name))
    assert (one.share_milli, one.nominal_milli) == (3000, 3000)
    half = told(SSD, queue("mobility", quota={"cpu": 2}), node("n1", cpu=9), asked())
    assert half.nominal_milli is None
    nowhere = told(queue(), asked(pool="nowhere"))
    assert (nowhere.share_milli, nowhere.nominal_milli) == (0, None)


def test_the_share_above_quota_is_told_as_the_plan_compares_it() -> None:
    limited = queue("mobility", quota={"cpu": 1}, borrowing=None, weight=2)
    found = told(limited, node("n1", cpu=4), busy("r", 4), asked())
    assert found.fair_share == Fraction(3000, 4000 * 2)
    assert told(limited, node("n1", cpu=4), busy("r", 4), id="r").fair_share == 0


def test_what_is_wrong_with_the_job_itself_comes_first() -> None:
    found = told(queue(), node("n1"), asked(replicas=0))
    assert why(found).reason is WaitReason.MISCONFIGURED
    assert (found.expected_start, found.helps) == (None, ())
    assert why(told(queue(), node("n1"), asked(pool="nowhere"))).reason is WaitReason.NO_MATCHING_FLAVOR
