"""Where a gang goes, and what is left after."""

from __future__ import annotations

import pytest

from factory.domain.jobs import DeviceShare, Placement, Topology
from factory.domain.pools import NodeState
from factory.domain.resources import Resources
from factory.scheduling.fleet import Fleet, Shape
from factory.scheduling.floor import Floor
from factory.scheduling.fragmentation import Typical
from factory.testing.builders import node, resources
from tests.unit.scheduling.test_fleet import Load, idle, shape


def left(id: str, *, cpu: float = 64, memory_gib: float = 256, gpus: tuple[float, ...] = (), **more: object) -> Load:
    """A node of 64 CPUs and 256 GiB with so much left of it, and so much of each device."""
    row = node(id, cpu=64, memory_gib=256, gpus=len(gpus), **more)  # pyright: ignore
    devices = tuple(round(free * 1000) for free in gpus)
    return Load(row, resources(cpu, memory_gib, sum(gpus)), devices)


def floor_of(*loads: Load, typical: dict[Shape, int] | None = None) -> Floor:
    return Floor(Fleet.build(loads), Typical.of(typical or {}))


def where(placed: tuple[Placement, ...] | None) -> list[str]:
    assert placed is not None
    return [placement.node for placement in placed]


def devices(placed: tuple[Placement, ...] | None) -> list[list[tuple[int, int]]]:
    assert placed is not None
    return [[(share.index, share.milli) for share in placement.devices] for placement in placed]


def test_equal_nodes_are_told_apart_by_their_ids() -> None:
    assert where(floor_of(idle("n3"), idle("n1"), idle("n2")).place(shape(cpu=2), 1)) == ["n1"]


def test_a_cpu_pool_is_filled_from_the_fullest_node() -> None:
    floor = floor_of(left("n1", cpu=8, memory_gib=32), left("n2", cpu=2, memory_gib=8), left("n3", cpu=1, memory_gib=4))
    assert where(floor.place(shape(cpu=2), 1)) == ["n2"]


def test_memory_that_runs_out_keeps_a_job_off_a_node() -> None:
    floor = floor_of(left("n1", cpu=8, memory_gib=4), left("n2", cpu=8, memory_gib=64), typical={shape(1, 2): 1})
    assert where(floor.place(shape(cpu=1, memory_gib=4), 1)) == ["n2"]
    assert where(floor.place(shape(cpu=1, memory_gib=1), 1)) == ["n1"]  # its CPUs are of little use to others


def test_a_gang_that_fits_one_node_stays_on_one_node() -> None:
    floor = floor_of(left("n1", cpu=3), left("n2", cpu=4), left("n3", cpu=8))
    assert where(floor.place(shape(cpu=1), 4)) == ["n2"] * 4


def test_a_gang_that_fits_no_single_node_spans_as_few_as_it_can() -> None:
    floor = floor_of(left("n1", cpu=1), left("n2", cpu=2), left("n3", cpu=4), left("n4", cpu=2))
    assert where(floor.place(shape(cpu=1), 5)) == ["n3"] * 4 + ["n1"]


def test_the_roomiest_are_filled_level_by_level() -> None:
    rooms = (1, 3, 5, 2, 3, 2)
    floor = floor_of(*(left(f"n{i}", cpu=room) for i, room in enumerate(rooms)))
    for replicas, counts in {
        6: [1, 5],
        8: [3, 5],
        9: [1, 3, 5],
        11: [3, 3, 5],
        12: [1, 3, 3, 5],
        16: [1, 2, 2, 3, 3, 5],
    }.items():
        placed = where(floor.place(shape(cpu=1), replicas))
        assert sorted(placed.count(node) for node in set(placed)) == counts


def test_the_rest_of_a_gang_goes_to_the_node_that_it_fits_best() -> None:
    floor = floor_of(*(left(f"n{i}", cpu=room) for i, room in enumerate((4, 3, 1, 2))))
    assert where(floor.place(shape(cpu=1), 5)) == ["n0"] * 4 + ["n2"]
    assert where(floor.place(shape(cpu=1), 6)) == ["n0"] * 4 + ["n3"] * 2


