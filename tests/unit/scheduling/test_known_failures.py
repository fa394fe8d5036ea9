"""What went wrong in other schedulers must not go wrong here: one test for each known failure, named after it.

The failures and their numbers are those of the notes on scheduling, §7. Each test speaks to the kernel as the control
loop does: rows in, plans out, the decisions folded by `lifecycle.record` and fed back as changes. Every plan on the way
is checked against books of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from factory.domain.events import (
    Admitted,
    AttemptEnded,
    AttemptRunning,
    AttemptStarting,
    Event,
    PreemptRequested,
)
from factory.domain.ids import JobId
from factory.domain.jobs import AttemptState, EndReason, Job, JobState, Outcome, PriorityClass, WaitReason
from factory.domain.pools import Node, Pool, Runner
from factory.domain.tenancy import Queue
from factory.domain.time import SECOND, Instant
from factory.lifecycle.stepping import next_attempt_id, record
from factory.scheduling.explaining import explain
from factory.scheduling.planning import Admit, Plan, Policy, Preempt, plan
from factory.scheduling.snapshot import Change, JobChanged, Snapshot
from factory.testing.builders import allocation, job, node, pool, queue, rows, runner, running
from factory.testing.plan_checks import Books

START: Instant = 10_000_000_000
MINUTE = 60 * SECOND
CPU = pool("cpu", cpu=1, memory_gib=4)
GPU = pool("gpu", cpu=4, memory_gib=16, gpu=1)


class Town:
    """A small factory whose control loop turns when it is told to; what is admitted runs at once."""

    def __init__(self, *things: Pool | Node | Queue | Job | Runner) -> None:
        self.books = Books(rows(runner(), *things))
        self.snapshot = Snapshot.build(self.books.rows())
        self.now = START
        self.started: list[str] = []  # in the order of the decisions
        self.stopped: list[tuple[str, str]] = []  # (victim, preemptor)

    def job(self, id: str) -> Job:
        return self.books.jobs[JobId(id)]

    def runs(self, id: str) -> bool:
        live = self.job(id).live_attempt
        return live is not None and live.state is AttemptState.RUNNING

    def submit(self, *jobs: Job) -> None:
        self._feed([JobChanged(row.id, row) for row in jobs])

    def end(self, *ids: str) -> None:
        for id in ids:
            self._finish(self.job(id), EndReason.COMPLETED)

    def look(self) -> Plan:
        """Plan once and perform it."""
        made = plan(self.snapshot, Policy(), self.now)
        assert self.books.faults(made, self.now) == []
        for decision in made.decisions:
            row = self.books.jobs[decision.job_id]
            match decision:
                case Admit():
                    id = next_attempt_id(row)
                    row = self._record(row, Admitted(self.now, id, decision.runner, decision.allocation, epoch=1))
                    row = self._record(row, AttemptStarting(self.now, id))
                    self._record(row, AttemptRunning(self.now, id))
                    self.started.append(row.id)
                case Preempt():
                    self._record(row, PreemptRequested(self.now, decision.attempt_id, decision.for_job, epoch=1))
                    self.stopped.append((row.id, decision.for_job))
        return made

    def bury(self) -> None:
        """Every attempt that is being stopped is proven dead."""
        for row in sorted(self.books.jobs.values(), key=lambda row: row.id):
            live = row.live_attempt
            if live is not None and live.stop is not None:
                self._finish(row, EndReason.PREEMPTED)

    def settle(self, most: int = 40, every_ms: int = 10 * MINUTE) -> int:
        """Turn until nothing is decided any more; return how many turns decided something."""
        for turns in range(most):
            if not self.look().decisions:
                return turns
            self.now += every_ms
            self.bury()
        raise AssertionError(f"still deciding after {most} turns: {self.stopped}")

    def _finish(self, row: Job, reason: EndReason) -> None:
        live = row.live_attempt
        assert live is not None
        self._record(row, AttemptEnded(self.now, live.id, Outcome(reason), "report"))

    def _record(self, row: Job, event: Event) -> Job:
        after, _, _ = record(row, event)
        self._feed([JobChanged(after.id, after)])
        return after

    def _feed(self, changes: Iterable[Change]) -> None:
        changes = list(changes)
        self.books.apply(changes)
        self.snapshot = self.snapshot.evolve(changes)


def asked(id: str, *, minutes: int | None = None, at: Instant = 0, **what: object) -> Job:
    """A job that waits since `at` minutes after the beginning; `minutes` is its estimate."""
    row = job(id, submitted_at=START + at * MINUTE, **what)  # pyright: ignore[reportArgumentType]
    return row if minutes is None else replace(row, spec=replace(row.spec, estimate_s=60 * minutes))


def at_work(
    id: str, on: str = "n1", *, cpu: float = 1, replicas: int = 1, minutes: int | None = None, **what: object
) -> Job:
    """A job that runs since an hour, each replica on a node of `on` in turn."""
    names = on.split()
    places = [names[rank % len(names)] for rank in range(replicas)]
    row = asked(id, cpu=cpu, replicas=replicas, minutes=minutes, at=-70, **what)
    base = running(row, allocation(places, pool=CPU, cpu=cpu))
    live = replace(base.attempts[-1], admitted_at=START - 60 * MINUTE, running_at=START - 60 * MINUTE)
    return replace(base, attempts=(live,))


# -- 1 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [3, 4, 5, 6])
def test_kueue_3779_no_ping_pong_between_two_borrowers(size: int) -> None:
    """The preemptor's share ended above its victim's, so the victim came back, and so on for ever."""
    town = Town(
        CPU,
        node("n1", cpu=8),
        queue("city"),
        queue("a", parent="city", quota={"cpu": 4}, borrowing=None),
        queue("b", parent="city", quota={"cpu": 4}, borrowing=None),
        at_work("held", cpu=8, queue="a"),
        asked("comes", cpu=size, queue="b"),
    )
    town.settle()
    assert len(town.stopped) <= 1
    assert not any(victim == "comes" for victim, _ in town.stopped)


def test_kueue_7101_a_fixed_queue_comes_to_rest() -> None:
    """Thirty-three preemptions and more of the same jobs, with nothing new submitted."""
    jobs = [asked(f"{name}{i}", cpu=2 + i % 3, queue=name, at=i) for name in "abc" for i in range(4)]
    town = Town(
        CPU,
        node("n1", cpu=8),
        node("n2", cpu=4),
        queue("city"),
        *(queue(name, parent="city", quota={"cpu": 4}, borrowing=None, weight=1 + at) for at, name in enumerate("abc")),
        at_work("old1", cpu=6, queue="a"),
        at_work("old2", "n2", cpu=4, queue="a"),
        *jobs,
    )
    town.settle()
    assert all(town.stopped.count(pair) == 1 for pair in town.stopped)


# -- 2 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("own", [1, 2, 3])
@pytest.mark.parametrize("theirs", [1, 2, 3])
@pytest.mark.parametrize("wants", [2, 3, 4])
def test_kueue_14543_victims_of_other_queues_stay_legal_after_the_fill_back(own: int, theirs: int, wants: int) -> None:
    """A victim of the own queue was spared at the end, after its removal had justified taking from another queue."""
    others = [at_work(f"theirs{i}", cpu=1, queue="b") for i in range(8 - 2 * own)]
    town = Town(
        CPU,
        node("n1", cpu=8),
        queue("city"),
        queue("a", parent="city", quota={"cpu": 4}, borrowing=None),
        queue("b", parent="city", quota={"cpu": theirs}, borrowing=None),
        *(at_work(f"own{i}", cpu=own, queue="a", priority=PriorityClass.LOW) for i in range(2)),
        *others,
        asked("comes", cpu=wants, queue="a", priority=PriorityClass.HIGH),
    )
    town.look()  # the books find a victim that may not be taken
    taken = sum(1 for victim, _ in town.stopped if victim.startswith("theirs"))
    assert len(others) - taken >= min(theirs, len(others)), "nobody falls under the nominal quota"


@pytest.mark.parametrize("at_once", [True, False])
def test_kueue_14543_several_preemptors_together_take_only_what_was_borrowed(at_once: bool) -> None:
    """What is being stopped already must not count as borrowed once more, in this plan or in the next."""
    wishes = [asked(f"comes{i}", cpu=2, queue="a", at=i) for i in range(4)]
    town = Town(
        CPU,
        node("n1", cpu=8),
        queue("city"),
        queue("a", parent="city", quota={"cpu": 8}, borrowing=None),
        queue("b", parent="city", quota={"cpu": 2}, borrowing=None),
        *(at_work(f"held{i}", queue="b") for i in range(8)),
        *(wishes if at_once else wishes[:1]),
    )
    town.look()
    if not at_once:
        for wish in wishes[1:]:
            town.submit(wish)
            town.look()
    assert len(town.stopped) == 6
    assert len({victim for victim, _ in town.stopped}) == 6


def test_kueue_14543_victims_of_a_job_that_started_elsewhere_are_on_their_way_out_still() -> None:
    """They hold their slots until they are proven dead, but they are no longer borrowed: nobody else goes for them."""
    town = Town(
        CPU,
        node("n1", cpu=4),
        queue("city"),
        queue("a", parent="city", quota={"cpu": 2}, borrowing=None),
        queue("b", parent="city", quota={"cpu": 2}, borrowing=None),
        at_work("own", queue="a"),
        *(at_work(f"held{i}", queue="b") for i in range(3)),
        asked("first", queue="a"),
    )
    town.look()
    town.end("own")
    town.look()
    assert town.runs("first")
    town.submit(asked("second", queue="a", at=1))
    town.look()
    assert len(town.stopped) == 1
    town.bury()
    town.look()
    assert town.runs("second")


# -- 3 -----------------------------------------------------------------------------------------------------------------


def test_volcano_4947_the_victim_is_not_first_again_because_its_share_fell() -> None:
    """Evicted, the victim's queue held nothing, came first in the next order, and took the slots back."""
    town = Town(
        CPU,
        node("n1", cpu=4),
        queue("city"),
        queue("a", parent="city", quota={"cpu": 1}, borrowing=None),
        queue("b", parent="city", quota={"cpu": 3}, borrowing=None),
        at_work("victim", cpu=4, queue="a"),
        asked("comes", cpu=3, queue="b"),
    )
    town.look()
    assert town.stopped == [("victim", "comes")]
    town.now += 30 * SECOND
    town.bury()
    town.look()
    assert town.runs("comes")
    assert not town.runs("victim")


