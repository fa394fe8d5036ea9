"""What a queue is entitled to, worked out by hand."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory.domain.ids import PoolName, QueueName
from factory.domain.tenancy import Queue
from factory.simulation.entitlement import entitlements, water_fill
from factory.simulation.workloads import city_week
from factory.testing.builders import queue

CITY = (
    queue("city"),
    queue("left", parent="city", weight=3),
    queue("a", parent="left", quota={"cpu": 4}, borrowing=None),
    queue("b", parent="left", quota={"cpu": 2}, borrowing=None),
    queue("c", parent="city", quota={"cpu": 6}, borrowing=None, weight=1),
)


def slots(queues: tuple[Queue, ...], capacity: float, **wanted: float) -> Mapping[QueueName, float]:
    """In slots instead of thousandths, queues that get nothing left out."""
    milli = {QueueName(name): round(amount * 1000) for name, amount in wanted.items()}
    found = entitlements(queues, PoolName("cpu"), round(capacity * 1000), milli)
    return {name: amount / 1000 for name, amount in found.items() if amount}


def test_everybody_gets_what_it_wants_while_there_is_enough() -> None:
    assert slots(CITY, 12, a=1, b=2, c=3) == {"a": 1, "b": 2, "c": 3}


def test_who_wants_more_than_all_gets_the_nominal_quota() -> None:
    assert slots(CITY, 12, a=99, b=99, c=99) == {"a": 4, "b": 2, "c": 6}


def test_what_a_queue_leaves_goes_to_its_neighbours_first() -> None:
    assert slots(CITY, 12, a=1, b=99, c=99) == {"a": 1, "b": 5, "c": 6}


def test_what_a_whole_side_leaves_crosses_over() -> None:
    assert slots(CITY, 12, a=1, c=99) == {"a": 1, "c": 11}


def test_the_rest_goes_by_weight() -> None:
    queues = (queue("a", quota={"cpu": 2}, borrowing=None, weight=3), queue("b", quota={"cpu": 2}, borrowing=None))
    assert slots(queues, 12, a=99, b=99) == {"a": 8, "b": 4}


def test_a_queue_that_may_not_borrow_gets_no_more_than_its_quota() -> None:
    queues = (queue("a", quota={"cpu": 2}, borrowing=0), queue("b", quota={"cpu": 2}, borrowing=None))
    assert slots(queues, 12, a=99, b=99) == {"a": 2, "b": 10}


def test_what_a_queue_does_not_lend_stays_idle() -> None:
    queues = (queue("a", quota={"cpu": 6}, lending=2), queue("b", quota={"cpu": 6}, borrowing=None))
    assert slots(queues, 12, b=99) == {"b": 8}


def test_with_nodes_down_all_give_up_in_proportion_to_their_quotas() -> None:
    assert slots(CITY, 6, a=99, b=99, c=99) == {"a": 2, "b": 1, "c": 3}


@given(
    st.floats(0, 100),
    st.lists(st.tuples(st.integers(0, 5), st.floats(0, 50)), min_size=1, max_size=6),
)
def test_water_is_filled_up_to_the_brim_or_the_last_drop(amount: float, each: list[tuple[int, float]]) -> None:
    weights, most = [float(weight) for weight, _ in each], [limit for _, limit in each]
    given_out = water_fill(amount, weights, most)
    assert all(0 <= got <= limit + 1e-6 for got, limit in zip(given_out, most, strict=True))
    open_to = sum(limit for weight, limit in zip(weights, most, strict=True) if weight)
    assert sum(given_out) == pytest.approx(min(amount, open_to), abs=1e-6)


def test_the_same_seed_gives_the_same_week() -> None:
    first, again = city_week(Random(7), days=2), city_week(Random(7), days=2)
    assert first == again
    assert first != city_week(Random(8), days=2)


def test_a_day_is_the_beginning_of_a_week() -> None:
    day, week = city_week(Random(1), days=1), city_week(Random(1), days=7)
    assert day.arrivals == tuple(arrival for arrival in week.arrivals if arrival.at < day.end)
    assert day.outages == tuple(outage for outage in week.outages if outage.at < day.end)


def test_quotas_of_the_week_sum_up_to_its_pools() -> None:
    week = city_week(Random(1), days=1)
    for pool in week.pools:
        nodes = [node for node in week.nodes if node.pool == pool.name]
        capacity = sum(node.capacity.cpu_milli * 1000 // pool.flavor.slot.cpu_milli for node in nodes)
        nominal = sum(q.nominal_milli for row in week.queues for q in row.quotas if q.pool == pool.name)
        assert nominal == capacity