def test_of_equally_roomy_nodes_the_cheapest_are_filled() -> None:
    loads = [left(f"n{i}", cpu=cpu, gpus=(1, 1)) for i, cpu in enumerate((40, 6, 40, 5, 7))]
    floor = floor_of(*loads, typical={shape(cpu=4, gpu=1): 1})
    assert where(floor.place(shape(cpu=2, gpu=1), 5)) == ["n3", "n3", "n1", "n1", "n4"]


def test_the_last_replicas_go_where_they_cost_least() -> None:
    loads = [left("n1", cpu=8, gpus=(1, 1)), left("n2", cpu=8, gpus=(1, 1)), left("n3", cpu=4, gpus=(1,))]
    floor = floor_of(*loads, typical={shape(cpu=4, gpu=1): 1})
    assert sorted(where(floor.place(shape(cpu=4, gpu=1), 3))) == ["n1", "n1", "n2"]


def test_ranks_count_up_over_all_nodes_of_the_gang() -> None:
    placed = floor_of(left("n1", cpu=2), left("n2", cpu=2)).place(shape(cpu=1), 3)
    assert placed is not None
    assert [placement.rank for placement in placed] == [0, 1, 2]
    assert {placement.resources for placement in placed} == {resources(cpu=1)}


def test_a_gang_of_which_one_replica_has_no_room_gets_nothing() -> None:
    floor = floor_of(left("n1", cpu=2), left("n2", cpu=2))
    assert floor.can_fit(shape(cpu=1), 4)
    assert not floor.can_fit(shape(cpu=1), 5)
    assert floor.place(shape(cpu=1), 5) is None


@pytest.mark.parametrize("state", [NodeState.DRAINING, NodeState.LOST])
def test_nodes_that_are_not_ready_are_never_used(state: NodeState) -> None:
    floor = floor_of(idle("n1", state=state))
    assert floor.room(shape(cpu=1)) == 0
    assert floor.place(shape(cpu=1), 1) is None
    assert floor.place(shape(), 1) is None


def test_a_replica_that_asks_for_nothing_fits_wherever_a_node_is_ready() -> None:
    floor = floor_of(left("n1", cpu=0, memory_gib=0), left("n2", cpu=-1))
    assert where(floor.place(shape(), 3)) == ["n2"] * 3
    assert floor.room(shape(), 7) == 7


def test_what_is_below_zero_only_stops_those_who_ask_for_it() -> None:
    floor = floor_of(left("n1", cpu=-1, memory_gib=8))
    assert floor.room(shape(cpu=0.5)) == 0
    assert floor.room(shape(memory_gib=4)) == 2


def test_gpus_that_the_node_holds_unnamed_are_not_given_again() -> None:
    row = node("n1", gpus=2)
    floor = floor_of(Load(row, resources(8, 64, 1), (1000, 1000)))
    assert (floor.room(shape(gpu=1)), floor.room(shape(gpu=0.5)), floor.room(shape(gpu=2))) == (1, 2, 0)


def test_a_device_below_zero_is_no_room_and_takes_none_from_others() -> None:
    floor = floor_of(Load(node("n1", gpus=2), resources(8, 64, 1), (-500, 1000)))
    assert (floor.room(shape(gpu=0.5)), floor.room(shape(gpu=0.001))) == (2, 1000)
    assert devices(floor.place(shape(gpu=0.5), 2)) == [[(1, 500)], [(1, 500)]]


def test_whole_gpus_are_wholly_free_devices_lowest_index_first() -> None:
    floor = floor_of(left("n1", gpus=(1, 0.5, 1, 1, 1)))
    assert devices(floor.place(shape(gpu=2), 2)) == [[(0, 1000), (2, 1000)], [(3, 1000), (4, 1000)]]
    assert floor.place(shape(gpu=2), 3) is None


def test_gpus_of_one_replica_are_of_one_node() -> None:
    floor = floor_of(left("n1", gpus=(1,)), left("n2", gpus=(1,)))
    assert floor.place(shape(gpu=2), 1) is None


def test_a_share_goes_to_the_fullest_device_that_takes_it_if_nothing_is_known() -> None:
    floor = floor_of(left("n1", gpus=(1, 0.3, 0.5, 0.5)))
    assert devices(floor.place(shape(gpu=0.4), 1)) == [[(2, 400)]]


