"""What a free part of a GPU is worth, from the shares that the workload asks for.

Shares of GPUs are cut from whole devices as lengths are cut from stock. The dual prices of that linear program tell
what each share costs in whole GPUs: 1 where nothing that is asked for fits beside it, a half where two go on a device,
0 where it fills what others leave over anyway. A free amount is worth the dearest set of shares that fits in it.

Solved exactly: column generation (Gilmore and Gomory, "A linear programming approach to the cutting-stock problem",
1961) with a revised simplex on whole numbers (Edmonds 1967: every entry over one common denominator). A dozen sizes
take some milliseconds; the answer depends on the numbers alone, not on their order.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from factory.scheduling.fleet import WHOLE, Ints

__all__ = ["GPU_WORTH", "share_worths"]

GPU_WORTH = 12_000  # of a whole free device; halves, thirds, quarters and sixths of it are whole numbers
_FINE = 1 << 40  # denominator of the prices that patterns are looked for with
_TURNS = 50  # pivots per size before the prices at hand must do; a handful per size is usual


@lru_cache(maxsize=64)
def share_worths(demand: tuple[tuple[int, int], ...]) -> tuple[int, ...]:
    """Return the worth of each free amount of one device, 0 to 1000 thousandths.

    Args:
        demand: (thousandths of a GPU, how often) of the shares asked for, sizes 1..999 ascending, each once.
    """
    if not demand:
        return (0,) * WHOLE + (GPU_WORTH,)
    best = _dual(tuple(size for size, _ in demand), [count for _, count in demand])
    whole = int(best[WHOLE])
    return tuple((2 * int(value) * GPU_WORTH + whole) // (2 * whole) for value in best)


def _dual(sizes: tuple[int, ...], demand: list[int]) -> Ints:
    """Return what each free amount is worth by the dual prices, in 1/_FINE of a device."""
    count = len(sizes)
    every = range(count)
    fits = [WHOLE // size for size in sizes]
    scale = 1  # the basis' inverse is `inverse` / scale, its solution `solution` / scale
    for most in fits:
        scale *= most
    inverse = [[scale // fits[row] if row == column else 0 for column in every] for row in every]
    solution = [demand[row] * inverse[row][row] for row in every]
    cuts = [1] * count  # cost of each basic column: 1 = a pattern cut from a device, 0 = a surplus
    best: Ints = np.zeros(WHOLE + 1, np.int64)
    for _ in range(_TURNS * count):
        prices = [sum(inverse[row][column] for row in every if cuts[row]) for column in every]
        fine = [max(0, price) * _FINE // scale for price in prices]
        best = _knapsack(sizes, fine)
        least = min(every, key=lambda column: (prices[column], column))
        if prices[least] < 0:
            entering, cost = [-1 if row == least else 0 for row in every], 0
        else:
            entering, cost = _pattern(sizes, fine, best), 1
            if sum(price * pieces for price, pieces in zip(prices, entering, strict=True)) <= scale:
                break
        column = [sum(have * want for have, want in zip(inverse[row], entering, strict=True)) for row in every]
        out = _leaving(column, solution)
        pivot, gone, held = column[out], inverse[out], solution[out]
        for row in every:
            if row != out:
                ratio = column[row]
                inverse[row] = [
                    (have * pivot - ratio * lost) // scale for have, lost in zip(inverse[row], gone, strict=True)
                ]
                solution[row] = (solution[row] * pivot - ratio * held) // scale
        cuts[out], scale = cost, pivot
    return best


def _leaving(column: list[int], solution: list[int]) -> int:
    """Return the row of the least ratio; ties to the lowest."""
    out = -1
    for row, rate in enumerate(column):
        if rate > 0 and (out < 0 or solution[row] * column[out] < solution[out] * rate):
            out = row
    return out


def _knapsack(sizes: tuple[int, ...], prices: list[int]) -> Ints:
    """Return the dearest set of shares that fits in each amount, 0 to 1000."""
    best: Ints = np.zeros(WHOLE + 1, np.int64)
    for size, price in zip(sizes, prices, strict=True):
        if price:
            for _ in range(WHOLE // size):
                np.maximum(best[size:], best[:-size] + price, out=best[size:])
    return best


def _pattern(sizes: tuple[int, ...], prices: list[int], best: Ints) -> list[int]:
    """Return how many of each size the dearest set in a whole device has."""
    pieces = [0] * len(sizes)
    left = _least(best, WHOLE)
    while best[left] > 0:
        for index, size in enumerate(sizes):
            if prices[index] and size <= left and best[left - size] + prices[index] == best[left]:
                pieces[index] += 1
                left = _least(best, left - size)
                break
    return pieces


def _least(best: Ints, amount: int) -> int:
    """Return the least amount that is worth as much as `amount`."""
    return int(np.count_nonzero(best < best[amount]))  # `best` never falls