# -- 4 -----------------------------------------------------------------------------------------------------------------


def test_armada_5071_what_is_freed_for_a_job_goes_to_that_job() -> None:
    """Victims were chosen in one order and slots given out in another, so that somebody else got them."""
    town = Town(
        CPU,
        node("n1", cpu=4),
        queue("city"),
        queue("a", parent="city", quota={"cpu": 1}, borrowing=None),
        queue("b", parent="city", quota={"cpu": 3}, borrowing=None),
        at_work("victim", cpu=4, queue="a"),
        asked("comes", cpu=3, queue="b"),
    )
    town.look()
    assert town.stopped == [("victim", "comes")]
    town.submit(*(asked(f"small{i}", queue="a", at=1, priority=PriorityClass.HIGH) for i in range(6)))
    town.look()
    town.now += 30 * SECOND
    town.bury()
    town.look()
    assert town.runs("comes")


# -- 5 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("replicas", [9, 40])
def test_kai_2074_a_job_that_can_never_run_stops_nobody(replicas: int) -> None:
    """A doomed job won every cycle: it was tried first, failed, and the cycle ended, or it evicted for nothing."""
    town = Town(
        CPU,
        node("n1", cpu=8),
        queue("city"),
        queue("a", parent="city", quota={"cpu": 4}, borrowing=None),
        queue("b", parent="city", quota={"cpu": 4}, borrowing=None),
        at_work("held", cpu=6, queue="b"),
        asked("doomed", replicas=replicas, queue="a", priority=PriorityClass.HIGH),
        asked("behind", queue="a", at=1),
        asked("other", queue="b", at=2),
    )
    town.settle()
    assert town.stopped == []
    assert town.runs("behind")
    assert town.runs("other")