def test_shares_of_one_gang_may_share_a_device() -> None:
    floor = floor_of(left("n1", gpus=(1, 0.5)))
    assert devices(floor.place(shape(gpu=0.5), 3)) == [[(1, 500)], [(0, 500)], [(0, 500)]]


def test_a_share_is_never_split_over_devices() -> None:
    floor = floor_of(left("n1", gpus=(0.4, 0.4)))
    assert floor.place(shape(gpu=0.5), 1) is None
    assert floor.room(shape(gpu=0.4)) == 2


def test_a_share_completes_the_device_that_fits_it_and_leaves_the_gap_that_others_fill() -> None:
    """Two 0.47s fill a GPU, so 0.32 belongs beside 0.65, though it fits beside 0.47 too."""
    known = {shape(gpu=0.47): 750, shape(gpu=0.65): 250, shape(gpu=0.32): 300}
    floor = floor_of(left("n1", gpus=(0.53, 0.35)), typical=known)
    assert devices(floor.place(shape(gpu=0.32), 1)) == [[(1, 320)]]
    assert devices(floor.place(shape(gpu=0.47), 1)) == [[(0, 470)]]


def test_a_small_share_goes_where_nothing_else_would() -> None:
    """0.19 beside a 0.81 is good for nothing else; a third of a GPU is, though it is fuller."""
    known = {shape(gpu=0.81): 1000, shape(gpu=0.17): 1, shape(gpu=0.16): 70}
    floor = floor_of(left("n1", gpus=(1, 0.19)), left("n2", gpus=(1,)), typical=known)
    assert devices(floor.place(shape(gpu=0.16), 1)) == [[(1, 160)]]
    assert where(floor.place(shape(gpu=0.16), 1)) == ["n1"]


def test_a_cheap_cut_is_taken_on_whichever_node_has_it() -> None:
    known = {shape(gpu=0.5): 10}
    floor = floor_of(left("n1", gpus=(1, 1)), left("n2", gpus=(1, 0.5)), typical=known)
    assert where(floor.place(shape(gpu=0.3), 1)) == ["n1"]  # every cut costs a half: ties go to the first
    floor = floor_of(left("n1", gpus=(1, 1)), left("n2", gpus=(1, 0.4)), typical=known)
    assert where(floor.place(shape(gpu=0.3), 1)) == ["n2"]  # 0.4 is worth nothing to halves


def test_a_cut_and_a_gain_in_balance_are_weighed_in_one_unit() -> None:
    """On n1 the share costs half a GPU and brings CPUs worth one into use; n2's rest of 0.4 is free to cut."""
    half = {shape(cpu=1, gpu=0.5): 1}  # two CPUs beside a GPU
    wide = left("n1", cpu=40, gpus=(0.5,))
    gains_more, loses = left("n2", cpu=2.5, gpus=(0.4,)), left("n2", cpu=2.5, gpus=(0.4, 0.5))
    few, many = shape(cpu=0.5, gpu=0.25), shape(cpu=2.5, gpu=0.25)
    assert where(floor_of(wide, gains_more, typical=half).place(many, 1)) == ["n2"]
    assert where(floor_of(wide, loses, typical=half).place(many, 1)) == ["n1"]
    assert where(floor_of(wide, loses, typical=half).place(few, 1)) == ["n2"]


def test_a_job_of_few_cpus_goes_where_cpus_are_short() -> None:
    floor = floor_of(left("n1", cpu=16, gpus=(1, 1)), left("n2", cpu=6, gpus=(1, 1)), typical={shape(cpu=8, gpu=1): 1})
    assert where(floor.place(shape(cpu=2, gpu=1), 1)) == ["n2"]


def test_a_job_of_many_cpus_goes_where_cpus_are_plenty() -> None:
    floor = floor_of(left("n1", cpu=16, gpus=(1, 1)), left("n2", cpu=40, gpus=(1, 1)), typical={shape(cpu=8, gpu=1): 1})
    assert where(floor.place(shape(cpu=14, gpu=1), 1)) == ["n2"]


