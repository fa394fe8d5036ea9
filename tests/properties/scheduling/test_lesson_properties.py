"""What jobs teach by ending, and quotas that are cut: a long life, evolved step by step, is what building gives."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from factory.domain.ids import JobId, QueueName
from factory.domain.jobs import AttemptState, Job, JobState
from factory.domain.pools import Pool
from factory.domain.tenancy import Queue
from factory.domain.time import SECOND
from factory.scheduling.changes import Change, JobChanged, QueueChanged, Rows
from factory.scheduling.planning import Admit, Plan, Policy, Preempt, plan
from factory.scheduling.policies.registry import POLICIES
from factory.scheduling.snapshot import Snapshot
from factory.testing.builders import job, node, pool, queue, rows, runner, running
from factory.testing.plan_checks import Books
from tests.properties.scheduling.test_plan_properties import differing, indices

CPU = pool("cpu", cpu=1, memory_gib=0)
BORN = 10**10
NAMES = ("a", "b", "c")
RELAXED = settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


class Life:
    """A factory in which jobs of two kinds come, run, and end; the books know the rows, the snapshot is evolved."""

    def __init__(self, chosen: Pool, *things: Queue, cpu: int = 6) -> None:
        self.books = Books(replace(rows(chosen, runner(), node("n1", cpu=cpu), node("n2", cpu=cpu), *things), since=0))
        self.snap = Snapshot.build(self.books.rows())
        self.ended: list[Job] = []
        self.now = BORN

    def feed(self, *changes: Change) -> None:
        self.books.apply(changes)
        self.snap = self.snap.evolve(changes)

    def submit(self, id: str, cpu: int, of: str, estimate_s: int | None) -> None:
        row = job(id, cpu=cpu, queue=of, tenant="city", submitted_at=self.now)
        self.feed(JobChanged(row.id, replace(row, spec=replace(row.spec, name="nightly", estimate_s=estimate_s))))

    def look(self) -> Plan:
        made = plan(self.snap, Policy(), self.now)
        assert self.books.faults(made, self.now) == []
        for decision in made.decisions:
            row = self.books.jobs[decision.job_id]
            if isinstance(decision, Admit):
                row = running(row, decision.allocation)
                live = replace(row.attempts[-1], admitted_at=self.now, running_at=self.now)
                self.feed(JobChanged(row.id, replace(row, attempts=(*row.attempts[:-1], live))))
            else:
                self.stop(row, JobState.QUEUED)
        return made

    def stop(self, row: Job, state: JobState) -> None:
        last = replace(row.attempts[-1], state=AttemptState.ENDED, ended_at=self.now)
        over = replace(row, state=state, attempts=(*row.attempts[:-1], last))
        if state is not JobState.QUEUED:
            over = replace(over, ended_at=self.now)
            self.ended.append(over)
        self.feed(JobChanged(over.id, over))

    def live(self) -> list[Job]:
        return sorted((row for row in self.books.jobs.values() if row.live_attempt is not None), key=lambda row: row.id)

    def rebuilt(self) -> Snapshot:
        """Built from all rows there ever were."""
        known = {row.id: row for row in (*self.ended, *self.books.jobs.values())}
        return Snapshot.build(replace(self.books.rows(), jobs=tuple(known.values()), since=0))


@RELAXED
@given(st.data())
def test_what_was_learned_on_the_way_is_what_all_the_rows_teach(data: st.DataObject) -> None:
    life = Life(replace(CPU, policy=data.draw(st.sampled_from(sorted(POLICIES)))), *(queue(name) for name in NAMES))
    number = 0
    for _ in range(data.draw(st.integers(3, 9))):
        for _ in range(data.draw(st.integers(0, 5))):
            number += 1
            declared = data.draw(st.sampled_from((None, None, 60, 600)))
            life.submit(f"j{number:03}", data.draw(st.integers(1, 2)), data.draw(st.sampled_from(NAMES)), declared)
        life.look()
        life.now += data.draw(st.sampled_from((30, 300, 3000))) * SECOND
        for row in life.live():
            if data.draw(st.booleans()):
                life.stop(
                    row, data.draw(st.sampled_from((JobState.SUCCEEDED,) * 3 + (JobState.FAILED, JobState.QUEUED)))
                )
        fresh = life.rebuilt()
        assert differing(indices(life.snap), indices(fresh)) == []
        assert plan(life.snap, Policy(), life.now) == plan(fresh, Policy(), life.now)
        assert differing(indices(Snapshot.build(life.snap.rows())), indices(life.snap)) == []


def test_enough_ends_of_one_kind_teach_and_move_those_who_wait() -> None:
    """The property above reaches lessons: this is one life in which they are learned for certain."""
    life = Life(replace(CPU, policy="shortest"), *(queue(name) for name in NAMES))
    for number in range(20):
        life.submit(f"j{number:03}", 1, NAMES[number % 3], None)
    life.look()
    for at in range(4):
        life.now += 100 * SECOND
        life.stop(life.live()[0], JobState.SUCCEEDED)
        assert differing(indices(life.snap), indices(life.rebuilt())) == []
        waits = [place.lane.length for _, place in sorted(life.snap.places.items())]
        assert set(waits) == ({-1} if at < 2 else {9})


@RELAXED
@given(st.data())
def test_after_a_quota_was_cut_nobody_over_it_gets_more_and_nothing_is_taken_for_nothing(data: st.DataObject) -> None:
    """Over-admission is worked off: the books find any grant above quota; usage of who is over never grows."""
    quotas = {name: data.draw(st.integers(1, 6)) for name in NAMES}
    life = Life(CPU, queue("city"), *(queue(name, parent="city", quota={"cpu": quotas[name]}) for name in NAMES))
    for number in range(18):
        life.submit(f"j{number:03}", data.draw(st.integers(1, 2)), NAMES[number % 3], None)
    life.look()
    for _ in range(data.draw(st.integers(1, 4))):
        name = data.draw(st.sampled_from(NAMES))
        cut = queue(name, parent="city", quota={"cpu": data.draw(st.integers(0, quotas[name]))})
        life.feed(QueueChanged(QueueName(name), cut))
        before = {each: life.snap.used.get((QueueName(each), CPU.name), 0) for each in NAMES}
        life.now += 3600 * SECOND
        made = life.look()
        for each in NAMES:
            held = life.snap.used.get((QueueName(each), CPU.name), 0)
            nominal = life.snap.queues[QueueName(each)].quotas[0].nominal_milli
            if before[each] >= nominal:
                assert held <= before[each]
            else:
                assert held <= nominal
        for decision in made.decisions:
            if isinstance(decision, Preempt):  # only from whom the cut left with too much
                victim = life.books.jobs[decision.job_id].spec.queue
                assert before[victim] > life.snap.queues[victim].quotas[0].nominal_milli
        if life.live():
            life.stop(data.draw(st.sampled_from(life.live())), JobState.SUCCEEDED)
        assert differing(indices(life.snap), indices(life.rebuilt())) == []


@RELAXED
@given(st.data())
def test_changing_the_tree_moves_what_is_held_and_spent(data: st.DataObject) -> None:
    life = Life(CPU, *(queue(name) for name in NAMES))
    for number in range(6):
        life.submit(f"j{number}", 1, NAMES[number % 3], None)
    life.look()
    life.now += 3600 * SECOND
    life.stop(life.live()[0], JobState.SUCCEEDED)
    for _ in range(data.draw(st.integers(1, 5))):
        name = data.draw(st.sampled_from((*NAMES, "city")))
        parent = data.draw(st.sampled_from((None, *NAMES, "city")))
        row = data.draw(
            st.sampled_from((queue(name, parent=parent), queue(name, parent=parent, quota={"cpu": 2}), None))
        )
        life.feed(QueueChanged(QueueName(name), row))
        assert differing(indices(life.snap), indices(life.rebuilt())) == []


def test_the_rows_of_a_life_are_those_of_its_books() -> None:
    life = Life(CPU, queue("a"))
    life.submit("j1", 1, "a", 60)
    found: Rows = life.snap.rows()
    assert [row.id for row in found.jobs] == [JobId("j1")]
    assert life.look().decisions
    assert life.snap.rows().jobs == tuple(life.books.jobs.values())