# -- 6 -----------------------------------------------------------------------------------------------------------------


def test_volcano_4607_one_gang_dies_for_two_slots_not_ten_gangs() -> None:
    """One member was evicted of each of ten gangs, which killed all ten."""
    gangs = [at_work(f"gang{i}", f"n{1 + i % 5} n{1 + (i + 1) % 5}", replicas=2, queue="a") for i in range(10)]
    town = Town(
        CPU,
        *(node(f"n{i}", cpu=4) for i in range(1, 6)),
        queue("city"),
        queue("a", parent="city", quota={"cpu": 10}, borrowing=None),
        queue("b", parent="city", quota={"cpu": 10}, borrowing=None),
        *gangs,
        asked("comes", replicas=2, queue="b"),
    )
    town.look()
    assert len(town.stopped) == 1


def test_volcano_3291_nobody_is_preempted_beside_a_free_node() -> None:
    """Victims were taken on a full node while another node stood empty."""
    town = Town(
        CPU,
        node("n1", cpu=4),
        node("n2", cpu=4),
        queue("city"),
        queue("a", parent="city", quota={"cpu": 1}, borrowing=None),
        queue("b", parent="city", quota={"cpu": 7}, borrowing=None),
        at_work("held", cpu=4, queue="a", priority=PriorityClass.LOW),
        asked("comes", cpu=4, queue="b", priority=PriorityClass.HIGH),
    )
    town.look()
    assert town.stopped == []
    assert town.runs("comes")