def test_all_replicas_on_a_node_are_counted() -> None:
    """One replica leaves n1 in balance, two or three leave it short of CPUs or memory."""
    loads = left("n1", cpu=15, gpus=(1, 1, 1, 1)), left("n2", cpu=24, gpus=(1, 1, 1))
    floor = floor_of(*loads, typical={shape(cpu=4, gpu=1): 1})
    assert where(floor.place(shape(cpu=2, gpu=1), 1)) == ["n1"]
    assert where(floor.place(shape(cpu=5, gpu=1), 3)) == ["n2"] * 3
    heavy = {shape(cpu=4, memory_gib=4, gpu=1): 1}
    loads = left("n1", memory_gib=12, gpus=(1, 1, 1)), left("n2", memory_gib=24, gpus=(1, 1, 1))
    assert where(floor_of(*loads, typical=heavy).place(shape(cpu=16, memory_gib=4.5, gpu=1), 2)) == ["n2"] * 2


def test_a_job_of_much_memory_keeps_off_gpus_that_are_short_of_it() -> None:
    loads = left("n1", memory_gib=16, gpus=(1, 1)), left("n2", memory_gib=64, gpus=(1, 1))
    for cpu in (0, 8):  # whether or not CPUs are asked for
        floor = floor_of(*loads, typical={shape(cpu=cpu, memory_gib=8, gpu=1): 1})
        assert where(floor.place(shape(cpu=cpu, memory_gib=12, gpu=1), 1)) == ["n2"]
        assert where(floor.place(shape(cpu=cpu, memory_gib=4, gpu=1), 1)) == ["n1"]


def test_balance_goes_before_fullness_in_a_cpu_pool() -> None:
    floor = floor_of(left("n1", cpu=7, memory_gib=4), left("n2", cpu=8, memory_gib=64), typical={shape(1, 2): 1})
    assert where(floor.place(shape(cpu=1, memory_gib=4), 1)) == ["n2"]
    assert where(floor.place(shape(cpu=1, memory_gib=2), 1)) == ["n1"]


def test_shapes_with_gpus_say_nothing_about_a_cpu_pool() -> None:
    floor = floor_of(left("n1", cpu=8), left("n2", cpu=4), typical={shape(cpu=4, gpu=1): 1})
    assert where(floor.place(shape(cpu=1), 1)) == ["n2"]


def test_a_job_without_gpus_keeps_off_the_cpus_that_gpus_need() -> None:
    loads = left("n1", cpu=8, gpus=(1,)), left("n2", cpu=32, gpus=(1,)), left("n3", cpu=16, gpus=(0,))
    floor = floor_of(*loads, typical={shape(cpu=8, gpu=1): 1})
    assert where(floor.place(shape(cpu=8), 1)) == ["n2"]


def test_a_job_of_any_model_leaves_the_one_that_others_name() -> None:
    loads = left("n1", gpus=(1, 1), gpu_model="h100"), left("n2", gpus=(1, 1), gpu_model="l4")
    known = {shape(gpu=1): 3, shape(gpu=1, models=("h100",)): 4}
    assert where(floor_of(*loads, typical=known).place(shape(gpu=1), 1)) == ["n2"]
    assert where(
        floor_of(*loads, typical={shape(gpu=1): 9, shape(gpu=1, models=("h100",)): 1}).place(shape(gpu=1), 1)
    ) == ["n1"]


def test_demand_that_names_several_models_counts_for_each_by_its_gpus() -> None:
    """A quarter of the demand may use half of four GPUs of twelve: too much of them, were it for one model or both."""
    loads = [
        left("n1", gpus=(1, 1), gpu_model="a100"),
        left("n2", gpus=(1, 1), gpu_model="h100"),
        left("n3", gpus=(1,) * 8, gpu_model="l4"),
    ]
    both = ("a100", "h100")
    for named, first in ((25, "n3"), (15, "n1")):
        floor = floor_of(*loads, typical={shape(gpu=1): 100 - named, shape(gpu=1, models=both): named})
        assert where(floor.place(shape(gpu=1), 1)) == [first]


