"""How a pool is shared among queues: used, borrowed, lent to whom, fair share; and what a person may see of it."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory.domain.ids import PoolName, QueueName, TenantId
from factory.domain.jobs import JobState, PriorityClass
from factory.domain.tenancy import Principal, Queue, Role
from factory.errors import NotFoundError
from factory.schemas.platform import QueueRequest, TenantRequest
from factory.tenants.shares import Standing, split, standings
from factory.testing.builders import queue

from .world import ANNA, NOW, PAUL, ROOT, World, command

CPU = PoolName("cpu")


def stand(queues: list[Queue], capacity: int = 10, **used: float) -> dict[str, Standing]:
    held = {QueueName(name): round(slots * 1000) for name, slots in used.items()}
    return {str(name): s for name, s in standings(queues, held, CPU, capacity * 1000).items()}


def lent(standing: Standing) -> dict[str, float]:
    return {str(name): milli / 1000 for name, milli in standing.lent_to}


def test_what_one_borrows_another_lends() -> None:
    queues = [queue("a", quota={"cpu": 6}), queue("b", quota={"cpu": 4}, borrowing=4)]
    found = stand(queues, a=2, b=7)
    assert (found["b"].borrowed_milli, found["b"].lent_milli) == (3000, 0)
    assert (found["a"].borrowed_milli, lent(found["a"])) == (0, {"b": 3})


def test_what_no_quota_names_is_given_before_anybody_lends() -> None:
    found = stand([queue("a", quota={"cpu": 4}), queue("b", quota={"cpu": 4}, borrowing=4)], capacity=10, b=7)
    assert lent(found["a"]) == {"b": 1}


def test_nobody_lends_more_than_the_lending_limit() -> None:
    queues = [queue("a", quota={"cpu": 5}, lending=1), queue("b", quota={"cpu": 5}, borrowing=5)]
    assert lent(stand(queues, b=9)["a"]) == {"b": 1}


def test_lenders_share_in_proportion_to_what_they_offer() -> None:
    queues = [queue("a", quota={"cpu": 6}), queue("b", quota={"cpu": 3}), queue("c", quota={"cpu": 1}, borrowing=9)]
    found = stand(queues, c=4)
    assert (lent(found["a"]), lent(found["b"])) == ({"c": 2}, {"c": 1})


def test_a_tree_lends_inside_before_it_borrows_from_outside() -> None:
    queues = [
        queue("works", quota={"cpu": 0}),
        queue("roads", parent="works", quota={"cpu": 3}),
        queue("water", parent="works", quota={"cpu": 3}, borrowing=9),
        queue("parks", quota={"cpu": 4}),
    ]
    inside = stand(queues, water=5)
    assert (lent(inside["roads"]), lent(inside["parks"]), inside["works"].borrowed_milli) == ({"water": 2}, {}, 0)
    assert inside["works"].used_milli == 5000
    beyond = stand(queues, water=8)
    assert (lent(beyond["roads"]), lent(beyond["parks"])) == ({"water": 3}, {"works": 2})
    assert beyond["works"].borrowed_milli == 2000


def test_a_queue_without_a_quota_is_unlimited_and_takes_what_is_idle() -> None:
    found = stand([queue("a", quota={"cpu": 8}), queue("b")], b=9)
    assert (found["b"].quota, found["b"].borrowed_milli, lent(found["a"])) == (None, 0, {"b": 7})


def test_the_fair_share_is_nominal_and_by_weight_a_part_of_the_rest() -> None:
    found = stand([queue("a", quota={"cpu": 4}, borrowing=None), queue("b", weight=2)], capacity=10)
    assert (found["a"].fair_milli, found["b"].fair_milli) == (6000, 4000)


def test_what_a_limit_leaves_goes_to_the_others() -> None:
    queues = [queue("a", quota={"cpu": 1}, borrowing=0), queue("b", weight=1), queue("c", weight=1)]
    found = stand(queues, capacity=9)
    assert [found[name].fair_milli for name in "abc"] == [1000, 4000, 4000]


@given(st.integers(0, 50), st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 20), max_size=6))
def test_a_split_is_exact_and_gives_nobody_more_than_its_part(total: int, parts: Mapping[str, int]) -> None:
    named = {QueueName(name): part for name, part in parts.items()}
    shares = split(total, named)
    assert sum(shares.values()) == min(total, sum(parts.values()))
    assert all(0 < share <= named[name] for name, share in shares.items())


_slots = st.integers(0, 6)


@given(
    st.lists(st.tuples(_slots, st.one_of(st.none(), _slots), _slots, st.integers(0, 3)), min_size=1, max_size=5),
    st.integers(0, 30),
)
def test_lent_and_fair_shares_add_up(rows: list[tuple[int, int | None, int, int]], capacity: int) -> None:
    queues = [
        queue(f"q{i}", quota={"cpu": nominal}, lending=lend, weight=weight)
        for i, (nominal, lend, _, weight) in enumerate(rows)
    ]
    found = stand(queues, capacity, **{f"q{i}": used for i, (_, _, used, _) in enumerate(rows)})
    for i, (nominal, lend, used, _) in enumerate(rows):
        mine = found[f"q{i}"]
        free = max(0, nominal - used) * 1000
        assert 0 <= mine.lent_milli <= (free if lend is None else min(free, lend * 1000))
        assert mine.lent_milli == sum(milli for _, milli in mine.lent_to)
        assert mine.fair_milli >= nominal * 1000
    borrowed = sum(s.borrowed_milli for s in found.values())
    assert sum(s.lent_milli for s in found.values()) <= borrowed
    named = sum(nominal for nominal, *_ in rows)
    assert sum(s.fair_milli for s in found.values()) <= max(capacity, named) * 1000


# --- as people see it -------------------------------------------------------------------------------------------------


def put(world: World, name: str, tenant: str, **fields: object) -> None:
    request = QueueRequest.model_validate({"tenant": tenant} | fields)
    world.tenants.put_queue(ROOT, QueueName(name), request, now=NOW)


@pytest.fixture
def shared(world: World) -> World:
    """Two departments with 3 and 1 slots under a queue of the city's; parks borrows one of mobility's."""
    world.tenants.put_tenant(ROOT, TenantId("city"), TenantRequest(), now=NOW)
    put(world, "mobility", "mobility", parent="city", quotas=[{"pool": "cpu", "nominal": 3, "borrowing": 1}])
    put(world, "parks", "parks", parent="city", quotas=[{"pool": "cpu", "nominal": 0, "borrowing": 1}])
    world.start(world.jobs.submit(PAUL, command(name="secret"), now=NOW).job.id)
    return world


def test_whom_it_lends_to_is_another_departments_affair(shared: World) -> None:
    mine = shared.tenants.show_queue(ANNA, QueueName("mobility"), now=NOW)
    (cpu,) = mine.pools
    assert (cpu.nominal, cpu.used, cpu.lent, cpu.lent_to) == (3, 0, 1, {"other departments": 1})
    assert mine.parent == "other departments"
    assert "parks" not in mine.model_dump_json()
    assert "city" not in mine.model_dump_json()
    everything = shared.tenants.show_queue(ROOT, QueueName("mobility"), now=NOW)
    assert (everything.parent, everything.pools[0].lent_to) == ("city", {"parks": 1})


def test_a_queue_of_another_tenant_does_not_exist(shared: World) -> None:
    for name in ("parks", "nowhere"):
        with pytest.raises(NotFoundError, match=f"no queue '{name}'"):
            shared.tenants.show_queue(ANNA, QueueName(name), now=NOW)


def test_the_first_that_wait_are_shown_in_order_and_why(world: World) -> None:
    for _ in range(2):
        world.start(world.jobs.submit(ANNA, command(cpu=2), now=NOW).job.id)
    low = world.jobs.submit(ANNA, command(cpu=4, priority=PriorityClass.LOW), now=NOW).job
    jobs = [world.jobs.submit(ANNA, command(cpu=4), now=NOW + i).job for i in range(6)]
    detail = world.tenants.show_queue(ANNA, QueueName("mobility"), now=NOW)
    assert [w.id for w in detail.waiting] == [job.id for job in jobs[:5]]
    assert [w.position for w in detail.waiting] == [1, 2, 3, 4, 5]
    assert all(w.reason is not None and w.message for w in detail.waiting)
    assert (detail.queued, detail.running) == (7, 2)
    assert low.state is JobState.QUEUED


def test_a_queue_without_a_quota_shows_every_pool_of_its_tenant(world: World) -> None:
    (cpu,) = world.tenants.show_queue(
        Principal("vera", Role.VIEWER, TenantId("parks")), QueueName("parks"), now=NOW
    ).pools
    assert (cpu.pool, cpu.nominal, cpu.used) == ("cpu", None, 0)
