"""What if: a recorded period through the real kernel, with the settings of now and with others."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.domain.ids import JobId, PoolName, QueueName, TenantId
from factory.domain.tenancy import Quota
from factory.domain.time import SECOND
from factory.errors import InvalidRequestError, NotFoundError, UnknownPoolError
from factory.schemas.pools import POLICIES
from factory.simulation.replay import Fleet, Outcome, Period, WhatIf, Work, changed, recorded_waits, replay
from factory.testing.builders import node, pool, queue, spec

BEGIN = 1_000_000_000_000
HOUR = 3600 * SECOND
CPU = PoolName("cpu")


def at(second: float) -> int:
    return BEGIN + round(second * SECOND)


def work(id: str, submitted: float = 0, held: float | None = 60, *, started: float | None = None, **asked: Any) -> Work:
    """A job that took `held` seconds; `started` as it was recorded."""
    asked.setdefault("queue", "mobility")
    name = asked.pop("name", "train")
    began = submitted if started is None and held is not None else started
    return Work(
        id=JobId(id),
        tenant=TenantId(asked["queue"]),
        spec=spec(name, **asked),
        submitted_at=at(submitted),
        queued_at=at(submitted),
        held_ms=None if held is None else round(held * SECOND),
        started_at=None if began is None else at(began),
    )


def fleet(*queues: Any, nodes: int = 1, cpu: int = 4) -> Fleet:
    return Fleet((pool(),), tuple(node(f"n{i}", cpu=cpu) for i in range(nodes)), queues or (queue("mobility"),))


def run(works: list[Work], shared: Fleet | None = None, hours: int = 1) -> Outcome:
    return replay(Period(BEGIN, BEGIN + hours * HOUR, tuple(works)), shared or fleet(), step_ms=SECOND)


def test_a_job_that_finds_room_does_not_wait_and_holds_its_slots_as_long_as_it_did() -> None:
    outcome = run([work("a", 10, 1800, cpu=2)])
    assert (outcome.all.jobs, outcome.all.p99_ms, outcome.ended, outcome.makespan_ms) == (1, 0, 1, 1810 * SECOND)
    assert outcome.pools[CPU].utilisation == pytest.approx(2 * 1800 / (4 * 3600))
    assert outcome.queues[QueueName("mobility")].slot_ms == 2000 * 1800 * SECOND


def test_jobs_wait_for_each_other_and_more_nodes_help() -> None:
    works = [work(f"job-{i}", i, 600, cpu=4) for i in range(3)]
    narrow = run(works)
    assert narrow.all.p99_ms == (1200 - 2) * SECOND
    more = changed(fleet(), WhatIf(add_nodes=((CPU, 2),)), POLICIES)
    wide = run(works, more)
    assert (wide.all.p99_ms, wide.makespan_ms) == (0, 602 * SECOND)
    assert wide.pools[CPU].utilisation == pytest.approx(narrow.pools[CPU].utilisation / 3)


def test_a_smaller_quota_makes_its_queue_wait_and_no_other() -> None:
    queues = (queue("mobility"), queue("water"))
    works = [work(f"{q}-{i}", 0, 600, cpu=1, queue=q) for q in ("mobility", "water") for i in range(2)]
    free = run(works, fleet(*queues))
    assert free.all.p99_ms == 0
    tight = changed(fleet(*queues), WhatIf(quotas=((QueueName("water"), Quota(CPU, 1000, 0)),)), POLICIES)
    held = run(works, tight)
    assert held.queues[QueueName("water")].p99_ms == 600 * SECOND
    assert held.tenants[TenantId("mobility")].p99_ms == 0


def test_what_ran_already_runs_for_what_was_left_and_counts_no_wait() -> None:
    outcome = run([work("old", -600, 900, started=-600, cpu=4), work("new", 0, 60, cpu=4)])
    assert outcome.all.jobs == 1
    assert outcome.all.p50_ms == 300 * SECOND
    assert outcome.makespan_ms == 360 * SECOND


def test_what_had_ended_before_the_period_or_came_after_it_is_not_there() -> None:
    outcome = run([work("before", -600, 60), work("after", 3600, 60), work("in", 0, 60)])
    assert (outcome.all.jobs, outcome.ended) == (1, 1)


def test_a_job_withdrawn_while_it_waited_is_withdrawn_if_it_still_waits() -> None:
    def works() -> list[Work]:
        gone = work("gone", 1, None, cpu=4)
        return [
            work("long", 0, 600, cpu=4),
            Work(gone.id, gone.tenant, gone.spec, gone.submitted_at, gone.queued_at, None, None, at(100)),
        ]

    outcome = run(works())
    assert (outcome.all.jobs, outcome.never_started, outcome.ended) == (2, 0, 1)
    more = changed(fleet(), WhatIf(add_nodes=((CPU, 1),)), POLICIES)
    assert run(works(), more).ended == 2


def test_a_job_that_never_ran_takes_as_long_as_those_like_it() -> None:
    works = [*(work(f"job-{i}", 0, held) for i, held in enumerate((100, 200, 900))), work("new", 0, None)]
    assert run(works).makespan_ms == 900 * SECOND
    (told,) = [work("told", 0, None)]
    assert run([told]).makespan_ms == 60 * SECOND


def test_a_job_that_can_never_start_is_counted_and_ends_nothing() -> None:
    outcome = run([work("huge", 0, 60, cpu=100), work("small", 0, 60)])
    assert (outcome.never_started, outcome.ended) == (1, 1)


def test_what_they_really_waited_is_told_beside_it() -> None:
    works = (work("a", 0, 60, started=10), work("b", 0, 60, started=30), work("old", -60, 600, started=-50))
    assert recorded_waits(Period(BEGIN, BEGIN + HOUR, works)) == (10_000, 30_000)


def test_a_wrong_name_is_refused_with_a_suggestion() -> None:
    with pytest.raises(UnknownPoolError, match="did you mean 'cpu'"):
        changed(fleet(), WhatIf(add_nodes=((PoolName("cpus"), 1),)), POLICIES)
    with pytest.raises(NotFoundError, match="did you mean 'mobility'"):
        changed(fleet(), WhatIf(quotas=((QueueName("mobilty"), Quota(CPU, 1)),)), POLICIES)
    with pytest.raises(InvalidRequestError, match="did you mean 'fifo'"):
        changed(fleet(), WhatIf(policies=((CPU, "fifos"),)), POLICIES)
    assert changed(fleet(), WhatIf(policies=((CPU, "fifo"),)), POLICIES).pools[0].policy == "fifo"


def test_added_nodes_are_like_most_of_the_pool() -> None:
    shared = Fleet((pool(),), (node("big", cpu=64), node("a", cpu=4), node("b", cpu=4)), ())
    added = changed(shared, WhatIf(add_nodes=((CPU, 2),)), POLICIES).nodes[3:]
    assert [(n.id, n.capacity.cpu_milli) for n in added] == [("cpu-added-1", 4000), ("cpu-added-2", 4000)]


@given(st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_a_replay_is_the_same_in_any_order_of_its_rows_and_ends_what_it_started(seed: int) -> None:
    rng = Random(seed)
    queues = (queue("mobility", quota={"cpu": 4}, borrowing=4), queue("water", quota={"cpu": 4}, borrowing=None))
    works = [
        work(
            f"job-{i}", rng.randrange(-300, 3000), rng.randrange(1, 900), cpu=rng.choice((1, 2, 4)),
            replicas=rng.choice((1, 1, 2)), queue=rng.choice(("mobility", "water")),
        )
        for i in range(25)
    ]  # fmt: skip
    shared = fleet(*queues, nodes=2)
    outcome = run(works, shared)
    shuffled = list(works)
    rng.shuffle(shuffled)
    assert run(shuffled, Fleet(shared.pools, shared.nodes[::-1], shared.queues[::-1])) == outcome
    assert outcome.never_started == 0
    assert all(0 <= figures.utilisation <= 1 for figures in outcome.pools.values())
    assert sum(w.slot_ms for w in outcome.queues.values()) == outcome.pools[CPU].held