def test_a_job_that_names_models_goes_to_one_of_them() -> None:
    loads = (left(f"n{i}", gpus=(1,), gpu_model=model) for i, model in enumerate(("a100", "h100", "l4")))
    floor = floor_of(*loads)
    assert where(floor.place(shape(gpu=1, models=("h100", "l4")), 2)) == ["n1", "n2"]
    assert floor.place(shape(gpu=1, models=("h100", "l4")), 3) is None
    assert floor.place(shape(gpu=1, models=("v100",)), 1) is None


def test_one_node_takes_the_gang_or_nobody() -> None:
    floor = floor_of(left("n1", cpu=3), left("n2", cpu=4))
    assert where(floor.place(shape(cpu=1), 4, Topology.ONE_NODE)) == ["n2"] * 4
    assert floor.place(shape(cpu=1), 5, Topology.ONE_NODE) is None


def test_a_gang_may_span_zones_unless_it_asks_for_one() -> None:
    floor = floor_of(left("n1", cpu=2, zone="east"), left("n2", cpu=2, zone="west"))
    assert floor.can_fit(shape(cpu=1), 3)
    assert where(floor.place(shape(cpu=1), 3)) == ["n1", "n1", "n2"]
    assert not floor.can_fit(shape(cpu=1), 3, Topology.SAME_ZONE)


def test_spread_replicas_are_each_on_a_node_of_their_own() -> None:
    floor = floor_of(left("n1", cpu=9), left("n2", cpu=9), left("n3", cpu=9))
    assert sorted(where(floor.place(shape(cpu=1), 3, Topology.SPREAD))) == ["n1", "n2", "n3"]
    assert floor.place(shape(cpu=1), 4, Topology.SPREAD) is None


def test_spread_replicas_take_the_cheapest_nodes() -> None:
    floor = floor_of(left("n1", cpu=9), left("n2", cpu=3), left("n3", cpu=5))
    assert sorted(where(floor.place(shape(cpu=1), 2, Topology.SPREAD))) == ["n2", "n3"]


def test_a_gang_of_one_zone_goes_to_the_zone_that_takes_it_on_fewest_nodes() -> None:
    floor = floor_of(
        left("n1", cpu=2, zone="east"),
        left("n2", cpu=2, zone="east"),
        left("n3", cpu=3, zone="west"),
        left("n4", cpu=4, zone="west"),
        left("n5", cpu=9, zone="north", state=NodeState.LOST),
    )
    assert where(floor.place(shape(cpu=1), 4, Topology.SAME_ZONE)) == ["n4"] * 4
    assert sorted(where(floor.place(shape(cpu=1), 7, Topology.SAME_ZONE))) == ["n3"] * 3 + ["n4"] * 4
    assert floor.place(shape(cpu=1), 8, Topology.SAME_ZONE) is None


def test_of_zones_that_take_it_alike_the_cheaper_then_the_first_by_name_wins() -> None:
    equal = floor_of(left("n1", cpu=4, zone="west"), left("n2", cpu=4, zone="east"))
    assert where(equal.place(shape(cpu=1), 4, Topology.SAME_ZONE)) == ["n2"] * 4
    fuller = floor_of(left("n1", cpu=5, zone="west"), left("n2", cpu=9, zone="east"))
    assert where(fuller.place(shape(cpu=1), 4, Topology.SAME_ZONE)) == ["n1"] * 4


def test_nodes_that_name_no_zone_are_one_zone() -> None:
    floor = floor_of(left("n1", cpu=1), left("n2", cpu=1), left("n3", cpu=1, zone="east"))
    assert where(floor.place(shape(cpu=1), 2, Topology.SAME_ZONE)) == ["n1", "n2"]
    assert floor.place(shape(cpu=1), 3, Topology.SAME_ZONE) is None


def test_what_is_taken_is_gone_until_it_is_given_back() -> None:
    floor = floor_of(left("n1", cpu=4, memory_gib=8, gpus=(1, 0.5)))
    placed = floor.place(shape(cpu=1, memory_gib=2, gpu=0.5), 2)
    assert placed is not None
    (id,) = {placement.node for placement in placed}
    floor.take(placed)
    assert floor.free_of(id) == (resources(2, 4, 0.5), (500, 0))
    floor.give(placed)
    assert floor.free_of(id) == (resources(4, 8, 1.5), (1000, 500))


