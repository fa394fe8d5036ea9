"""What a free part of a GPU is worth: the dual prices of the cutting-stock problem, checked by hand and by force."""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import pytest

from factory.scheduling.cutting import GPU_WORTH, share_worths

Demand = tuple[tuple[int, int], ...]


def worths(*demand: tuple[int, int]) -> tuple[int, ...]:
    return share_worths(demand)


def patterns(sizes: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Every way to cut one device into shares of these sizes."""
    return [
        counts
        for counts in product(*(range(1000 // size + 1) for size in sizes))
        if sum(count * size for count, size in zip(counts, sizes, strict=True)) <= 1000
    ]


def test_without_shares_only_a_whole_device_is_worth_anything() -> None:
    assert worths() == (0,) * 1000 + (GPU_WORTH,)


def test_two_halves_make_a_device() -> None:
    found = worths((500, 7))
    assert [found[milli] for milli in (0, 499, 500, 999, 1000)] == [0, 0, 6000, 6000, 12_000]


@pytest.mark.parametrize(("size", "each"), [(1000 // 3, 4000), (250, 3000), (334, 6000), (501, 12_000), (999, 12_000)])
def test_a_share_is_worth_the_part_of_a_device_that_so_many_of_it_fill(size: int, each: int) -> None:
    found = worths((size, 3))
    for milli in range(0, 1001, 7):
        assert found[milli] == milli // size * each


def test_what_fills_what_others_leave_over_is_worth_nothing() -> None:
    """Each 700 takes a device of its own, and leaves room for a 300; there are fewer of these than of those."""
    found = worths((300, 1), (700, 5))
    assert (found[300], found[600], found[700], found[1000]) == (0, 0, 12_000, 12_000)


def test_what_is_asked_for_more_than_fits_beside_has_its_price() -> None:
    found = worths((300, 50), (700, 5))
    assert (found[300], found[700], found[1000]) == (4000, 8000, 12_000)


def test_worth_never_falls_and_a_whole_device_is_worth_one() -> None:
    for demand in (((100, 3), (300, 1), (450, 9)), ((250, 1), (333, 2), (500, 3), (600, 4)), ((1, 1), (999, 1))):
        found = share_worths(demand)
        assert len(found) == 1001
        assert found[1000] == GPU_WORTH
        assert found[0] == 0
        assert list(found) == sorted(found)


@pytest.mark.parametrize(
    "demand",
    [
        ((200, 5), (500, 3)),
        ((300, 4), (400, 4), (600, 2)),
        ((250, 9), (350, 2), (700, 3)),
        ((150, 1), (340, 8), (510, 5)),
        ((333, 1), (334, 1), (500, 1)),
    ],
)
def test_prices_are_those_of_the_linear_program(demand: Demand) -> None:
    """Duality: no pattern is worth more than its device, and all that is asked for is worth what it must cost.

    The least number of devices, fractions allowed, is bounded from below by the prices; a cover by patterns that are
    worth a whole device each bounds it from above, and both must meet.
    """
    sizes = tuple(size for size, _ in demand)
    found = share_worths(demand)
    prices = [found[size] for size in sizes]
    rounding = len(sizes) * 1000 // min(sizes)
    tight = []
    for counts in patterns(sizes):
        worth = sum(count * price for count, price in zip(counts, prices, strict=True))
        assert worth <= GPU_WORTH + rounding
        if worth >= GPU_WORTH - rounding:
            tight.append(counts)
    assert tight, "some pattern uses a device fully"
    for at, price in enumerate(prices):
        if price > rounding:
            assert any(counts[at] for counts in tight), "what has a price is cut from full devices"


@pytest.mark.parametrize(
    "demand", [((200, 5), (500, 3)), ((300, 4), (400, 4), (600, 2)), ((333, 1), (334, 1), (500, 1))]
)
def test_a_free_amount_is_worth_the_dearest_set_that_fits_in_it(demand: Demand) -> None:
    sizes = tuple(size for size, _ in demand)
    found = share_worths(demand)
    for free in range(0, 1001, 13):
        best = max(
            sum(count * found[size] for count, size in zip(counts, sizes, strict=True))
            for counts in patterns(sizes)
            if sum(count * size for count, size in zip(counts, sizes, strict=True)) <= free
        )
        assert abs(found[free] - best) <= 1000 // min(sizes)


def test_how_often_counts_only_in_proportion() -> None:
    assert worths((300, 4), (400, 4), (600, 2)) == worths((300, 40), (400, 40), (600, 20))


def test_a_dozen_sizes_are_solved_exactly() -> None:
    demand = tuple((size, 1 + size % 7) for size in range(80, 1000, 75))
    found = share_worths(demand)
    assert found[1000] == GPU_WORTH
    assert list(found) == sorted(found)
    for size, _ in demand:
        assert Fraction(found[size], GPU_WORTH) <= Fraction(1, 1000 // size) + Fraction(1, 1000)