# -- 7 -----------------------------------------------------------------------------------------------------------------


def test_volcano_5805_gangs_that_fit_one_at_a_time_do_not_block_each_other() -> None:
    """Half of each gang held half of the slots, and counted against its own queue's share."""
    town = Town(
        CPU,
        node("n1", cpu=2),
        node("n2", cpu=2),
        queue("a"),
        queue("b"),
        asked("gang-a", replicas=3, queue="a"),
        asked("gang-b", replicas=3, queue="b"),
    )
    town.look()
    assert [town.runs("gang-a"), town.runs("gang-b")].count(True) == 1
    waits = "gang-b" if town.runs("gang-a") else "gang-a"
    assert town.job(waits).attempts == ()
    town.end("gang-a" if waits == "gang-b" else "gang-b")
    town.settle()
    assert town.runs(waits)


def test_kai_500_the_gang_of_a_whole_cluster_is_one_gang() -> None:
    """Head and workers of one Ray cluster were placed one by one, and a part of them waited for ever."""
    town = Town(CPU, node("n1", cpu=3), queue("a"), at_work("held", queue="a"), asked("cluster", replicas=3, queue="a"))
    town.look()
    assert town.job("cluster").attempts == ()
    town.end("held")
    town.look()
    held = town.job("cluster").attempts[0].allocation
    assert [placement.rank for placement in held.placements] == [0, 1, 2]


# -- 8 -----------------------------------------------------------------------------------------------------------------


def test_kueue_8309_a_blocked_head_does_not_hold_up_other_flavors() -> None:
    """Strict first-in-first-out: the head waited for GPUs, and CPU jobs behind it waited with it."""
    town = Town(
        CPU,
        GPU,
        node("n1", cpu=4),
        node("g1", pool="gpu", cpu=4, memory_gib=16, gpus=1),
        queue("a"),
        asked("first", gpu=1, cpu=1, queue="a"),
        asked("head", gpu=1, cpu=1, queue="a", at=1),
        asked("behind", cpu=1, pool="cpu", queue="a", at=2),
    )
    town.look()
    assert town.runs("first")
    assert not town.runs("head")
    assert town.runs("behind")


def test_kueue_8309_a_stream_of_small_jobs_does_not_starve_a_gang() -> None:
    """Best-effort first-in-first-out: a gang waited for ever while small jobs took each slot that came free."""
    town = Town(
        CPU,
        node("n1", cpu=4),
        queue("a"),
        *(asked(f"small{i:02}", queue="a", at=-9) for i in range(4)),
    )
    town.look()
    town.submit(asked("gang", replicas=4, queue="a"))
    for turn in range(4, 12):
        town.submit(asked(f"small{turn:02}", queue="a", at=turn))
        town.now += MINUTE
        town.look()
        oldest = next((id for id in town.started if JobId(id) in town.books.jobs and id.startswith("small")), None)
        if oldest is not None:
            town.end(oldest)
        if "gang" in town.started:
            break
    assert "gang" in town.started, "the four small jobs before it ended, and it still waits"
    assert town.started.index("gang") == 4


