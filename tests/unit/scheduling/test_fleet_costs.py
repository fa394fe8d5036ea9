"""What is typical, and what a free part of a GPU is worth."""

from __future__ import annotations

import pytest

from factory.domain.resources import Resources
from factory.scheduling.cutting import GPU_WORTH, share_worths
from factory.scheduling.fragmentation import Typical, costs_of
from factory.testing.builders import resources
from tests.unit.scheduling.test_fleet import shape


@pytest.fixture(autouse=True)
def nothing_is_remembered() -> None:
    share_worths.cache_clear()
    costs_of.cache_clear()


THIRD, HALF = GPU_WORTH // 3, GPU_WORTH // 2


def test_typical_shapes_are_the_most_frequent_heaviest_first() -> None:
    typical = Typical.of({shape(cpu=1): 10, shape(cpu=2): 80, shape(cpu=3): 8, shape(cpu=4): 2})
    assert typical.shapes == ((shape(cpu=2), 8164), (shape(cpu=1), 1021), (shape(cpu=3), 817))


def test_shapes_that_were_never_seen_are_not_typical() -> None:
    assert Typical.of({}).shapes == ()
    assert Typical.of({shape(cpu=1): 0}).shapes == ()


def test_equally_frequent_shapes_are_in_their_own_order() -> None:
    one, two = shape(cpu=1), shape(cpu=2)
    assert Typical.of({two: 5, one: 5}) == Typical.of({one: 5, two: 5})
    assert Typical.of({two: 5, one: 5}).shapes == ((one, 5000), (two, 5000))


def test_only_part_of_all_need_be_covered() -> None:
    seen = {shape(cpu=1): 60, shape(cpu=2): 40}
    assert Typical.of(seen, cover_permille=600).shapes == ((shape(cpu=1), 10_000),)
    assert len(Typical.of(seen, cover_permille=601).shapes) == 2


def test_without_shares_only_a_whole_device_is_worth_anything() -> None:
    worth = share_worths(())
    assert worth == (0,) * 1000 + (GPU_WORTH,)


def test_a_share_of_which_two_fill_a_device_is_worth_half_of_it() -> None:
    worth = share_worths(((500, 7),))
    assert [worth[at] for at in (0, 499, 500, 999, 1000)] == [0, 0, HALF, HALF, GPU_WORTH]


def test_a_share_is_worth_what_it_keeps_others_from_not_its_size() -> None:
    worth = share_worths(((340, 1),))
    assert [worth[at] for at in (339, 340, 679, 680)] == [0, HALF, HALF, GPU_WORTH]


def test_what_fills_a_gap_that_is_there_anyway_is_worth_nothing() -> None:
    worth = share_worths(((160, 5), (810, 100)))
    assert worth[160] == worth[809] == 0
    assert worth[810] == GPU_WORTH


def test_what_is_asked_for_more_than_there_are_gaps_sets_the_price() -> None:
    """More 0.16s than 0.81s: six of them fill a device, and a 0.81 is worth the five that it keeps out."""
    worth = share_worths(((160, 1000), (810, 10)))
    assert worth[160] == GPU_WORTH // 6
    assert worth[810] == worth[960] - worth[160] == GPU_WORTH * 5 // 6


def test_halves_thirds_and_what_completes_a_third() -> None:
    """The shares of a published trace: 0.65 goes with 0.32, of which there are more than 0.65s."""
    worth = share_worths(((320, 328), (470, 750), (650, 253), (810, 1078)))
    assert [worth[at] for at in (320, 470, 650, 810)] == [THIRD, HALF, 2 * THIRD, GPU_WORTH]
    assert [worth[at] for at in (190, 350, 530)] == [0, THIRD, HALF]


def test_many_sizes_are_priced_too() -> None:
    sizes = (50, 110, 140, 160, 220, 230, 270, 290, 320, 330, 350, 370, 440, 460, 470, 480, 550, 590, 650, 810)
    counts = (7, 24, 1, 74, 62, 140, 4, 1, 328, 7, 6, 47, 2, 128, 750, 19, 72, 75, 253, 1078)
    worth = share_worths(tuple(zip(sizes, counts, strict=True)))
    # devices that a linear program needs for them all, found with another solver: 1964.583
    assert round(sum(worth[size] * count for size, count in zip(sizes, counts, strict=True)) / GPU_WORTH, 3) == 1964.583


@pytest.mark.parametrize(
    ("demand", "devices"),  # so many the linear program needs, by another solver
    [
        (((102, 75), (249, 136), (385, 34), (449, 170), (504, 155)), 215.15),
        (((116, 180), (278, 195), (505, 37), (556, 105), (641, 122)), 264.0),
        (((130, 64), (150, 63), (494, 113), (578, 57), (798, 69)), 182.5),
        (((124, 195), (190, 37), (648, 144)), 144.0),
        (((90, 162), (173, 251), (522, 251)), 251.0),
        (((80, 220), (387, 166), (517, 239), (561, 237)), 476.0),
    ],
)
def test_the_shares_are_worth_the_devices_that_they_need(demand: tuple[tuple[int, int], ...], devices: float) -> None:
    worth = share_worths(demand)
    rounding = sum(count for _, count in demand) / GPU_WORTH / 2
    assert abs(sum(worth[size] * count for size, count in demand) / GPU_WORTH - devices) <= rounding


def test_shapes_of_one_share_are_priced_together() -> None:
    """Two kinds of 0.16 fill more gaps than the 0.81s leave only if both are counted."""
    seen = {shape(cpu=1, gpu=0.16): 6, shape(cpu=2, gpu=0.16): 6, shape(gpu=0.81): 10}
    costs = costs_of(Typical.of(seen, 1000), ("",), (resources(8, 64, 4),))
    assert int(costs.cuts(160)[160]) == GPU_WORTH // 6
    alone = costs_of(Typical.of({**seen, shape(cpu=2, gpu=0.16): 0}, 1000), ("",), (resources(8, 64, 4),))
    assert int(alone.cuts(160)[160]) == 0


def test_nineteen_of_twenty_are_typical() -> None:
    assert len(Typical.of({shape(cpu=1): 950, shape(cpu=2): 50}).shapes) == 1
    assert len(Typical.of({shape(cpu=1): 949, shape(cpu=2): 51}).shapes) == 2
    assert len(Typical.of({shape(cpu=1): 949, shape(cpu=2): 50, shape(cpu=3): 1}).shapes) == 2


def test_a_cut_costs_the_worth_that_it_takes_from_the_device() -> None:
    typical = Typical.of({shape(gpu=0.5): 1})
    costs = costs_of(typical, ("",), (resources(8, 64, 4),))
    cuts = costs.cuts(300)
    assert [int(cuts[at]) for at in (300, 499, 500, 799, 800, 999, 1000)] == [0, 0, HALF, HALF, 0, 0, HALF]
    assert int(cuts[299]) > GPU_WORTH
    assert costs.cuts(300) is cuts


def test_costs_are_compiled_once_for_equal_arguments() -> None:
    one = costs_of(Typical.of({shape(gpu=1): 1}), ("a",), (resources(8, 64, 4),))
    assert costs_of(Typical.of({shape(gpu=1): 1}), ("a",), (resources(8, 64, 4),)) is one


@pytest.mark.parametrize(
    "capacity",
    [Resources(), resources(cpu=8), resources(memory_gib=8), resources(gpu=8), resources(8, 64), resources(8, 0, 4)],
)
def test_a_pool_may_lack_any_resource(capacity: Resources) -> None:
    assert costs_of(Typical(), ("",), (capacity,)) is costs_of(Typical(), ("",), (capacity,))
