"""Where a gang goes."""

from __future__ import annotations

from itertools import permutations

from factory.domain.jobs import Allocation, DeviceShare
from factory.domain.pools import NodeState
from factory.domain.resources import Resources
from factory.scheduling.placement import NodeLoad, capacity, copies, place
from factory.testing.builders import node, pool, resources, spec

CPU = pool("cpu", cpu=1, memory_gib=4)
GPU = pool("gpu", cpu=4, memory_gib=16, gpu=1)


def load(id: str, *, cpu: float = 8, memory_gib: float = 64, gpus: tuple[float, ...] = (), **more: object) -> NodeLoad:
    """A ready node with so much left, and so much of each device."""
    row = node(id, cpu=64, memory_gib=256, gpus=len(gpus), **more)  # pyright: ignore
    return NodeLoad(row, resources(cpu, memory_gib, sum(gpus)), tuple(round(free * 1000) for free in gpus))


def where(placed: Allocation | None) -> list[str]:
    assert placed is not None
    return [placement.node for placement in placed.placements]


def devices(placed: Allocation | None) -> list[list[tuple[int, int]]]:
    assert placed is not None
    return [[(share.index, share.milli) for share in placement.devices] for placement in placed.placements]


def test_a_single_replica_goes_to_the_node_that_is_left_with_the_least() -> None:
    loads = [load("n1", cpu=8), load("n2", cpu=2), load("n3", cpu=1)]
    assert where(place(loads, CPU, spec(cpu=2))) == ["n2"]


def test_equal_nodes_are_told_apart_by_their_id_whatever_their_order() -> None:
    loads = [load("n3"), load("n1"), load("n2")]
    for order in permutations(loads):
        assert where(place(order, CPU, spec(cpu=2))) == ["n1"]


def test_a_gang_that_fits_one_node_stays_on_one_node() -> None:
    loads = [load("n1", cpu=3), load("n2", cpu=4), load("n3", cpu=8)]
    assert where(place(loads, CPU, spec(replicas=4))) == ["n2"] * 4


def test_a_gang_that_fits_no_single_node_spans_as_few_as_it_can() -> None:
    loads = [load("n1", cpu=1), load("n2", cpu=2), load("n3", cpu=4), load("n4", cpu=2)]
    assert where(place(loads, CPU, spec(replicas=5))) == ["n3"] * 4 + ["n1"]


def test_ranks_count_up_over_all_nodes_of_the_gang() -> None:
    placed = place([load("n1", cpu=2), load("n2", cpu=2)], CPU, spec(replicas=3))
    assert placed is not None
    assert [placement.rank for placement in placed.placements] == [0, 1, 2]


def test_a_gang_of_which_one_replica_has_no_room_gets_nothing() -> None:
    assert place([load("n1", cpu=2), load("n2", cpu=2)], CPU, spec(replicas=5)) is None


def test_memory_can_be_what_runs_out() -> None:
    loads = [load("n1", cpu=64, memory_gib=3), load("n2", cpu=64, memory_gib=3)]
    assert place(loads, CPU, spec(cpu=1, memory_gib=2, replicas=3)) is None
    assert where(place(loads, CPU, spec(cpu=1, memory_gib=2, replicas=2))) == ["n1", "n2"]


def test_nodes_that_are_not_ready_are_left_out() -> None:
    loads = [load("n1", state=NodeState.DRAINING), load("n2", state=NodeState.LOST)]
    assert place(loads, CPU, spec()) is None
    assert capacity(loads, spec()) == 0


def test_the_allocation_counts_the_slots_of_the_whole_gang() -> None:
    placed = place([load("n1")], CPU, spec(cpu=0.5, memory_gib=3, replicas=2))
    assert placed is not None
    assert placed.slots_milli == 2 * 750  # memory decides: 3 of 4 GiB
    assert placed.pool == "cpu"
    assert [p.resources for p in placed.placements] == [resources(cpu=0.5, memory_gib=3)] * 2