def test_nothing_taken_is_nothing_changed() -> None:
    floor = floor_of(left("n1", cpu=4))
    floor.take(())
    assert floor.room(shape(cpu=1)) == 4


def test_room_follows_what_is_taken_and_given() -> None:
    floor = floor_of(left("n1", cpu=4), left("n2", cpu=4))
    small, large = shape(cpu=1), shape(cpu=3)
    assert (floor.room(small), floor.room(large)) == (8, 2)
    placed = floor.place(small, 2) or ()
    floor.take(placed)
    assert (floor.room(small), floor.room(large)) == (6, 1)
    floor.give(placed)
    assert (floor.room(small), floor.room(large)) == (8, 2)


def test_the_fleet_is_not_changed_by_what_is_taken() -> None:
    fleet = Fleet.build([left("n1", cpu=4)])
    floor = Floor(fleet, Typical())
    floor.take(floor.place(shape(cpu=1), 4) or ())
    assert Floor(fleet, Typical()).room(shape(cpu=1)) == 4


def test_placements_on_a_node_that_is_gone_count_for_nothing() -> None:
    floor = floor_of(left("n1", cpu=4))
    ghost = Placement(0, node("n9").id, resources(cpu=1))
    floor.take([ghost])
    floor.give([ghost, ghost])
    assert floor.room(shape(cpu=1)) == 4


def test_a_device_that_the_node_no_longer_reports_has_nothing_to_give_back() -> None:
    floor = floor_of(left("n1", gpus=(1,)), left("n2", gpus=(1, 1)))
    id = floor.fleet.nodes[0].id
    held = Placement(0, id, Resources(gpu_milli=1000), (DeviceShare(1, 1000),))
    floor.give([held])
    assert floor.free_of(id) == (resources(64, 256, 2), (1000,))
    assert floor.room(shape(gpu=2)) == 1
    floor.take([held])
    assert floor.free_of(id) == (resources(64, 256, 1), (1000,))


def test_more_may_be_taken_than_is_there_and_then_nothing_fits() -> None:
    floor = floor_of(left("n1", cpu=2, gpus=(0.5,)))
    id = floor.fleet.nodes[0].id
    floor.take([Placement(0, id, resources(cpu=3, gpu=1), (DeviceShare(0, 1000),))])
    assert floor.free_of(id)[1] == (-500,)
    assert floor.room(shape(gpu=0.1)) == floor.room(shape(cpu=1)) == floor.room(shape(gpu=1)) == 0


def test_a_restricted_node_gives_what_is_left_to_it() -> None:
    floor = floor_of(left("n1", cpu=8, gpus=(1, 1, 0.5)))
    id = floor.fleet.nodes[0].id
    assert floor.room(shape(gpu=1)) == 2
    floor.restrict(id, resources(4, 999, 1.3), (1000, 300, 1000))
    assert floor.free_of(id) == (resources(4, 256, 1.3), (1000, 300, 500))
    assert floor.room(shape(gpu=1)) == 1
    assert floor.room(shape(cpu=1)) == 4


def test_copies_do_not_see_each_others_changes() -> None:
    floor = floor_of(left("n1", cpu=4))
    one = shape(cpu=1)
    assert floor.room(one) == 4
    other = floor.copy()
    other.take(other.place(one, 3) or ())
    third = other.copy()
    floor.take(floor.place(one, 1) or ())
    third.take(third.place(one, 1) or ())
    assert (floor.room(one), other.room(one), third.room(one)) == (3, 1, 0)


def test_a_floor_may_be_told_later_what_is_typical() -> None:
    loads = left("n1", cpu=16, gpus=(1, 1)), left("n2", cpu=6, gpus=(1, 1))
    floor = floor_of(*loads, typical={shape(cpu=1, gpu=1): 1})
    assert where(floor.place(shape(cpu=2, gpu=1), 1)) == ["n1"]
    floor.retype(Typical.of({shape(cpu=8, gpu=1): 1}))
    assert where(floor.place(shape(cpu=2, gpu=1), 1)) == ["n2"]
