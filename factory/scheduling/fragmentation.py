"""What a node is still worth to the workload: the copies of each typical shape that fit on it.

Placing a replica where the pool loses least of this keeps whole nodes for gangs that need them, shares of GPUs beside
shares that complete them, and CPUs beside the GPUs that would be stranded without. Whole numbers only.

Source: after the expected fragmentation of FGD (Weng et al., "Beware of Fragmentation", ATC'23), which counts the GPUs
that a shape cannot use; differs: counts the copies that fit, of shapes learned from the jobs seen (ADR 8).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from factory.scheduling.fleet import UNBOUNDED, WHOLE, Bits, Columns, Ints, Shape

__all__ = ["Typical", "Worth", "whole_devices", "worth_of"]

_MOST = 1 << 20  # copies of one shape that count on one node: keeps every sum far below 2^63
_SCALE = 10_000  # weights of typical shapes add up to about this


@dataclass(frozen=True, slots=True)
class Typical:
    """The shapes that the workload asks for most, each with its weight, heaviest first."""

    shapes: tuple[tuple[Shape, int], ...] = ()

    @classmethod
    def of(cls, seen: Mapping[Shape, int], cover_permille: int = 950) -> Typical:
        """Return the most frequent of the shapes `seen` (with how often), as many as cover that part of all."""
        total, covered = sum(seen.values()), 0
        chosen: list[tuple[Shape, int]] = []
        for shape, count in sorted(seen.items(), key=lambda entry: (-entry[1], entry[0])):
            if covered * 1000 >= total * cover_permille:
                break
            covered += count
            chosen.append((shape, count))
        return cls(tuple((shape, -(-count * _SCALE // covered)) for shape, count in chosen if count))


class Worth:
    """The worth of nodes to typical shapes, compiled for the GPU models of one fleet."""

    def __init__(self, typical: Typical, models: tuple[str, ...]) -> None:
        shapes = [shape for shape, _ in typical.shapes if any(_amounts(shape))]
        weights = dict(typical.shapes)
        self.weights: Ints = np.array(
            [weights[shape] * max(1, shape.resources.gpu_milli) for shape in shapes], np.int64
        )
        self._cpu = _Divisors([shape.resources.cpu_milli for shape in shapes])
        self._memory = _Divisors([shape.resources.memory_bytes for shape in shapes])
        asked = [shape.resources.gpu_milli for shape in shapes]
        self._whole = _Divisors([gpu // WHOLE if gpu >= WHOLE else 0 for gpu in asked])
        self._part = _Divisors([gpu if 0 < gpu < WHOLE else 0 for gpu in asked])
        self._allowed: Bits = np.array(
            [[not shape.gpu_models or model in shape.gpu_models for shape in shapes] for model in models], np.bool_
        ).reshape(len(models), len(shapes))

    def of(self, free: Columns, model: Ints) -> Ints:
        """Return the worth of nodes of which so much is free, and whose models have these codes."""
        if not len(self.weights):
            return np.zeros(len(model), np.int64)
        copies = np.minimum(self._cpu.quotients(free.cpu), self._memory.quotients(free.memory))
        np.minimum(copies, self._whole.quotients(whole_devices(free.devices)), out=copies)
        np.minimum(copies, self._part.sums(free.devices), out=copies)
        np.clip(copies, 0, _MOST, out=copies)
        copies *= self._allowed[model]
        return copies @ self.weights


class _Divisors:
    """Numbers to divide by, each different one once; dividing by 0 sets no bound."""

    def __init__(self, divisors: list[int]) -> None:
        different = sorted({divisor for divisor in divisors if divisor})
        place = {divisor: at for at, divisor in enumerate(different)} | {0: len(different)}
        self._different: Ints = np.array(different, np.int64)
        self._places: Ints = np.array([place[divisor] for divisor in divisors], np.int64)

    def quotients(self, amounts: Ints) -> Ints:
        """Return [amount, divisor]: how often each divisor goes into each amount."""
        table = np.full((len(amounts), len(self._different) + 1), UNBOUNDED, np.int64)
        np.floor_divide(amounts[:, None], self._different, out=table[:, :-1])
        return table[:, self._places]

    def sums(self, amounts: Ints) -> Ints:
        """Return [row, divisor]: how often each divisor goes into the amounts of each row, all together."""
        table = np.full((len(amounts), len(self._different) + 1), UNBOUNDED, np.int64)
        parts = np.maximum(amounts, 0)[:, :, None] // self._different
        np.sum(parts, axis=1, out=table[:, :-1])
        return table[:, self._places]


@lru_cache(maxsize=32)
def worth_of(typical: Typical, models: tuple[str, ...]) -> Worth:
    """Return the compiled worth; the same for equal arguments."""
    return Worth(typical, models)


def whole_devices(devices: Ints) -> Ints:
    """Return how many devices of each node are wholly free."""
    return np.count_nonzero(devices == WHOLE, axis=1)


def _amounts(shape: Shape) -> tuple[int, int, int]:
    return shape.resources.cpu_milli, shape.resources.memory_bytes, shape.resources.gpu_milli