def test_whole_gpus_take_free_devices_lowest_index_first() -> None:
    loads = [load("n1", gpus=(0.5, 1, 0, 1, 1))]
    assert devices(place(loads, GPU, spec(gpu=1, replicas=2))) == [[(1, 1000)], [(3, 1000)]]


def test_a_replica_of_two_gpus_takes_two_free_devices_of_one_node() -> None:
    loads = [load("n1", gpus=(1, 0.9)), load("n2", gpus=(0, 1, 1))]
    placed = place(loads, GPU, spec(gpu=2))
    assert where(placed) == ["n2"]
    assert devices(placed) == [[(1, 1000), (2, 1000)]]


def test_shares_of_used_devices_make_no_whole_gpu() -> None:
    assert place([load("n1", gpus=(0.5, 0.5))], GPU, spec(gpu=1)) is None


def test_a_share_goes_to_the_fullest_device_that_takes_it() -> None:
    assert devices(place([load("n1", gpus=(1, 0.4, 0.6))], GPU, spec(gpu=0.5))) == [[(2, 500)]]


def test_a_share_goes_to_the_node_whose_device_it_fills_best() -> None:
    loads = [load("n1", cpu=1, gpus=(1,)), load("n2", cpu=64, gpus=(1, 0.5))]
    placed = place(loads, GPU, spec(gpu=0.5))
    assert where(placed) == ["n2"]
    assert devices(placed) == [[(1, 500)]]


def test_shares_of_one_gang_fill_a_device_before_they_open_the_next() -> None:
    placed = place([load("n1", gpus=(1, 1))], GPU, spec(cpu=0.1, gpu=0.4, replicas=3))
    assert devices(placed) == [[(0, 400)], [(0, 400)], [(1, 400)]]


def test_a_share_is_never_spread_over_two_devices() -> None:
    assert place([load("n1", gpus=(0.3, 0.3))], GPU, spec(gpu=0.5)) is None


def test_work_without_gpus_goes_where_it_strands_the_fewest_gpus() -> None:
    loads = [load("n1", cpu=8, gpus=(1, 1)), load("n2", cpu=8, gpus=(0, 0))]
    assert where(place(loads, GPU, spec(cpu=2))) == ["n2"]


def test_a_replica_that_asks_for_nothing_fits_any_ready_node() -> None:
    assert where(place([load("n1", cpu=0, memory_gib=0)], CPU, spec(cpu=0, replicas=3))) == ["n1"] * 3


def test_capacity_counts_what_all_ready_nodes_take() -> None:
    loads = [load("n1", cpu=3), load("n2", cpu=2), load("n3", state=NodeState.LOST)]
    assert capacity(loads, spec(cpu=2, replicas=9)) == 2


def test_copies_are_bounded_by_the_scarcest_resource_and_never_negative() -> None:
    asked = Resources(1000, 10, 500)
    assert copies(asked, Resources(9000, 45, 2000), (1000, 400, 500)) == 3
    assert copies(asked, Resources(9000, 25, 2000), (1000, 400, 500)) == 2
    assert copies(asked, Resources(-1000, 45, 2000), (1000, 1000)) == 0
    assert copies(asked, Resources(9000, 99, 2000), (-500, 999)) == 1
    assert copies(Resources(), Resources(), ()) is None


def test_taking_a_placement_leaves_the_rest_and_the_old_load_untouched() -> None:
    before = load("n1", cpu=4, gpus=(1, 1))
    placed = place([before], GPU, spec(cpu=1, gpu=0.5))
    assert placed is not None
    rest = before.take(placed.placements[0])
    assert (rest.free.cpu_milli, rest.free.gpu_milli, rest.devices) == (3000, 1500, (500, 1000))
    assert before.devices == (1000, 1000)
    assert placed.placements[0].devices == (DeviceShare(0, 500),)
