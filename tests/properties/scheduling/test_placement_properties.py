"""Placement on the floor: exact, whole, never over, the same whatever the way it was come to."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.domain.jobs import Placement, Topology
from factory.domain.pools import NodeState
from factory.domain.resources import Resources
from factory.scheduling.cutting import GPU_WORTH, share_worths
from factory.scheduling.devices import cut_cost, grant
from factory.scheduling.fleet import UNBOUNDED, WHOLE, Fleet, Shape
from factory.scheduling.floor import Floor
from factory.scheduling.fragmentation import Typical, costs_of
from tests.properties.scheduling.placement_fleets import (
    Ask,
    Left,
    asks,
    could_place,
    fleets,
    left_of,
    lefts,
    rebuilt,
    rooms,
    shapes,
    state_of,
    typicals,
    used_up,
)

few = settings(max_examples=120, deadline=None)


@few
@given(loads=fleets(least=-1), asked=st.lists(shapes(), min_size=1, max_size=4), typical=typicals())
def test_room_is_what_one_after_the_other_would_find(loads: list[Left], asked: list[Shape], typical: Typical) -> None:
    floor = Floor(Fleet.build(loads), typical)
    for shape in asked:
        expected = sum(rooms(loads, shape, UNBOUNDED).values())
        assert floor.room(shape) == expected
        assert floor.room(shape, 2) == min(expected, 2)


@few
@given(loads=fleets(), plan=st.lists(asks, max_size=8), typical=typicals())
def test_a_gang_is_placed_whole_if_it_fits_and_else_not_at_all(
    loads: list[Left], plan: list[Ask], typical: Typical
) -> None:
    floor = Floor(Fleet.build(loads), typical)
    for ask in plan:
        placed = floor.place(ask.shape, ask.replicas, ask.topology)
        assert (placed is not None) == could_place(left_of(floor), ask)
        assert floor.can_fit(ask.shape, ask.replicas, ask.topology) == (placed is not None)
        if placed is not None:
            assert [placement.rank for placement in placed] == list(range(ask.replicas))
            assert all(placement.resources == ask.shape.resources for placement in placed)
            floor.take(placed)


@few
@given(loads=fleets(), plan=st.lists(asks, max_size=10), typical=typicals())
def test_no_node_and_no_device_is_ever_given_twice(loads: list[Left], plan: list[Ask], typical: Typical) -> None:
    floor = Floor(Fleet.build(loads), typical)
    given_away: list[Placement] = []
    for ask in plan:
        placed = floor.place(ask.shape, ask.replicas, ask.topology) or ()
        floor.take(placed)
        given_away += placed
    for load in loads:
        left = used_up(load, given_away)
        assert not left.free.is_negative()
        assert all(free >= 0 for free in left.devices)
        assert floor.free_of(load.node.id) == (left.free, left.devices)


@few
@given(loads=fleets(), ask=asks, typical=typicals())
def test_devices_are_named_as_the_replica_asks_for_them(loads: list[Left], ask: Ask, typical: Typical) -> None:
    by_id = {load.node.id: load for load in loads}
    for placement in Floor(Fleet.build(loads), typical).place(ask.shape, ask.replicas, ask.topology) or ():
        gpu, devices = ask.shape.resources.gpu_milli, by_id[placement.node].devices
        assert sum(share.milli for share in placement.devices) == gpu
        if 0 < gpu < WHOLE:
            assert len(placement.devices) == 1
        else:
            assert all(share.milli == WHOLE == devices[share.index] for share in placement.devices)


@few
@given(loads=fleets(), ask=asks, typical=typicals())
def test_replicas_go_to_ready_nodes_of_the_models_and_the_topology_asked_for(
    loads: list[Left], ask: Ask, typical: Typical
) -> None:
    by_id = {load.node.id: load.node for load in loads}
    placed = Floor(Fleet.build(loads), typical).place(ask.shape, ask.replicas, ask.topology) or ()
    on = [by_id[placement.node] for placement in placed]
    assert all(node.state is NodeState.READY for node in on)
    assert all(not ask.shape.gpu_models or node.gpu_model in ask.shape.gpu_models for node in on)
    if ask.topology is Topology.ONE_NODE:
        assert len({node.id for node in on}) <= 1
    elif ask.topology is Topology.SAME_ZONE:
        assert len({node.zone for node in on}) <= 1
    elif ask.topology is Topology.SPREAD:
        assert len({node.id for node in on}) == len(on)


@few
@given(loads=fleets(), ask=asks, typical=typicals())
def test_a_gang_spans_as_few_nodes_as_can_hold_it(loads: list[Left], ask: Ask, typical: Typical) -> None:
    placed = Floor(Fleet.build(loads), typical).place(ask.shape, ask.replicas)
    if placed is not None:
        fewest, missing = 0, ask.replicas
        for room in sorted(rooms(loads, ask.shape, ask.replicas).values(), reverse=True):
            fewest, missing = fewest + (missing > 0), missing - room
        assert len({placement.node for placement in placed}) == fewest


@few
@given(loads=fleets(least=-1), plan=st.lists(asks, max_size=6), after=asks, typical=typicals())
def test_giving_back_what_was_taken_leaves_no_trace(
    loads: list[Left], plan: list[Ask], after: Ask, typical: Typical
) -> None:
    floor = Floor(Fleet.build(loads), typical)
    before, room = state_of(floor), floor.room(after.shape)
    where = floor.place(after.shape, after.replicas, after.topology)
    taken: list[tuple[Placement, ...]] = []
    for ask in plan:
        placed = floor.place(ask.shape, ask.replicas, ask.topology) or ()
        floor.take(placed)
        taken.append(placed)
    for placed in taken:  # in any order
        floor.give(placed)
    assert state_of(floor) == before
    assert floor.room(after.shape) == room
    assert floor.place(after.shape, after.replicas, after.topology) == where


@few
@given(loads=fleets(), plan=st.lists(asks, max_size=6), typical=typicals(), order=st.randoms(use_true_random=False))
def test_the_order_of_the_nodes_does_not_matter(
    loads: list[Left], plan: list[Ask], typical: Typical, order: random.Random
) -> None:
    mixed = list(loads)
    order.shuffle(mixed)
    one, other = Floor(Fleet.build(loads), typical), Floor(Fleet.build(mixed), typical)
    for ask in plan:
        placed = one.place(ask.shape, ask.replicas, ask.topology)
        assert placed == other.place(ask.shape, ask.replicas, ask.topology)
        one.take(placed or ())
        other.take(placed or ())


@few
@given(loads=fleets(), plan=st.lists(asks, max_size=8), typical=typicals())
def test_a_floor_that_kept_count_answers_like_one_that_counts_anew(
    loads: list[Left], plan: list[Ask], typical: Typical
) -> None:
    floor = Floor(Fleet.build(loads), typical)
    for ask in plan:
        fresh = rebuilt(floor, typical)
        placed = floor.place(ask.shape, ask.replicas, ask.topology)
        assert placed == fresh.place(ask.shape, ask.replicas, ask.topology)
        assert floor.room(ask.shape) == fresh.room(ask.shape)
        floor.take(placed or ())


@few
@given(loads=fleets(), plan=st.lists(asks, min_size=1, max_size=6), typical=typicals(), where=st.integers(0, 5))
def test_a_copy_goes_its_own_way(loads: list[Left], plan: list[Ask], typical: Typical, where: int) -> None:
    floor = Floor(Fleet.build(loads), typical)
    for ask in plan[: where % len(plan)]:
        floor.take(floor.place(ask.shape, ask.replicas, ask.topology) or ())
    other = floor.copy()
    before = state_of(floor)
    for ask in plan:
        assert floor.room(ask.shape) == other.room(ask.shape)
    for ask in plan:
        other.take(other.place(ask.shape, ask.replicas, ask.topology) or ())
    assert state_of(floor) == before
    for ask in plan:
        placed = floor.place(ask.shape, ask.replicas, ask.topology)
        assert placed == rebuilt(floor, typical).place(ask.shape, ask.replicas, ask.topology)
        floor.take(placed or ())
    assert state_of(floor) == state_of(other)


@few
@given(
    loads=fleets(),
    data=st.data(),
    typical=typicals(),
    asked=st.lists(asks, min_size=1, max_size=3),
    topology=st.sampled_from(Topology),
)
def test_a_fleet_that_evolved_is_the_fleet_built_anew(
    loads: list[Left], data: st.DataObject, typical: Typical, asked: list[Ask], topology: Topology
) -> None:
    fleet, now = Fleet.build(loads), {load.node.id: load for load in loads}
    for _ in range(3):
        moved = {
            name: data.draw(st.none() | lefts(name, least=-1))
            for name in data.draw(st.lists(st.sampled_from([f"node-{n}" for n in range(8)]), unique=True, max_size=4))
        }
        fleet = fleet.evolve(moved)  # pyright: ignore[reportArgumentType]
        now = {id: load for id, load in {**now, **moved}.items() if load is not None}  # pyright: ignore
        anew = Fleet.build(now.values())
        assert fleet.nodes == anew.nodes
        assert fleet.kinds == anew.kinds
        assert fleet.offered == anew.offered
        assert fleet.capacity() == anew.capacity()
        one, other = Floor(fleet, typical), Floor(anew, typical)
        assert state_of(one) == state_of(other)
        for ask in asked:
            placed = one.place(ask.shape, ask.replicas, topology)
            assert placed == other.place(ask.shape, ask.replicas, topology)
            one.take(placed or ())
            other.take(placed or ())


@few
@given(loads=fleets(), ask=asks, states=st.sets(st.sampled_from(NodeState)))
def test_what_could_fit_is_what_would_fit_on_idle_nodes(loads: list[Left], ask: Ask, states: set[NodeState]) -> None:
    fleet = Fleet.build(loads)
    idle = [
        Left(replace(load.node, state=NodeState.READY), load.node.capacity, (WHOLE,) * load.node.devices)
        for load in loads
        if load.node.state in states
    ]
    expected = sum(rooms(idle, ask.shape, UNBOUNDED).values())
    assert fleet.idle_room(ask.shape, states) == expected
    assert fleet.could_fit(ask.shape, ask.replicas, ask.topology, states) == could_place(idle, ask)


@few
@given(loads=fleets(), ask=asks, at=st.integers(0, 5), typical=typicals(), part=st.integers(0, 4))
def test_what_a_node_is_restricted_to_is_the_most_that_it_gives(
    loads: list[Left], ask: Ask, at: int, typical: Typical, part: int
) -> None:
    floor = Floor(Fleet.build(loads), typical)
    floor.room(ask.shape)
    if loads:
        id = loads[at % len(loads)].node.id
        free, devices = floor.free_of(id)
        most = Resources(free.cpu_milli * part // 3, free.memory_bytes * part // 3, free.gpu_milli * part // 3)
        floor.restrict(id, most, tuple(device * part // 3 for device in devices))
        now, named = floor.free_of(id)
        assert now.fits_in(free)
        assert now.fits_in(most)
        assert all(d <= min(a, a * part // 3) for d, a in zip(named, devices, strict=True))
    assert floor.room(ask.shape) == rebuilt(floor, typical).room(ask.shape)


@few
@given(
    loads=st.lists(
        st.lists(st.sampled_from((1000, 1000, 840, 530, 350, 190, 0, -100)), min_size=4, max_size=4), min_size=1
    ),
    size=st.sampled_from((50, 160, 320, 470, 500, 650)),
    typical=typicals(),
    counts=st.randoms(use_true_random=False),
)
def test_what_a_cut_is_said_to_cost_is_what_the_named_devices_cost(
    loads: list[list[int]], size: int, typical: Typical, counts: random.Random
) -> None:
    cuts = costs_of(typical, ("",), (Resources(gpu_milli=1000),)).cuts(size)
    rows = [tuple(row) for row in loads if max(row) >= size]
    many = [counts.randint(1, sum(max(free, 0) // size for free in row)) for row in rows]
    said = cut_cost(np.array(rows, np.int64).reshape(-1, 4), size, np.array(many, np.int64), cuts).tolist()
    for row, count, cost in zip(rows, many, said, strict=True):
        left, total = list(row), 0
        for (share,) in grant(row, size, count, cuts):
            total += int(cuts[left[share.index]])
            assert total <= cost
            left[share.index] -= share.milli
        assert total == cost
        assert min(left) >= min(0, *row)


demands = st.dictionaries(st.integers(1, 999), st.integers(1, 1000), max_size=8)


@few
@given(demand=demands)
def test_the_worth_of_a_device_rises_with_what_is_free_of_it(demand: dict[int, int]) -> None:
    worth = share_worths(tuple(sorted(demand.items())))
    assert len(worth) == WHOLE + 1
    assert worth[0] == 0
    assert worth[WHOLE] == GPU_WORTH
    assert list(worth) == sorted(worth)


@few
@given(demand=demands)
def test_two_amounts_are_never_worth_more_apart_than_as_one(demand: dict[int, int]) -> None:
    worth = share_worths(tuple(sorted(demand.items())))
    for one in range(0, WHOLE + 1, 37):
        for other in range(0, WHOLE + 1 - one, 41):
            assert worth[one] + worth[other] <= worth[one + other] + 2  # each is rounded


@few
@given(demand=demands)
def test_all_shares_together_are_worth_no_more_than_the_devices_they_need(demand: dict[int, int]) -> None:
    worth = share_worths(tuple(sorted(demand.items())))
    bins: Counter[int] = Counter()  # first fit, largest first, counted by what is left
    for size, count in sorted(demand.items(), reverse=True):
        for _ in range(count):
            at = next((left for left in sorted(bins) if bins[left] and left >= size), WHOLE)
            if at != WHOLE:
                bins[at] -= 1
            bins[at - size] += 1
    total = sum(worth[size] * count for size, count in demand.items())
    assert total <= bins.total() * GPU_WORTH + sum(demand.values())  # rounding: one at most for each share
    assert total >= sum(size * count for size, count in demand.items()) * GPU_WORTH // WHOLE - sum(demand.values())
