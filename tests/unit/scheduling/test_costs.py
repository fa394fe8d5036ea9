"""What placements cost, what nodes have left, which devices are named: the small parts below placement."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from factory.domain.jobs import DeviceShare, Placement, WaitReason
from factory.domain.resources import Resources
from factory.scheduling.cutting import GPU_WORTH
from factory.scheduling.devices import cut_cost, grant
from factory.scheduling.fleet import Columns, Shape
from factory.scheduling.fragmentation import Costs, Typical, costs_of
from factory.scheduling.holding import Holding, hold, load_of
from factory.scheduling.reasons import counted, described, kinds, listed, number, precedence, slots, vector, waiting
from factory.testing.builders import node, resources

NODE = node("n1", cpu=8, memory_gib=32, gpus=2)


def shape(cpu: float = 1, memory_gib: float = 0, gpu: float = 0, *models: str) -> Shape:
    return Shape(resources(cpu, memory_gib, gpu), models)


def ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def columns(*nodes: tuple[float, float, float]) -> Columns:
    """Nodes with so many CPUs, GiB and GPUs left."""
    left = [resources(*each) for each in nodes]
    return Columns(
        ints(*(each.cpu_milli for each in left)), ints(*(each.memory_bytes for each in left)),
        ints(*(each.gpu_milli for each in left)), np.zeros((len(left), 0), np.int64),
    )  # fmt: skip


# -- typical shapes ----------------------------------------------------------------------------------------------------


def test_the_most_frequent_shapes_are_typical_until_they_cover_enough() -> None:
    seen = {shape(1): 60, shape(2): 35, shape(3): 4, shape(4): 1}
    assert [each.resources.cpu_milli for each, _ in Typical.of(seen).shapes] == [1000, 2000]
    assert [each.resources.cpu_milli for each, _ in Typical.of(seen, 951).shapes] == [1000, 2000, 3000]
    assert [each.resources.cpu_milli for each, _ in Typical.of(seen, 600).shapes] == [1000]
    assert [each.resources.cpu_milli for each, _ in Typical.of(seen, 1000).shapes] == [1000, 2000, 3000, 4000]


def test_weights_are_parts_of_what_is_covered_rounded_up() -> None:
    assert [weight for _, weight in Typical.of({shape(1): 2, shape(2): 1}).shapes] == [6667, 3334]


def test_equally_frequent_shapes_are_in_their_own_order() -> None:
    assert [each for each, _ in Typical.of({shape(3): 1, shape(1): 1, shape(2): 1}).shapes] == [
        shape(1),
        shape(2),
        shape(3),
    ]


def test_nothing_seen_is_nothing_typical() -> None:
    assert Typical.of({}).shapes == ()
    assert Typical.of({shape(1): 0}).shapes == ()


# -- costs -------------------------------------------------------------------------------------------------------------


def test_cutting_a_share_costs_the_worth_that_the_device_loses() -> None:
    costs = Costs(Typical.of({shape(1, 0, 0.5): 4}), ("",), (resources(8, 32, 2),))
    cuts = costs.cuts(500)
    assert cuts[1000] == GPU_WORTH // 2
    assert cuts[500] == GPU_WORTH // 2
    assert cuts[750] == GPU_WORTH // 2  # what is left of it, 250, is worth nothing
    assert cuts[499] == 1 << 40
    assert costs.cuts(500) is cuts


def test_without_gpus_the_node_that_is_left_with_fewest_cpus_is_cheapest() -> None:
    costs = Costs(Typical.of({shape(2, 4): 3}), ("",), (resources(32, 128),))
    found = costs.of(resources(2, 4), columns((8, 16, 0), (4, 8, 0), (6, 12, 0)), ints(0, 0, 0), ints(1, 1, 1))
    assert costs.unit == 0
    assert found.argsort().tolist() == [1, 2, 0]


def test_gpus_whose_cpus_would_be_gone_are_dear() -> None:
    costs = Costs(Typical.of({shape(4, 16, 1): 3}), ("",), (resources(32, 128, 8),))
    tight, even = costs.of(resources(4, 0, 0), columns((4, 64, 4), (20, 64, 4)), ints(0, 0), ints(1, 1)).tolist()
    assert tight > even


def test_a_balanced_replica_costs_a_balanced_node_nothing() -> None:
    costs = Costs(Typical.of({shape(4, 16, 1): 3}), ("",), (resources(32, 128, 8),))
    assert costs.of(resources(4, 16, 1), columns((16, 64, 4)), ints(0), ints(1)).tolist() == [0]
    assert costs.of(resources(4, 16, 1), columns((16, 64, 4)), ints(0), ints(3)).tolist() == [0]


def test_a_model_that_others_ask_for_by_name_is_scarce() -> None:
    typical = Typical.of({shape(1, 0, 1, "h100"): 5, shape(1, 0, 1): 5})
    costs = Costs(typical, ("a100", "h100"), (resources(8, 0, 8), resources(8, 0, 8)))
    plain, scarce = costs.of(resources(1, 0, 1), columns((8, 0, 8), (8, 0, 8)), ints(0, 1), ints(1, 1)).tolist()
    assert scarce > plain
    twice = costs.of(resources(1, 0, 1), columns((8, 0, 8), (8, 0, 8)), ints(0, 1), ints(2, 2)).tolist()
    assert twice[1] - twice[0] == 2 * (scarce - plain)
    none = costs.of(resources(1), columns((8, 0, 8), (8, 0, 8)), ints(0, 1), ints(1, 1)).tolist()
    assert none[0] == none[1]  # a job without GPUs takes none of them


@pytest.mark.parametrize(("named", "is_scarce"), [(1, False), (2, False), (3, True), (9, True)])
def test_a_model_is_scarce_only_if_much_of_it_is_asked_for_by_name(named: int, is_scarce: bool) -> None:
    """Half of the demand for GPUs could use that half of them without any being scarce: a quarter by name is plenty."""
    typical = Typical.of({shape(1, 0, 1, "h100"): named, shape(1, 0, 1): 9 - named}, 1000)
    costs = Costs(typical, ("a100", "h100"), (resources(8, 0, 8), resources(8, 0, 8)))
    plain, other = costs.of(resources(1, 0, 1), columns((8, 0, 8), (8, 0, 8)), ints(0, 1), ints(1, 1)).tolist()
    assert (other > plain) is is_scarce


def test_costs_are_compiled_once_for_equal_workloads() -> None:
    typical = Typical.of({shape(1): 1})
    assert costs_of(typical, ("",), (resources(8),)) is costs_of(Typical.of({shape(1): 9}), ("",), (resources(8),))
    assert costs_of(typical, ("",), (resources(8),)) is not costs_of(typical, ("",), (resources(9),))


def test_where_no_shape_is_typical_the_nodes_themselves_are_the_measure() -> None:
    costs = Costs(Typical(), ("",), (resources(8, 32, 2),))
    assert costs.of(resources(4, 16, 1), columns((8, 32, 2)), ints(0), ints(1)).tolist() == [0]
    assert Costs(Typical(), (), ()).of(resources(1), columns((8, 0, 0)), ints(0), ints(1)).tolist() == [0]


# -- devices -----------------------------------------------------------------------------------------------------------


def named(granted: tuple[tuple[DeviceShare, ...], ...]) -> list[list[tuple[int, int]]]:
    return [[(share.index, share.milli) for share in shares] for shares in granted]


def test_who_asks_for_no_gpu_is_named_none() -> None:
    assert grant((1000, 1000), 0, 3, None) == ((), (), ())


def test_whole_gpus_are_free_devices_lowest_index_first() -> None:
    assert named(grant((1000, 400, 1000, 1000, 1000), 2000, 2, None)) == [
        [(0, 1000), (2, 1000)],
        [(3, 1000), (4, 1000)],
    ]
    assert named(grant((0, 1000), 1000, 1, None)) == [[(1, 1000)]]


def test_a_share_goes_where_it_costs_least_then_to_the_fullest_then_to_the_lowest() -> None:
    even = np.zeros(1001, np.int64)
    assert named(grant((1000, 600, 500, 500), 500, 3, even)) == [[(2, 500)], [(3, 500)], [(1, 500)]]
    dear = even.copy()
    dear[500] = 9
    assert named(grant((1000, 600, 500), 500, 2, dear)) == [[(1, 500)], [(0, 500)]]
    assert named(grant((300, 1000), 400, 2, even)) == [[(1, 400)], [(1, 400)]]


def test_the_cost_of_cuts_is_that_of_the_devices_that_are_named() -> None:
    cuts = np.arange(1001, dtype=np.int64)
    cuts[:400] = 1 << 40  # it does not fit
    devices = np.array([[1000, 600, 500], [1000, 1000, 0], [900, 400, -50]], np.int64)
    assert cut_cost(devices, 400, ints(1, 1, 1), cuts).tolist() == [500, 1000, 400]
    assert cut_cost(devices, 400, ints(2, 2, 2), cuts).tolist() == [500 + 600, 1000 + 600, 400 + 900]
    assert cut_cost(devices, 400, ints(3, 1, 0), cuts).tolist() == [500 + 600 + 1000, 1000, 0]


# -- what nodes have left ----------------------------------------------------------------------------------------------


def placed(cpu: float, *devices: tuple[int, int]) -> Placement:
    vector = resources(cpu, 1, sum(milli for _, milli in devices) / 1000)
    return Placement(0, NODE.id, vector, tuple(DeviceShare(index, milli) for index, milli in devices))


def test_replicas_on_a_node_add_up_and_leave_it_as_it_was() -> None:
    one = hold(None, placed(2, (1, 500)), 1)
    assert one == Holding(resources(2, 1, 0.5), ((1, 500),), 1)
    two = hold(one, placed(1, (0, 1000), (1, 250)), 1)
    assert two == Holding(resources(3, 2, 1.75), ((0, 1000), (1, 750)), 2)
    assert hold(two, placed(1, (0, 1000), (1, 250)), -1) == one
    assert hold(one, placed(2, (1, 500)), -1) is None


def test_what_is_held_is_missing_from_the_node() -> None:
    load = load_of(NODE, Holding(resources(3, 2, 1.25), ((0, 1000), (1, 250)), 2))
    assert (load.node, load.free, load.devices) == (NODE, resources(5, 30, 0.75), (0, 750))
    idle = load_of(NODE, None)
    assert (idle.free, idle.devices) == (NODE.capacity, (1000, 1000))


def test_a_node_that_shrank_has_less_than_nothing_and_unknown_devices_give_nothing() -> None:
    small = replace(NODE, capacity=resources(1, 1, 1), devices=1)
    load = load_of(small, Holding(resources(3, 2, 2), ((0, 1000), (1, 1000)), 1))
    assert (load.free, load.devices) == (Resources(-2000, resources(0, -1).memory_bytes, -1000), (0,))


# -- words -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("milli", "text"),
    [(0, "0"), (1, "0.001"), (1000, "1"), (1500, "1.5"), (10_000, "10"), (-500, "-0.5"), (-2000, "-2")],
)
def test_thousandths_are_written_as_decimals(milli: int, text: str) -> None:
    assert number(milli) == text


def test_one_is_singular() -> None:
    assert (slots(1000), slots(1001), slots(0)) == ("1 slot", "1.001 slots", "0 slots")
    assert (counted(1, "retry", "retries"), counted(0, "retry", "retries"), counted(2, "node")) == (
        "1 retry", "0 retries", "2 nodes"
    )  # fmt: skip


def test_vectors_name_what_they_have() -> None:
    assert vector(resources(1.5, 2, 0.5)) == "0.5 gpu + 1.5 cpu + 2 GiB"
    assert vector(resources()) == "nothing"
    assert vector(Resources(memory_bytes=1)) == "1 MiB"
    assert vector(Resources(memory_bytes=(1 << 30) + 1)) == "1025 MiB"
    assert kinds(resources(1, 2, 3)) == ("gpu", "cpu", "memory")
    assert kinds(resources(0, 2)) == ("memory",)
    assert described(resources(2), 3, 6000) == "6 slots (3 x 2 cpu)"


def test_lists_end_with_and() -> None:
    assert (listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"])) == ("a", "a and b", "a, b and c")


def test_reasons_are_ranked_as_the_domain_lists_them() -> None:
    assert sorted(WaitReason, key=precedence) == list(WaitReason)
    assert precedence(WaitReason.MISCONFIGURED) == 0
    assert waiting(WaitReason.SUSPENDED, "held", z=1, a="b").numbers == (("a", "b"), ("z", 1))
