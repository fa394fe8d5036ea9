"""Which devices of a node a replica gets: named, so that no two jobs are told the same GPU (rule 3).

Whole GPUs are wholly free devices, lowest index first. A share of a GPU goes to the fullest device that still takes
it; ties to the lowest index. The two functions say the same, one for many nodes at once, one with names.
"""

from __future__ import annotations

import numpy as np

from factory.domain.jobs import DeviceShare
from factory.scheduling.fleet import UNBOUNDED, WHOLE, Ints

__all__ = ["after", "grant"]


def grant(devices: tuple[int, ...], gpu_milli: int, count: int) -> tuple[tuple[DeviceShare, ...], ...]:
    """Name the devices of `count` replicas on one node, which has room for them: per replica its shares."""
    if gpu_milli == 0:
        return ((),) * count
    if gpu_milli % WHOLE == 0:
        whole = iter([index for index, left in enumerate(devices) if left == WHOLE])
        return tuple(tuple(DeviceShare(next(whole), WHOLE) for _ in range(gpu_milli // WHOLE)) for _ in range(count))
    left = list(devices)
    granted: list[tuple[DeviceShare, ...]] = []
    for _ in range(count):
        index = min((i for i, free in enumerate(left) if free >= gpu_milli), key=lambda i: (left[i], i))
        left[index] -= gpu_milli
        granted.append((DeviceShare(index, gpu_milli),))
    return tuple(granted)


def after(devices: Ints, gpu_milli: int, counts: Ints) -> Ints:
    """Return [node, device]: what each node's devices are left with when it takes so many replicas."""
    if gpu_milli == 0:
        return devices
    left = devices.copy()
    if gpu_milli % WHOLE == 0:
        whole = left == WHOLE
        left[whole & (np.cumsum(whole, axis=1) <= counts[:, None] * (gpu_milli // WHOLE))] = 0
        return left
    every = np.arange(len(left))
    for turn in range(int(counts.max(initial=0))):
        index = np.where(left >= gpu_milli, left, UNBOUNDED).argmin(axis=1)
        left[every, index] -= np.where(turn < counts, gpu_milli, 0)
    return left
