"""Which devices of a node a replica gets: named, so that no two jobs are told the same GPU (rule 3).

Whole GPUs are wholly free devices, lowest index first. A share of a GPU goes to the device where cutting it off costs
least, of these to the fullest, ties to the lowest index. The two functions say the same: `cut_cost` for many nodes at
once, `grant` with names.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from factory.domain.jobs import DeviceShare
from factory.scheduling.fleet import WHOLE, Ints

__all__ = ["cut_cost", "grant"]

_RANKS = 1 << 10  # more than a device's free amounts
_NOWHERE = 1 << 60


def grant(
    devices: tuple[int, ...], gpu_milli: int, count: int, cuts: Ints | None
) -> tuple[tuple[DeviceShare, ...], ...]:
    """Name the devices of `count` replicas on one node, which has room for them: per replica its shares.

    Args:
        cuts: what cutting off a share of `gpu_milli` costs at each free amount; None unless it is a share.
    """
    if gpu_milli == 0:
        return ((),) * count
    if cuts is None:
        whole, each = [index for index, left in enumerate(devices) if left == WHOLE], gpu_milli // WHOLE
        return tuple(tuple(_share(i, WHOLE) for i in whole[n * each : (n + 1) * each]) for n in range(count))
    left = list(devices)
    granted: list[tuple[DeviceShare, ...]] = []
    for _ in range(count):
        index = min(
            (i for i, free in enumerate(left) if free >= gpu_milli), key=lambda i: (int(cuts[left[i]]), left[i], i)
        )
        left[index] -= gpu_milli
        granted.append((_share(index, gpu_milli),))
    return tuple(granted)


@lru_cache(maxsize=1 << 14)
def _share(index: int, milli: int) -> DeviceShare:
    return DeviceShare(index, milli)


def cut_cost(devices: Ints, gpu_milli: int, counts: Ints, cuts: Ints) -> Ints:
    """Return what cutting so many shares off each node's devices costs; each node has room for them."""
    ranks, devices = cuts * _RANKS + np.arange(len(cuts)), np.maximum(devices, 0)
    most = int(counts.max(initial=0))
    if most == 1:  # all of them, since nobody asks for none
        return ranks[devices].min(axis=1, initial=_NOWHERE) // _RANKS
    left, every, cost = devices, np.arange(len(devices)), np.zeros(len(devices), np.int64)
    for turn in range(most):
        ranked, cuts_one_more = ranks[left], turn < counts
        index = ranked.argmin(axis=1)
        cost += np.where(cuts_one_more, ranked[every, index] // _RANKS, 0)
        left[every, index] -= np.where(cuts_one_more, gpu_milli, 0)
    return cost
