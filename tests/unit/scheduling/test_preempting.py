"""Who makes room, rule by rule (docs/adr/0012)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from factory.domain.ids import JobId
from factory.domain.jobs import Attempt, AttemptState, EndReason, Job, JobState, PriorityClass, Stop, Topology
from factory.domain.pools import Node, Pool
from factory.domain.tenancy import Queue
from factory.domain.time import SECOND
from factory.scheduling.cycle import Cycle
from factory.scheduling.planning import Admit, Plan, Planning, Policy, Preempt, plan
from factory.scheduling.preempting import Search, preemptions
from factory.testing.builders import allocation, job, node, pool, queue, running, snapshot

CPU = pool("cpu", cpu=1, memory_gib=0)
NOW = 10_000_000
HOUR = 3_600 * SECOND
HIGH, NORMAL, LOW = PriorityClass.HIGH, PriorityClass.NORMAL, PriorityClass.LOW
CITY = queue("city")


def line(name: str, nominal: float | None = None, *, parent: str | None = "city", weight: int = 1) -> Queue:
    """A queue that borrows without limit."""
    quota = None if nominal is None else {"cpu": nominal}
    return queue(name, parent=parent, quota=quota, borrowing=None, weight=weight)


def held(
    id: str,
    cpu: float = 1,
    *,
    of: str = "b",
    on: str = "n1",
    since: int = NOW - HOUR,
    saved: int | None = None,
    stopped: int = 0,
    priority: PriorityClass = NORMAL,
    grace_s: int = 10,
    stop: Stop | None = None,
    at: int = 0,
    replicas: int = 1,
) -> Job:
    """A job that runs; `stopped` earlier attempts of it were preempted."""
    row = job(id, cpu=cpu, queue=of, priority=priority, submitted_at=at, replicas=replicas)
    row = replace(row, spec=replace(row.spec, grace_s=grace_s))
    past = Stop(EndReason.PREEMPTED, 1, "job-x")
    for _ in range(stopped):
        row = running(row, allocation([on], pool=CPU, cpu=cpu))
        ended = replace(row.attempts[-1], state=AttemptState.ENDED, ended_at=2, stop=past)
        row = replace(row, attempts=(*row.attempts[:-1], ended))
    row = running(row, allocation([on] * replicas, pool=CPU, cpu=cpu))
    live: Attempt = replace(
        row.attempts[-1], admitted_at=since, running_at=since, checkpointed_at=saved, stop=stop,
        state=AttemptState.RUNNING if stop is None else AttemptState.STOPPING,
    )  # fmt: skip
    return replace(row, attempts=(*row.attempts[:-1], live))


def wish(id: str = "comes", cpu: float = 1, *, of: str = "a", priority: PriorityClass = NORMAL, at: int = NOW) -> Job:
    return job(id, cpu=cpu, queue=of, priority=priority, submitted_at=at)


def planned(*things: Pool | Node | Queue | Job, policy: Policy | None = None, now: int = NOW) -> Plan:
    return plan(snapshot(CPU, CITY, *things), policy or Policy(), now)


def stopped(made: Plan) -> list[str]:
    return [decision.job_id for decision in made.decisions if isinstance(decision, Preempt)]


def started(made: Plan) -> list[str]:
    return [decision.job_id for decision in made.decisions if isinstance(decision, Admit)]


# -- V1: reclaim -------------------------------------------------------------------------------------------------------


def test_what_was_lent_is_reclaimed_by_a_job_within_quota() -> None:
    made = planned(line("a", 2), line("b", 2), node("n1", cpu=4), *(held(f"b{i}") for i in range(4)), wish())
    assert len(stopped(made)) == 1
    (decision,) = made.decisions
    assert isinstance(decision, Preempt)
    assert (decision.attempt_id, decision.for_job) == (f"{decision.job_id}.1", "comes")


def test_nothing_is_reclaimed_from_a_queue_within_its_quota() -> None:
    made = planned(line("a", 4), line("b", 4), node("n1", cpu=4), *(held(f"b{i}") for i in range(4)), wish())
    assert stopped(made) == []


def test_so_much_as_the_quota_is_not_more_than_it() -> None:
    for nominal, gone in ((4, 0), (3, 1)):
        things = (line("a", 4), line("b", nominal), node("n1", cpu=4), *(held(f"b{i}") for i in range(4)), wish())
        assert len(stopped(planned(*things))) == gone


def test_quotas_are_compared_just_below_the_common_ancestor() -> None:
    """The department `east` as a whole is within its quota: what its own queues owe each other is not ours."""
    things = (
        line("west", 2), line("a", None, parent="west"), line("east", 4), line("b", 0, parent="east"),
        node("n1", cpu=4), *(held(f"b{i}") for i in range(4)), wish(),
    )  # fmt: skip
    assert stopped(planned(*things)) == []
    smaller = [line("east", 3) if isinstance(each, Queue) and each.name == "east" else each for each in things]
    assert len(stopped(planned(*smaller))) == 1


def test_between_a_queue_and_the_one_above_it_nothing_is_lent() -> None:
    made = planned(
        line("b", 1), line("a", 3, parent="b"), node("n1", cpu=4), *(held(f"b{i}") for i in range(4)), wish()
    )
    assert stopped(made) == []
    made = planned(
        line("a", 1), line("b", 3, parent="a"), node("n1", cpu=4), *(held(f"b{i}") for i in range(4)), wish()
    )
    assert stopped(made) == []


def test_queues_of_two_trees_meet_in_the_pool() -> None:
    lines = (line("a", 2, parent=None), line("b", 2, parent=None))
    made = planned(*lines, node("n1", cpu=4), *(held(f"b{i}") for i in range(4)), wish(cpu=2))
    assert len(stopped(made)) == 2


def test_what_the_preemptors_queue_holds_already_counts_for_its_quota() -> None:
    lines = (line("a", 2), line("b", 1), line("c", 1))
    things = (*lines, node("n1", cpu=4), held("a0", of="a"), *(held(f"b{i}") for i in range(3)))
    off = Policy(preempts_for_share=False)
    assert len(stopped(planned(*things, wish(cpu=1), policy=off))) == 1
    assert stopped(planned(*things, wish(cpu=2), policy=off)) == []


def test_a_pool_that_serves_first_come_first_served_reclaims_nothing() -> None:
    things = (line("a", 2), line("b", 2), node("n1", cpu=4), *(held(f"b{i}") for i in range(4)), wish())
    assert stopped(plan(snapshot(replace(CPU, policy="fifo"), CITY, *things), Policy(), NOW)) == []


# -- V2: above quota, by share -----------------------------------------------------------------------------------------


def shares(ours: int, theirs: int, size: int, *, weight: int = 1, nominal: int = 0, jobs: int = 1) -> Plan:
    """A full node: `ours` slots held by a, `theirs` by b in jobs of `jobs` slots, and a's wish for `size` more."""
    return planned(
        line("a", nominal, weight=weight), line("b", nominal), node("n1", cpu=ours + theirs),
        *(held(f"a{i}", of="a") for i in range(ours)), *(held(f"b{i}", jobs) for i in range(theirs // jobs)),
        wish(cpu=size),
    )  # fmt: skip


def test_above_quota_whoever_has_more_makes_room_for_whoever_has_less() -> None:
    assert len(stopped(shares(ours=1, theirs=5, size=1))) == 1


@pytest.mark.parametrize(("ours", "theirs", "gone"), [(1, 3, 0), (1, 4, 1), (2, 4, 0), (2, 5, 1), (0, 2, 0), (0, 3, 1)])
def test_the_share_with_the_job_must_stay_below_the_other_without_the_victim(ours: int, theirs: int, gone: int) -> None:
    assert len(stopped(shares(ours, theirs, size=1))) == gone


def test_a_large_victim_counts_whole() -> None:
    assert len(stopped(shares(ours=1, theirs=6, size=1, jobs=3))) == 1  # 2 < 3
    assert stopped(shares(ours=2, theirs=6, size=1, jobs=3)) == []  # 3 is not below 3
    assert stopped(shares(ours=0, theirs=6, size=1, jobs=6)) == []  # nothing would be left to it


def test_shares_are_per_weight() -> None:
    assert stopped(shares(ours=2, theirs=4, size=1)) == []
    assert len(stopped(shares(ours=2, theirs=4, size=1, weight=2))) == 1


def test_only_what_exceeds_the_quota_is_a_share() -> None:
    assert len(stopped(shares(ours=3, theirs=6, size=1, nominal=2))) == 1  # 2 < 3
    assert stopped(shares(ours=3, theirs=5, size=1, nominal=2)) == []  # 2 is not below 2


def test_who_has_weight_zero_yields_to_everybody_and_nobody_to_it() -> None:
    aside = (line("a", 0), line("b", 0, weight=0), node("n1", cpu=3), *(held(f"b{i}") for i in range(3)), wish())
    assert len(stopped(planned(*aside))) == 1
    assert stopped(shares(ours=0, theirs=6, size=1, weight=0)) == []


def test_shares_preempt_only_in_pools_with_quotas_and_only_if_the_operator_lets_them() -> None:
    free = (line("a"), line("b"), node("n1", cpu=6), *(held(f"b{i}") for i in range(6)), wish())
    assert stopped(planned(*free)) == []
    limited = (line("a", 0), line("b"), node("n1", cpu=6), *(held(f"b{i}") for i in range(6)), wish())
    assert len(stopped(planned(*limited))) == 1
    assert stopped(planned(*limited, policy=Policy(preempts_for_share=False))) == []


# -- V3: within a queue ------------------------------------------------------------------------------------------------


def test_a_higher_class_preempts_a_lower_one_of_its_own_queue() -> None:
    things = (line("a"), node("n1", cpu=2), held("low", 2, of="a", priority=LOW, at=NOW))
    assert stopped(planned(*things, wish(priority=NORMAL))) == ["low"]
    assert stopped(planned(*things, wish(priority=LOW))) == []


def test_an_equal_class_preempts_nobody_in_its_queue() -> None:
    assert stopped(planned(line("a"), node("n1", cpu=2), held("same", 2, of="a", at=NOW), wish(at=0))) == []


def test_the_lowest_class_goes_first_within_a_queue() -> None:
    things = (
        line("a"), node("n1", cpu=2), held("normal", of="a", at=NOW), held("low", of="a", priority=LOW, at=NOW),
        wish(priority=HIGH),
    )  # fmt: skip
    assert stopped(planned(*things)) == ["low"]


def test_by_least_attained_service_who_has_had_the_most_goes_first() -> None:
    old, older = held("old", of="a", since=NOW - 3 * HOUR), held("older", of="a", since=NOW - 2 * HOUR, at=5)
    things = (line("a"), node("n1", cpu=2), old, older, wish(at=NOW))
    made = plan(snapshot(replace(CPU, policy="least-attained-service"), CITY, *things), Policy(), NOW)
    # both are of the same level; the one that was submitted later has the greater key
    assert stopped(made) == ["older"]


def test_the_shortest_job_preempts_the_one_with_most_left() -> None:
    def lasting(row: Job, seconds: int) -> Job:
        return replace(row, spec=replace(row.spec, estimate_s=seconds))

    things = (
        line("a"), node("n1", cpu=2), lasting(held("long", of="a"), 9 * 3600),
        lasting(held("longer", of="a"), 10 * 3600),
        lasting(wish(), 3600),
    )  # fmt: skip
    shortest = replace(CPU, policy="shortest")
    assert stopped(plan(snapshot(shortest, CITY, *things), Policy(), NOW)) == ["longer"]
    nearly = (line("a"), node("n1", cpu=1), lasting(held("long", of="a"), 3600 + 1800), lasting(wish(), 3600))
    assert stopped(plan(snapshot(shortest, CITY, *nearly), Policy(), NOW)) == []  # half an hour is left


# -- V4: in which order ------------------------------------------------------------------------------------------------


def test_other_queues_make_room_before_the_own() -> None:
    made = planned(
        line("a", 3), line("b", 0), node("n1", cpu=3), held("own", of="a", priority=LOW, at=NOW),
        held("b0"), held("b1"),
        wish(priority=HIGH),
    )  # fmt: skip
    assert stopped(made)[0].startswith("b")


def test_the_queue_with_the_largest_share_makes_room_first() -> None:
    made = planned(
        line("a", 4), line("b", 0), line("c", 0), node("n1", cpu=5), held("b0"), held("b1"),
        *(held(f"c{i}", of="c") for i in range(3)), wish(),
    )  # fmt: skip
    assert stopped(made)[0].startswith("c")
    heavier = (
        line("a", 4), line("b", 0), line("c", 0, weight=3), node("n1", cpu=5), held("b0"), held("b1"),
        *(held(f"c{i}", of="c") for i in range(3)), wish(),
    )  # fmt: skip
    assert stopped(planned(*heavier))[0].startswith("b")


def test_a_queue_below_one_with_a_large_share_counts_as_that() -> None:
    made = planned(
        line("a", 4), line("b", 0), line("east", 0), line("c", 2, parent="east"), node("n1", cpu=7),
        held("b0"), held("b1"), *(held(f"c{i}", of="c") for i in range(5)), wish(),
    )  # fmt: skip
    assert stopped(made)[0].startswith("c")


def test_within_another_queue_the_lowest_class_goes_first_then_what_loses_least() -> None:
    base = (line("a", 3), line("b", 0), node("n1", cpu=3))
    low = (held("b0", since=NOW - HOUR), held("b1", priority=LOW, since=NOW - 9 * HOUR), held("b2"))
    assert stopped(planned(*base, *low, wish())) == ["b1"]
    young = (held("b0", since=NOW - 3 * HOUR), held("b1", since=NOW - 2 * HOUR), held("b2", since=NOW - 4 * HOUR))
    assert stopped(planned(*base, *young, wish())) == ["b1"]


def test_work_that_was_saved_is_not_lost() -> None:
    jobs = (
        held("b0", since=NOW - 9 * HOUR, saved=NOW - SECOND),
        held("b1", since=NOW - HOUR),
        held("b2", since=NOW - HOUR),
    )
    assert stopped(planned(line("a", 3), line("b", 0), node("n1", cpu=3), *jobs, wish())) == ["b0"]


def test_work_counts_by_slots_and_of_equal_work_the_last_admitted_goes() -> None:
    wide = (held("b0", 2, since=NOW - HOUR), held("b1", 1, since=NOW - HOUR - 60 * SECOND))
    assert stopped(planned(line("a", 3), line("b", 0), node("n1", cpu=3), *wide, wish())) == ["b1"]
    saved = (
        held("b0", since=NOW - 2 * HOUR, saved=NOW), held("b1", since=NOW - HOUR, saved=NOW),
        held("b2", since=NOW - 3 * HOUR, saved=NOW),
    )  # fmt: skip
    assert stopped(planned(line("a", 3), line("b", 0), node("n1", cpu=3), *saved, wish())) == ["b1"]


def test_of_equal_candidates_the_id_decides() -> None:
    jobs = [held(f"b{i}") for i in range(4)]
    made = [planned(line("a", 4), line("b", 0), node("n1", cpu=4), *order, wish()) for order in (jobs, jobs[::-1])]
    assert stopped(made[0]) == stopped(made[1]) == ["b0"]


def test_a_gang_is_one_victim() -> None:
    made = planned(line("a", 4), line("b", 0), node("n1", cpu=4), held("gang", replicas=4), wish())
    assert stopped(made) == ["gang"]


# -- V5: no more than must be ------------------------------------------------------------------------------------------


def test_who_need_not_go_is_spared() -> None:
    """Small ones are taken first, as they lose least; when the large one has gone they were not needed."""
    jobs = (held("b0", since=NOW - HOUR), held("b1", 3, since=NOW - 2 * HOUR, on="n2"))
    made = planned(line("a", 4), line("b", 0), node("n1", cpu=1), node("n2", cpu=3), *jobs, wish(cpu=3))
    assert stopped(made) == ["b1"]


def test_as_few_as_fit_on_one_node_are_taken() -> None:
    jobs = (*(held(f"b{i}") for i in range(4)), *(held(f"c{i}", on="n2", since=NOW - 2 * HOUR) for i in range(4)))
    made = planned(line("a", 8), line("b", 0), node("n1", cpu=4), node("n2", cpu=4), *jobs, wish(cpu=2))
    assert len(stopped(made)) == 2
    assert {id[0] for id in stopped(made)} == {"b"}


def test_a_victim_that_was_legal_only_because_of_one_that_is_spared_is_none() -> None:
    """kueue#14543: the removal of a job of the own queue must not justify taking from another one."""
    made = planned(
        line("a", 2), line("b", 2), node("n1", cpu=2), node("n2", cpu=3),
        held("own", 2, of="a", on="n1", priority=LOW, at=NOW), held("b0", 3, on="n2", since=NOW - 2 * HOUR),
        wish(cpu=3, priority=HIGH), policy=Policy(preempts_for_share=False),
    )  # fmt: skip
    assert stopped(made) == []


# -- V6: who is left alone ---------------------------------------------------------------------------------------------


def one(victim: Job, policy: Policy | None = None, *, now: int = NOW) -> list[str]:
    return stopped(planned(line("a", 1), line("b", 0), node("n1", cpu=1), victim, wish(), policy=policy, now=now))


def test_an_attempt_that_is_too_young_is_left_alone() -> None:
    assert one(held("b0", since=NOW - 119 * SECOND)) == []
    assert one(held("b0", since=NOW - 120 * SECOND)) == ["b0"]


def test_an_operator_may_say_how_young_is_too_young() -> None:
    policy = Policy(min_runtime_s=10)
    assert one(held("b0", since=NOW - 9 * SECOND), policy) == []
    assert one(held("b0", since=NOW - 10 * SECOND), policy) == ["b0"]
    assert one(held("b0", since=NOW), Policy(min_runtime_s=0)) == ["b0"]


def test_the_plan_asks_to_be_made_again_when_somebody_is_old_enough() -> None:
    things = (line("a", 2), line("b", 0), node("n1", cpu=2))
    young = (held("b0", since=NOW - 20 * SECOND), held("b1", since=NOW - 50 * SECOND))
    assert planned(*things, *young, wish()).wake_at == NOW + 70 * SECOND
    assert planned(*things, held("b0", 2, since=NOW - 500 * SECOND), wish()).wake_at is None


def test_a_job_that_was_preempted_too_often_is_left_alone() -> None:
    assert one(held("b0", stopped=4)) == ["b0"]
    assert one(held("b0", stopped=5)) == []
    assert one(held("b0", stopped=1), Policy(max_preemptions=1)) == []
    assert one(held("b0", stopped=7), Policy(max_preemptions=8)) == ["b0"]


def test_only_preemptions_count_as_such() -> None:
    assert preemptions(held("b0", stopped=3)) == 3
    row = held("b0", stopped=3)
    other = replace(row.attempts[0], stop=Stop(EndReason.TIMED_OUT, 0))
    assert preemptions(replace(row, attempts=(other, *row.attempts[1:]))) == 2
    assert preemptions(job()) == 0


def test_who_is_being_stopped_anyway_is_no_candidate() -> None:
    assert one(held("b0", stop=Stop(EndReason.CANCELLED, NOW - 5))) == []


def test_nobody_is_taken_twice_in_one_plan() -> None:
    made = planned(
        line("a", 2), line("c", 2), line("b", 0), node("n1", cpu=2), held("b0"), held("b1"), wish("a0"),
        wish("c0", of="c"),
    )  # fmt: skip
    assert sorted(stopped(made)) == ["b0", "b1"]


# -- V7: only if it helps ----------------------------------------------------------------------------------------------


def test_nobody_is_preempted_for_a_job_that_would_not_fit_all_the_same() -> None:
    things = (line("a", 8), line("b", 0), node("n1", cpu=2), node("n2", cpu=2))
    jobs = (held("b0", 2), held("b1", 1, on="n2"), held("a0", 1, of="a", on="n2"))
    assert stopped(planned(*things, *jobs, wish(cpu=2))) == ["b0"]
    stuck = (held("b0", 1), held("a1", 1, of="a"), held("b1", 1, on="n2"), held("a0", 1, of="a", on="n2"))
    assert stopped(planned(*things, *stuck, wish(cpu=2))) == []


def test_at_most_so_many_victims_are_taken_for_one_job() -> None:
    things = (line("a", 8), line("b", 0), node("n1", cpu=4), *(held(f"b{i}") for i in range(4)), wish(cpu=4))
    assert len(stopped(planned(*things))) == 4
    assert stopped(planned(*things, policy=Policy(max_victims=3))) == []
    assert len(stopped(planned(*things, policy=Policy(max_victims=4)))) == 4


def test_the_shape_of_the_gang_counts() -> None:
    spread = wish(cpu=1)
    spread = replace(spread, spec=replace(spread.spec, replicas=2, topology=Topology.SPREAD))
    things = (line("a", 4), line("b", 0), node("n1", cpu=1), node("n2", cpu=1), held("b0"), held("b1", on="n2"))
    assert sorted(stopped(planned(*things, spread))) == ["b0", "b1"]


def test_what_is_freed_is_kept_for_the_preemptor_in_the_same_plan() -> None:
    made = planned(
        line("a", 2), line("b", 0), node("n1", cpu=3), held("b0", 3), wish(cpu=2),
        wish("other", cpu=1, of="b", at=0),
    )  # fmt: skip
    assert stopped(made) == ["b0"]
    assert started(made) == []


def test_two_preemptors_do_not_count_on_the_same_slots() -> None:
    made = planned(
        line("a", 4),
        line("b", 0),
        node("n1", cpu=4),
        held("b0", 3),
        held("a0", 1, of="a"),
        wish("c1", 2),
        wish("c2", 2),
    )
    assert stopped(made) == ["b0"]
    planning = Planning(
        snapshot(CPU, CITY, line("a", 4), line("b", 0), node("n1", cpu=4), held("b0", 4), wish("c1", 2)), Policy(), NOW
    )
    planning.run()
    assert [job.id for job in planning.preempting[JobId("c1")].victims] == ["b0"]
    assert planning.preempting[JobId("c1")].allocation.slots_milli == 2000


def test_the_swap_is_stable() -> None:
    """Stopped and queued again, a victim finds nothing in the next plans; the preemptor keeps what it got."""
    things: list[Pool | Node | Queue | Job] = [line("a", 0), line("b", 0), node("n1", cpu=3)]
    made = planned(*things, *(held(f"b{i}") for i in range(3)), wish())
    (gone,) = stopped(made)
    rest = [held(f"b{i}") for i in range(3) if f"b{i}" != gone]
    again = [*things, *rest, held("comes", of="a"), job(gone, queue="b", submitted_at=0)]
    assert planned(*again, now=NOW + HOUR).decisions == ()


# -- the search itself -------------------------------------------------------------------------------------------------


def test_so_many_are_searched_for_in_one_plan_and_the_others_in_other_seconds() -> None:
    jobs = [wish(f"w{i:02}", 4, of=f"q{i:02}") for i in range(40)]
    lines = [line(f"q{i:02}", 4) for i in range(40)]
    things = (*lines, line("b", 0), node("n1", cpu=4), *(held(f"b{i}", 2) for i in range(1)), held("keep", 2, of="q00"))
    snap = snapshot(CPU, CITY, *things, *jobs)
    found: set[str] = set()
    for second in range(64):
        cycle = Cycle(snap, Policy(searches=0), NOW + second * SECOND)
        search = Search(cycle, cycle.stock(CPU.name))
        looked = [row.id for row in jobs if search._may_search(row)]
        assert len(looked) <= 5
        assert not found & set(looked)
        found |= set(looked)
    assert found == {row.id for row in jobs}


def test_a_search_that_could_not_find_anybody_costs_none_of_the_few() -> None:
    """Queues without anybody to preempt come first; the one with something to reclaim gets its search."""
    lines = [line(f"q{i}", 0, parent=None) for i in range(9)]
    jobs = [wish(f"w{i}", 1, of=f"q{i}", at=i) for i in range(9)]
    made = planned(
        *lines, line("a", 1), line("b", 0), node("n1", cpu=1), held("b0"), *jobs, wish("zz", of="a"),
        policy=Policy(searches=1, preempts_for_share=False),
    )  # fmt: skip
    assert stopped(made) == ["b0"]


def test_a_job_of_a_queue_that_is_gone_reclaims_nothing() -> None:
    cycle = Cycle(snapshot(CPU, line("b", 0), node("n1", cpu=1), held("b0"), wish(of="gone")), Policy(), NOW)
    row = wish(of="gone")
    place = cycle.snapshot.places[row.id]
    assert Search(cycle, cycle.stock(CPU.name)).find(row, place.lane, place.turn) is None


def test_what_a_queue_that_is_gone_holds_is_not_reclaimed() -> None:
    assert stopped(planned(line("a", 1), node("n1", cpu=1), held("b0", of="gone"), wish())) == []


def test_a_job_that_waits_is_not_touched_by_its_own_search() -> None:
    row = wish()
    assert row.state is JobState.QUEUED
    assert planned(line("a", 1), node("n1", cpu=1), row).decisions != ()
