"""Nobody starves: among an endless stream of small jobs, a gang that the idle factory could hold starts some day."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from random import Random

import pytest

from factory.domain.jobs import AttemptState, Job, JobState, PriorityClass, Topology
from factory.domain.pools import Node
from factory.domain.tenancy import Queue
from factory.domain.time import SECOND
from factory.scheduling.changes import JobChanged
from factory.scheduling.planning import Admit, Policy, Preempt, plan
from factory.scheduling.snapshot import Snapshot
from factory.testing.builders import allocation, job, node, pool, queue, rows, runner, running
from factory.testing.plan_checks import Books

CPU = pool("cpu", cpu=1, memory_gib=0)
STEP = 60 * SECOND
LONGEST = 6  # steps that a small job may run
BOUND = 20 * LONGEST


class Stream:
    """A pool that small jobs keep full for ever; each runs its steps and ends, and others have come meanwhile."""

    def __init__(self, nodes: list[Node], queues: list[Queue], draw: Random, knows: str, policy: str) -> None:
        self.draw = draw
        self.knows = knows
        self.step = 0
        self.ends: dict[str, int] = {}
        self.numbers: Iterator[int] = iter(range(10**9))
        self.names = [each.name for each in queues if each.name != "gangs"]
        self.books = Books(rows(replace(CPU, policy=policy), runner(), *nodes, *queues))
        self.snap = Snapshot.build(self.books.rows())

    @property
    def now(self) -> int:
        return 10**9 + self.step * STEP

    def feed(self, *jobs: Job) -> None:
        changes = [JobChanged(row.id, row) for row in jobs]
        self.books.apply(changes)
        self.snap = self.snap.evolve(changes)

    def small(self) -> Job:
        """A job of one or two CPUs; its length is told truly, told too short, or not told."""
        number = next(self.numbers)
        steps = self.draw.randint(1, LONGEST)
        row = job(
            f"small-{number:05}", cpu=self.draw.randint(1, 2), queue=self.names[number % len(self.names)],
            submitted_at=self.now + number,
        )  # fmt: skip
        told = {"all": True, "none": False, "some": number % 2 == 0, "lies": True}[self.knows]
        seconds = steps * STEP // SECOND if self.knows != "lies" else 30
        self.ends[row.id] = steps
        named = replace(row.spec, name="small", estimate_s=seconds if told else None)
        return replace(row, spec=named)

    def turn(self) -> set[str]:
        """Let a step pass; return who started."""
        self.step += 1
        over = [
            row for row in self.books.jobs.values()
            if row.live_attempt is not None and self.step >= self.ends.get(row.id, 10**9)
        ]  # fmt: skip
        for row in over:
            last = replace(row.attempts[-1], state=AttemptState.ENDED, ended_at=self.now)
            self.feed(replace(row, state=JobState.SUCCEEDED, attempts=(*row.attempts[:-1], last), ended_at=self.now))
        waits = sum(row.state is JobState.QUEUED for row in self.books.jobs.values())
        self.feed(*(self.small() for _ in range(max(0, 12 - waits))))
        made = plan(self.snap, Policy(), self.now)
        assert self.books.faults(made, self.now) == []
        started: set[str] = set()
        for decision in made.decisions:
            assert not isinstance(decision, Preempt)
            row = self.books.jobs[decision.job_id]
            row = running(row, decision.allocation)
            live = replace(row.attempts[-1], admitted_at=self.now, running_at=self.now)
            self.feed(replace(row, attempts=(*row.attempts[:-1], live)))
            if row.id in self.ends:
                self.ends[row.id] += self.step
            started.add(row.id)
        return started


@pytest.mark.parametrize("policy", ["fair", "fifo"])
@pytest.mark.parametrize("knows", ["all", "none", "some", "lies"])
@pytest.mark.parametrize("seed", range(4))
def test_a_gang_in_an_endless_stream_of_small_jobs_starts_within_a_bound(knows: str, policy: str, seed: int) -> None:
    draw = Random(f"{knows} {policy} {seed}")
    sizes = [draw.randint(3, 8) for _ in range(draw.randint(1, 3))]
    nodes = [node(f"n{at}", cpu=cpu) for at, cpu in enumerate(sizes)]
    each = draw.randint(2, max(sizes))
    replicas = draw.randint(1, sum(cpu // each for cpu in sizes))
    town = Stream(nodes, [queue("mobility")], draw, knows, policy)
    while not town.turn():
        pass
    for _ in range(3):
        town.turn()  # the pool is full
    town.feed(job("gang", cpu=each, replicas=replicas, submitted_at=town.now))
    for _ in range(BOUND):
        if "gang" in town.turn():
            return
    raise AssertionError(f"a gang of {replicas} x {each} on nodes of {sizes} waits for ever")


@pytest.mark.parametrize("size", [2, 4, 6, 8, 12])
def test_a_gang_smaller_than_its_node_does_not_starve_though_nobodys_length_is_known(size: int) -> None:
    """What is kept is kept until it is whole: a CPU that comes free is not given to the next small job."""
    jobs = {f"r{at:03}": running(job(f"r{at:03}"), allocation(["n1"], pool=CPU)) for at in range(12)}
    jobs["gang"] = job("gang", cpu=size, submitted_at=1)
    for step in range(24):
        del jobs[min(id for id, row in jobs.items() if row.live_attempt is not None)]
        jobs[f"s{step:03}"] = job(f"s{step:03}", submitted_at=2 + step)
        made = plan(Snapshot.build(rows(CPU, queue(), node("n1", cpu=12), *jobs.values())), Policy(), step * STEP)
        for decision in made.decisions:
            assert isinstance(decision, Admit)
            jobs[decision.job_id] = running(jobs[decision.job_id], decision.allocation)
        if jobs["gang"].live_attempt is not None:
            assert step == size - 1
            return
    raise AssertionError("it starved")


@pytest.mark.parametrize("priority", [PriorityClass.HIGH, PriorityClass.NORMAL])
def test_a_low_class_is_served_though_higher_ones_keep_coming(priority: PriorityClass) -> None:
    """Ageing: at the latest after twelve hours nobody that comes later goes first."""
    low = job("low", submitted_at=0, priority=PriorityClass.LOW)
    hour = 3600 * SECOND
    for hours in range(14):
        now = hours * hour
        fresh = job("fresh", submitted_at=now, priority=priority)
        made = plan(Snapshot.build(rows(CPU, queue(), node("n1", cpu=1), low, fresh)), Policy(), now)
        first = [decision.job_id for decision in made.decisions]
        assert first == (["low"] if hours > 6 * priority.rank else ["fresh"])


@pytest.mark.parametrize("topology", [Topology.ONE_NODE, Topology.SPREAD, Topology.SAME_ZONE])
def test_gangs_of_every_form_get_their_room(topology: Topology) -> None:
    nodes = [node("n1", cpu=4, zone="east"), node("n2", cpu=4, zone="west"), node("n3", cpu=4, zone="west")]
    jobs = {f"r{at:03}": running(job(f"r{at:03}"), allocation([f"n{1 + at % 3}"], pool=CPU)) for at in range(12)}
    gang = job("gang", replicas=3, submitted_at=1)
    jobs["gang"] = replace(gang, spec=replace(gang.spec, topology=topology))
    for step in range(36):
        del jobs[min(id for id, row in jobs.items() if row.live_attempt is not None)]
        jobs[f"s{step:03}"] = job(f"s{step:03}", submitted_at=2 + step)
        made = plan(Snapshot.build(rows(CPU, queue(), *nodes, *jobs.values())), Policy(), step * STEP)
        for decision in made.decisions:
            assert isinstance(decision, Admit)
            jobs[decision.job_id] = running(jobs[decision.job_id], decision.allocation)
        if jobs["gang"].live_attempt is not None:
            return
    raise AssertionError("it starved")


def test_a_gang_of_one_queue_does_not_starve_behind_the_small_jobs_of_another() -> None:
    """Each minute the two jobs that run end, and others of their queue wait already."""
    gang = job("gang", cpu=3, queue="gangs", submitted_at=1)
    for minute in range(24 * 60):
        small = [job(f"s{minute:05}-{at}", queue="mobility", submitted_at=2 + minute * STEP) for at in range(3)]
        everything = rows(CPU, queue(), queue("gangs"), node("n1", cpu=3), gang, *small)
        made = plan(Snapshot.build(everything), Policy(), minute * STEP)
        if "gang" in {decision.job_id for decision in made.decisions}:
            return
    raise AssertionError("it waited for a day, and the node was free every minute")
