"""Random small fleets and what is asked of them, with answers found the slow and plain way."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from hypothesis import strategies as st

from factory.domain.ids import NodeId
from factory.domain.jobs import Placement, Topology
from factory.domain.pools import Node, NodeState
from factory.domain.resources import GIB, Resources
from factory.scheduling.fleet import WHOLE, Fleet, Shape
from factory.scheduling.floor import Floor
from factory.scheduling.fragmentation import Typical
from factory.testing.builders import node

MODELS = ("a100", "h100", "l4")
ZONES = ("", "east", "west")
SHARES = (50, 160, 250, 320, 470, 500, 650, 810)


@dataclass(frozen=True)
class Left:
    """A node and what is left of it."""

    node: Node
    free: Resources
    devices: tuple[int, ...]

    def room(self, shape: Shape) -> int | None:
        """Count replicas by putting one after the other; None = nothing is asked for."""
        if self.node.state is not NodeState.READY or (shape.gpu_models and self.node.gpu_model not in shape.gpu_models):
            return 0
        if shape.resources == Resources():
            return None
        left, count = self, 0
        while (more := left.put(shape)) is not None:
            left, count = more, count + 1
        return count

    def put(self, shape: Shape) -> Left | None:
        """Put one replica on any devices that do; for equal shapes it does not matter on which."""
        asked, devices = shape.resources, list(self.devices)
        for want, have in (
            (asked.cpu_milli, self.free.cpu_milli),
            (asked.memory_bytes, self.free.memory_bytes),
            (asked.gpu_milli, self.free.gpu_milli),
        ):
            if want > have and want:
                return None
        if 0 < asked.gpu_milli < WHOLE:
            at = next((i for i, free in enumerate(devices) if free >= asked.gpu_milli), None)
            if at is None:
                return None
            devices[at] -= asked.gpu_milli
        elif asked.gpu_milli:
            whole = [i for i, free in enumerate(devices) if free == WHOLE][: asked.gpu_milli // WHOLE]
            if len(whole) * WHOLE < asked.gpu_milli:
                return None
            for i in whole:
                devices[i] = 0
        return Left(self.node, self.free - asked, tuple(devices))


@st.composite
def nodes(draw: st.DrawFn, id: str, states: tuple[NodeState, ...] = (NodeState.READY,) * 5 + tuple(NodeState)) -> Node:
    return node(
        id,
        cpu=draw(st.sampled_from((2, 4, 8))),
        memory_gib=draw(st.sampled_from((8, 16, 32))),
        gpus=draw(st.integers(0, 4)),
        state=draw(st.sampled_from(states)),
        zone=draw(st.sampled_from(ZONES)),
        gpu_model=draw(st.sampled_from(MODELS)),
    )


@st.composite
def lefts(draw: st.DrawFn, id: str, least: int = 0) -> Left:
    """A node with some of it used; `least` = -1: perhaps more than it has."""
    row = draw(nodes(id))
    devices = tuple(draw(st.sampled_from((WHOLE, WHOLE, 840, 530, 350, 190, 0))) for _ in range(row.devices))
    cpu = draw(st.integers(least, row.capacity.cpu_milli // 500)) * 500
    memory = draw(st.integers(least, row.capacity.memory_bytes // GIB)) * GIB
    return Left(row, Resources(cpu, memory, sum(devices)), devices)


@st.composite
def fleets(draw: st.DrawFn, least: int = 0, most: int = 6) -> list[Left]:
    return [draw(lefts(f"node-{number}", least)) for number in range(draw(st.integers(0, most)))]


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    asked = Resources(
        draw(st.sampled_from((0, 500, 1000, 1500, 4000))),
        draw(st.sampled_from((0, GIB, 4 * GIB))),
        draw(st.sampled_from((0, *SHARES, 1000, 1000, 2000, 4000))),
    )
    return Shape(asked, tuple(sorted(draw(st.sets(st.sampled_from(MODELS), max_size=2)))))


@st.composite
def typicals(draw: st.DrawFn) -> Typical:
    return Typical.of(draw(st.dictionaries(shapes(), st.integers(1, 20), max_size=6)))


@dataclass(frozen=True)
class Ask:
    """A gang that is asked for."""

    shape: Shape
    replicas: int
    topology: Topology


asks = st.builds(Ask, shapes(), st.sampled_from((1, 1, 2, 3, 5, 8)), st.sampled_from((Topology.ANY, *Topology)))


def state_of(floor: Floor) -> dict[NodeId, tuple[Resources, tuple[int, ...]]]:
    """What is left of every node."""
    return {row.id: floor.free_of(row.id) for row in floor.fleet.nodes}


def left_of(floor: Floor) -> list[Left]:
    """The same as loads."""
    return [Left(row, *floor.free_of(row.id)) for row in floor.fleet.nodes]


def rebuilt(floor: Floor, typical: Typical) -> Floor:
    """A floor that knows nothing of how it came to be as it is."""
    return Floor(Fleet.build(left_of(floor)), typical)


def rooms(loads: Iterable[Left], shape: Shape, of_nothing: int) -> dict[NodeId, int]:
    """How many replicas fit on each node; `of_nothing` stands for any number."""
    found = {load.node.id: load.room(shape) for load in loads}
    return {id: of_nothing if room is None else room for id, room in found.items()}


def could_place(loads: list[Left], ask: Ask) -> bool:
    """Whether the gang fits, by its topology."""
    room = rooms(loads, ask.shape, ask.replicas)
    if ask.topology is Topology.ONE_NODE:
        return max(room.values(), default=0) >= ask.replicas
    if ask.topology is Topology.SPREAD:
        return sum(count > 0 for count in room.values()) >= ask.replicas
    if ask.topology is Topology.SAME_ZONE:
        zone = {load.node.id: load.node.zone for load in loads}
        return any(
            sum(count for id, count in room.items() if zone[id] == name) >= ask.replicas for name in set(zone.values())
        )
    return sum(room.values()) >= ask.replicas


def used_up(load: Left, placements: Iterable[Placement]) -> Left:
    """What placements leave of a node."""
    devices, free = list(load.devices), load.free
    for placement in placements:
        if placement.node == load.node.id:
            free -= placement.resources
            for share in placement.devices:
                devices[share.index] -= share.milli
    return replace(load, free=free, devices=tuple(devices))