def test_kueue_4809_a_queue_that_cannot_use_its_quota_lends_it() -> None:
    """The head was too big for what was left, and the quota that it did not use was kept from everybody."""
    town = Town(
        CPU,
        node("n1", cpu=8),
        queue("city"),
        queue("a", parent="city", quota={"cpu": 4}, borrowing=0),
        queue("b", parent="city", quota={"cpu": 4}, borrowing=None),
        asked("too-big", cpu=5, queue="a"),
        *(asked(f"b{i}", cpu=2, queue="b") for i in range(4)),
    )
    town.settle()
    assert all(town.runs(f"b{i}") for i in range(4))


def test_volcano_4690_first_in_first_out_is_there_for_those_who_ask() -> None:
    """Users asked for plain order of submission across queues; it is a policy of the pool."""
    town = Town(
        replace(CPU, policy="fifo"),
        node("n1", cpu=1),
        queue("a"),
        queue("b", weight=5),
        *(asked(f"job{i}", queue="ab"[i % 2], at=i - 10) for i in (3, 1, 4, 0, 2)),
    )
    for i in range(5):
        town.look()
        town.end(f"job{i}")
    assert town.started == [f"job{i}" for i in range(5)]


# -- 9 -----------------------------------------------------------------------------------------------------------------


def test_kep_4136_a_burst_between_two_samples_of_usage_gains_nothing() -> None:
    """Usage was sampled now and then: what was admitted in between did not count, and a burst took it all."""
    town = Town(
        CPU,
        node("n1", cpu=8),
        queue("a"),
        queue("b"),
        *(asked(f"burst{i}", queue="a", at=-5) for i in range(20)),
        *(asked(f"calm{i}", queue="b", at=-1) for i in range(20)),
    )
    town.look()
    assert sum(id.startswith("burst") for id in town.started) == 4
    assert sum(id.startswith("calm") for id in town.started) == 4


# -- 10 ----------------------------------------------------------------------------------------------------------------


def test_themis_a_job_of_unknown_length_does_not_pass_a_reservation() -> None:
    """Who does not say how long it runs must not gain by that."""
    town = Town(
        CPU,
        node("n1", cpu=4),
        queue("a"),
        at_work("held", cpu=2, queue="a", minutes=120),
        asked("head", cpu=4, queue="a"),
        asked("unknown", cpu=2, queue="a", at=1),
        asked("long", cpu=2, queue="a", at=2, minutes=600),
        asked("short", cpu=2, queue="a", at=3, minutes=20),
    )
    town.look()
    assert town.started == ["short"]


def test_themis_an_overrun_is_not_believed_for_ever() -> None:
    """An understated run time bought a start before others; past its word, no start is expected in the past."""
    town = Town(
        CPU,
        node("n1", cpu=2),
        queue("a"),
        at_work("liar", cpu=2, queue="a", minutes=10),
        asked("head", cpu=2, queue="a"),
    )
    town.now += 5 * MINUTE
    expected = explain(town.snapshot, JobId("head"), town.now).expected_start
    assert expected is None or expected > town.now


# -- 11 ----------------------------------------------------------------------------------------------------------------


def test_armada_4340_a_preempted_job_is_queued_again_and_runs_again() -> None:
    """Preempted jobs were gone."""
    town = Town(
        CPU,
        node("n1", cpu=4),
        queue("city"),
        queue("a", parent="city", quota={"cpu": 1}, borrowing=None),
        queue("b", parent="city", quota={"cpu": 3}, borrowing=None),
        at_work("victim", cpu=4, queue="a"),
        asked("comes", cpu=3, queue="b"),
    )
    town.settle()
    assert town.job("victim").state is JobState.QUEUED
    town.end("comes")
    town.settle()
    assert town.runs("victim")
    assert [attempt.ordinal for attempt in town.job("victim").attempts] == [1, 2]


