"""The nodes of a pool as columns."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import permutations

import pytest

from factory.domain.jobs import Topology
from factory.domain.pools import Node, NodeState
from factory.domain.resources import Resources
from factory.scheduling.fleet import UNBOUNDED, WHOLE, Fleet, NodeKind, Shape
from factory.scheduling.floor import Floor
from factory.scheduling.fragmentation import Typical
from factory.testing.builders import node, resources

READY = {NodeState.READY}


@dataclass(frozen=True)
class Load:
    """A node and what is left of it."""

    node: Node
    free: Resources
    devices: tuple[int, ...]


def idle(id: str, **more: object) -> Load:
    row = node(id, **more)  # pyright: ignore
    return Load(row, row.capacity, (WHOLE,) * row.devices)


def shape(cpu: float = 0, memory_gib: float = 0, gpu: float = 0, models: tuple[str, ...] = ()) -> Shape:
    return Shape(resources(cpu, memory_gib, gpu), models)


def floor(fleet: Fleet) -> Floor:
    return Floor(fleet, Typical())


def test_nodes_are_in_the_order_of_their_ids_however_they_came() -> None:
    for order in permutations([idle("n2"), idle("n1"), idle("n3")]):
        fleet = Fleet.build(order)
        assert [row.id for row in fleet.nodes] == ["n1", "n2", "n3"]
        assert fleet.rows == {"n1": 0, "n2": 1, "n3": 2}


def test_a_fleet_without_nodes_has_nothing() -> None:
    fleet = Fleet.build([])
    assert fleet.count(*NodeState) == 0
    assert fleet.capacity() == fleet.offered == Resources()
    assert fleet.idle_room(shape(cpu=1), READY) == 0
    assert not fleet.could_fit(shape(cpu=1), 1, Topology.ANY, READY)
    assert floor(fleet).room(shape(cpu=1)) == 0
    assert floor(fleet).place(shape(cpu=1), 1) is None


@pytest.mark.parametrize("topology", Topology)
def test_no_gang_is_placed_where_there_are_no_nodes(topology: Topology) -> None:
    assert floor(Fleet.build([])).place(shape(), 1, topology) is None


def test_nodes_are_counted_by_their_state() -> None:
    fleet = Fleet.build(
        [idle("n1"), idle("n2"), idle("n3", state=NodeState.LOST), idle("n4", state=NodeState.DRAINING)]
    )
    assert fleet.count(NodeState.READY) == 2
    assert fleet.count(NodeState.LOST, NodeState.DRAINING) == 2
    assert fleet.count() == 0


def test_capacity_and_what_is_offered_are_of_ready_nodes_only() -> None:
    fleet = Fleet.build(
        [
            idle("n1", cpu=8, memory_gib=64, gpus=2),
            Load(node("n2", cpu=8, memory_gib=64), resources(3, 10), ()),
            idle("n3", cpu=8, memory_gib=64, state=NodeState.DRAINING),
        ]
    )
    assert fleet.capacity() == resources(16, 128, 2)
    assert fleet.offered == resources(11, 74, 2)


def test_a_node_that_holds_more_than_it_has_offers_nothing_and_takes_nothing_from_others() -> None:
    fleet = Fleet.build([idle("n1", cpu=4, memory_gib=8), Load(node("n2", cpu=4), resources(-2, 16), ())])
    assert fleet.offered == resources(4, 24)
    assert floor(fleet).room(shape(cpu=1)) == 4


def test_kinds_tell_how_many_nodes_are_alike() -> None:
    fleet = Fleet.build([idle("n1", zone="east"), idle("n2", zone="east"), idle("n3", zone="west")])
    one = NodeKind(NodeState.READY, resources(8, 64), 0, "", "east")
    assert fleet.kinds == {one: 2, replace(one, zone="west"): 1}


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (shape(cpu=3), 2),
        (shape(memory_gib=10), 6),
        (shape(gpu=1), 4),
        (shape(gpu=2), 2),
        (shape(gpu=3), 1),
        (shape(gpu=5), 0),
        (shape(gpu=0.5), 8),
        (shape(gpu=0.4), 8),  # two on each device, never one on two
        (shape(gpu=0.6), 4),
        (shape(cpu=1, gpu=0.1), 8),
        (shape(cpu=9), 0),
        (shape(), UNBOUNDED),
    ],
)
def test_an_idle_node_has_room_for_so_many(asked: Shape, expected: int) -> None:
    fleet = Fleet.build([idle("n1", cpu=8, memory_gib=64, gpus=4)])
    assert fleet.idle_room(asked, READY) == expected
    assert floor(fleet).room(asked) == expected


def test_idle_room_is_of_the_states_and_models_asked_for() -> None:
    fleet = Fleet.build(
        [idle("n1", gpus=2, gpu_model="h100"), idle("n2", gpus=4, gpu_model="a100", state=NodeState.LOST)]
    )
    assert fleet.idle_room(shape(gpu=1), READY) == 2
    assert fleet.idle_room(shape(gpu=1), {NodeState.LOST}) == 4
    assert fleet.idle_room(shape(gpu=1), NodeState) == 6
    assert fleet.idle_room(shape(gpu=1, models=("a100", "l4")), NodeState) == 4
    assert fleet.idle_room(shape(gpu=1, models=("l4",)), NodeState) == 0


def test_what_could_fit_follows_the_topology() -> None:
    fleet = Fleet.build(
        [idle("n1", cpu=2, zone="east"), idle("n2", cpu=3, zone="west"), idle("n3", cpu=2, zone="west")]
    )
    most = {Topology.ANY: 7, Topology.ONE_NODE: 3, Topology.SAME_ZONE: 5, Topology.SPREAD: 3}
    for topology, replicas in most.items():
        assert fleet.could_fit(shape(cpu=1), replicas, topology, READY)
        assert not fleet.could_fit(shape(cpu=1), replicas + 1, topology, READY)


def test_evolving_leaves_the_fleet_as_it_was() -> None:
    fleet = Fleet.build([idle("n1", cpu=8), idle("n2", cpu=8)])
    changed = fleet.evolve({fleet.nodes[0].id: Load(fleet.nodes[0], resources(cpu=1), ())})
    assert floor(fleet).room(shape(cpu=1)) == 16
    assert floor(changed).room(shape(cpu=1)) == 9
    assert changed.offered.cpu_milli == 9000


def test_a_node_that_drains_is_no_longer_used() -> None:
    fleet = Fleet.build([idle("n1", cpu=8), idle("n2", cpu=8)])
    draining = idle("n1", cpu=8, state=NodeState.DRAINING)
    changed = fleet.evolve({draining.node.id: draining})
    assert changed.count(NodeState.DRAINING) == 1
    assert floor(changed).room(shape(cpu=1)) == 8
    back = changed.evolve({draining.node.id: idle("n1", cpu=8)})
    assert back.kinds == fleet.kinds
    assert floor(back).room(shape(cpu=1)) == 16


def test_a_node_may_come_back_with_more_devices_of_another_model_in_another_zone() -> None:
    fleet = Fleet.build(
        [idle("n1", gpus=1, gpu_model="h100", zone="mid"), idle("n2", gpus=1, gpu_model="h100", zone="mid")]
    )
    new = idle("n2", gpus=3, gpu_model="a100", zone="east")
    changed = fleet.evolve({new.node.id: new})
    assert floor(changed).room(shape(gpu=1, models=("a100",))) == 3
    assert floor(changed).room(shape(gpu=1, models=("h100",))) == 1
    assert floor(changed).can_fit(shape(gpu=1), 3, Topology.SAME_ZONE)
    assert not floor(changed).can_fit(shape(gpu=1), 4, Topology.SAME_ZONE)
    assert floor(changed).free_of(new.node.id) == (new.free, (1000, 1000, 1000))


def test_a_node_may_come_back_with_fewer_devices() -> None:
    fleet = Fleet.build([idle("n1", gpus=4)])
    new = idle("n1", gpus=1)
    changed = fleet.evolve({new.node.id: new})
    assert floor(changed).room(shape(gpu=1)) == 1
    assert floor(changed).free_of(new.node.id)[1] == (1000,)
    assert floor(changed).room(Shape(Resources(gpu_milli=1))) == 1000


def test_nodes_come_and_go() -> None:
    fleet = Fleet.build([idle("n1", cpu=1), idle("n3", cpu=4)])
    n1, n3 = (row.id for row in fleet.nodes)
    new = idle("n2", cpu=2)
    changed = fleet.evolve({n1: None, new.node.id: new, n3: Load(fleet.nodes[1], resources(cpu=3), ())})
    assert [row.id for row in changed.nodes] == ["n2", "n3"]
    assert floor(changed).room(shape(cpu=1)) == 5
    assert changed.count(NodeState.READY) == 2


def test_the_going_of_a_node_that_is_not_there_changes_nothing() -> None:
    fleet = Fleet.build([idle("n1")])
    assert fleet.evolve({node("n9").id: None}) is fleet


def test_capacities_are_told_by_model() -> None:
    fleet = Fleet.build(
        [
            idle("n1", gpus=2, gpu_model="h100"),
            idle("n2", gpus=1, gpu_model="a100"),
            idle("n3", gpus=1, gpu_model="h100"),
            idle("n4", gpus=8, gpu_model="h100", state=NodeState.LOST),
        ]
    )
    assert fleet.models == ("a100", "h100")
    assert [each.gpu_milli for each in fleet.capacities] == [1000, 3000]