# -- 12 ----------------------------------------------------------------------------------------------------------------


def test_kueue_a_large_head_is_tried_first_among_thousands_of_equal_jobs() -> None:
    """Equal jobs were tried once per cycle, which made the large heads wait for the requeue of all of them."""
    town = Town(
        CPU,
        node("n1", cpu=8),
        queue("a"),
        at_work("held", cpu=8, queue="a"),
        asked("large", cpu=8, queue="a", at=-9),
        *(asked(f"small{i:04}", queue="a", at=-1) for i in range(2000)),
    )
    town.look()
    assert town.started == []
    town.end("held")
    town.look()
    assert town.started == ["large"]


# -- 13 ----------------------------------------------------------------------------------------------------------------


def test_ray_21797_gangs_start_in_the_order_of_their_submission() -> None:
    """Placement groups started in any order."""
    town = Town(
        CPU,
        node("n1", cpu=4),
        queue("a"),
        *(asked(f"gang{i}", replicas=4, queue="a", at=i - 10) for i in (2, 0, 3, 1)),
    )
    for i in range(4):
        town.look()
        town.end(f"gang{i}")
    assert town.started == ["gang0", "gang1", "gang2", "gang3"]


def test_ray_63790_a_short_job_does_not_wait_for_the_backlog_of_another_queue() -> None:
    """A job of ten minutes took more than three hours beside five others."""
    town = Town(
        CPU,
        node("n1", cpu=2),
        queue("a"),
        queue("b"),
        at_work("held1", queue="a"),
        at_work("held2", queue="a"),
        *(asked(f"long{i}", queue="a", at=-30) for i in range(5)),
        asked("short", queue="b"),
    )
    town.look()
    town.end("held1")
    town.look()
    assert town.runs("short")


def test_ray_62779_a_job_that_is_tried_again_does_not_starve_the_rest() -> None:
    """One group that was being rescheduled kept all others from being placed."""
    town = Town(
        CPU,
        node("n1", cpu=4),
        queue("a"),
        replace(asked("again", cpu=4, queue="a", at=-9), not_before=START + MINUTE, retries=2),
        *(asked(f"other{i}", queue="a", at=-1) for i in range(4)),
    )
    town.look()
    assert all(town.runs(f"other{i}") for i in range(4))


# -- 14 ----------------------------------------------------------------------------------------------------------------


def test_skypilot_4639_two_thousand_jobs_run_side_by_side() -> None:
    """The number of parallel jobs and of launches at once was bounded by the controller's own CPUs."""
    town = Town(
        CPU,
        *(node(f"n{i:02}", cpu=64, memory_gib=256) for i in range(32)),
        queue("a"),
        *(asked(f"job{i:04}", queue="a") for i in range(2000)),
    )
    town.look()
    town.look()
    assert len(town.started) == 2000


def test_skypilot_5493_jobs_of_a_queue_start_in_the_order_of_their_submission() -> None:
    """There was no first-in-first-out on Kubernetes."""
    town = Town(
        CPU, node("n1", cpu=2), queue("a"), *(asked(f"job{i}", queue="a", at=i - 10) for i in (5, 3, 0, 4, 1, 2))
    )
    for i in range(0, 6, 2):
        town.look()
        town.end(f"job{i}", f"job{i + 1}")
    assert town.started == [f"job{i}" for i in range(6)]


def test_skypilot_4294_a_slot_that_comes_free_is_given_out_in_the_next_plan() -> None:
    """Twenty seconds went by between the end of a job and the start of the next."""
    town = Town(
        CPU,
        node("n1", cpu=1),
        queue("a"),
        at_work("held", queue="a"),
        asked("next", queue="a"),
        asked("last", queue="a", at=1),
    )
    town.look()
    assert town.started == []
    why = explain(town.snapshot, JobId("next"), town.now).waiting
    assert why is not None
    assert why.reason is not WaitReason.MISCONFIGURED
    town.end("held")
    town.look()
    assert town.started == ["next"]
