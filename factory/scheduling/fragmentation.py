"""What a placement costs the pool beyond what the replica asks for, in parts of a GPU: what it leaves hard to use.

Three costs in one unit, so that none needs a weight (ADR 8):
- cut: a share takes from a device more worth than it asks for, because what is left serves the workload's own shares
  less well (`cutting`);
- balance: GPUs whose CPUs or memory are gone, or CPUs whose GPUs are gone, measured by what the workload asks for
  beside a GPU;
- scarcity: a GPU of a model that other jobs ask for by name, where they could fill more than half of that model.

In a pool without GPUs the node that is left with the fewest CPUs is the cheapest, if balance does not forbid it.

Whole numbers only: equal costs are exactly equal, and ties are told apart by the node's id.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from factory.domain.resources import MIB, Resources
from factory.scheduling.cutting import GPU_WORTH, share_worths
from factory.scheduling.fleet import WHOLE, Columns, Ints, Shape

__all__ = ["Costs", "Typical", "costs_of"]

_SCALE = 10_000  # weights of typical shapes add up to about this
_PER_MILLI = GPU_WORTH // WHOLE  # worth of a thousandth of a GPU
_FAR = 100  # without GPUs: imbalance against CPUs left
_PLENTY = 500  # per mille of a model's fair part of the demand that may ask for it by name before it is scarce
_MOST_BESIDE = 1 << 18  # most CPU thousandths or MiB counted beside one GPU; costs of nodes up to 2 PiB stay below 2^63


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


class Costs:
    """The costs of placements on the nodes of one pool, for one workload."""

    def __init__(self, typical: Typical, models: tuple[str, ...], capacities: tuple[Resources, ...]) -> None:
        """Compile them.

        Args:
            models: names of the GPU models, in the order of their codes.
            capacities: what the ready nodes of each model have together.
        """
        capacity = sum(capacities, start=Resources())
        self._worth: Ints = np.array(share_worths(_shares(typical)), np.int64)
        self._cut: dict[int, Ints] = {}
        # `unit`: how many units of cost a twelfth of a thousandth of a GPU has
        self.unit, self._cpu, self._memory = _factors(_mix(typical, capacity))
        scarce = [_scarcity(typical, models, capacities, code) for code in range(len(models))]
        self._scarcity: Ints = np.array(scarce, np.int64) * (_PER_MILLI * self.unit) // 1000

    def cuts(self, gpu_milli: int) -> Ints:
        """Return what cutting such a share off costs at each free amount of a device; where it does not fit, a lot."""
        cut = self._cut.get(gpu_milli)
        if cut is None:
            cut = np.full(WHOLE + 1, 1 << 40, np.int64)
            cut[gpu_milli:] = self._worth[gpu_milli:] - self._worth[: WHOLE + 1 - gpu_milli]
            self._cut[gpu_milli] = cut
        return cut

    def of(self, asked: Resources, free: Columns, model: Ints, counts: Ints) -> Ints:
        """Return what so many replicas cost each node in balance and scarcity.

        Args:
            model: codes of the nodes' models.
        """
        gpu, cpu, memory = free.gpu * self.unit, free.cpu * self._cpu, (free.memory // MIB) * self._memory
        cost = -self._imbalance(gpu, cpu, memory)
        gpu -= counts * (asked.gpu_milli * self.unit)
        cpu -= counts * (asked.cpu_milli * self._cpu)
        memory = ((free.memory - counts * asked.memory_bytes) // MIB) * self._memory
        cost += self._imbalance(gpu, cpu, memory)
        cost *= _PER_MILLI
        if not self.unit:
            return cost * _FAR + cpu
        if asked.gpu_milli:
            cost += self._scarcity[model] * (counts * asked.gpu_milli)
        return cost

    def _imbalance(self, gpu: Ints, cpu: Ints, memory: Ints) -> Ints:
        """Return how far apart the resources of each node are.

        Memory counts only where it is short: what is over of it is of no use to anybody.
        """
        high, low = np.maximum(gpu, cpu), gpu
        if self._cpu:
            low = np.minimum(low, cpu) if self.unit else cpu
        if self._memory:
            low = np.minimum(low, memory)
        return high - low


@lru_cache(maxsize=64)
def costs_of(typical: Typical, models: tuple[str, ...], capacities: tuple[Resources, ...]) -> Costs:
    """Return the compiled costs; the same for equal arguments."""
    return Costs(typical, models, capacities)


def _shares(typical: Typical) -> tuple[tuple[int, int], ...]:
    """Return how often each share of one GPU is asked for."""
    demand: dict[int, int] = {}
    for shape, weight in typical.shapes:
        if 0 < shape.resources.gpu_milli < WHOLE:
            demand[shape.resources.gpu_milli] = demand.get(shape.resources.gpu_milli, 0) + weight
    return tuple(sorted(demand.items()))


def _mix(typical: Typical, capacity: Resources) -> Resources:
    """Return what the workload's shapes for such a pool ask for together; if there are none, what the nodes have.

    Of a pool with GPUs that are the shapes that ask for GPUs, of one without the others.
    """
    asked = [
        shape.resources * weight
        for shape, weight in typical.shapes
        if bool(shape.resources.gpu_milli) == bool(capacity.gpu_milli)
    ]
    mix = sum(asked, start=Resources())
    return mix if mix != Resources() else capacity


def _factors(mix: Resources) -> tuple[int, int, int]:
    """Return by what thousandths of a GPU, of a CPU, and MiB are multiplied to be compared; 0 = not compared.

    Integers with factor(gpu) : factor(cpu) : factor(memory) = 1/mix.gpu : 1/mix.cpu : 1/mix.memory.
    """
    if mix.gpu_milli:
        cpu = min(mix.cpu_milli * WHOLE // mix.gpu_milli, _MOST_BESIDE)  # thousandths beside a GPU
        memory = min(mix.memory_bytes * WHOLE // mix.gpu_milli // MIB, _MOST_BESIDE)  # MiB beside a GPU
        gpu = max(cpu, 1) * max(memory, 1)
        return gpu, WHOLE * max(memory, 1) if cpu else 0, WHOLE * max(cpu, 1) if memory else 0
    if mix.cpu_milli:
        memory = min(mix.memory_bytes * 1000 // mix.cpu_milli // MIB, _MOST_BESIDE)  # MiB beside a CPU
        return 0, max(memory, 1), 1000 if memory else 0
    return 0, 0, 0


def _scarcity(typical: Typical, models: tuple[str, ...], capacities: tuple[Resources, ...], code: int) -> int:
    """Return by how many per mille the demand that names this model is over what leaves plenty of it.

    1000 per mille would be its share of all GPUs. What may use several models counts for each by its GPUs.
    """
    gpus = [capacity.gpu_milli for capacity in capacities]
    demand = sum(shape.resources.gpu_milli * weight for shape, weight in typical.shapes)
    named = 0
    for shape, weight in typical.shapes:
        if models[code] in shape.gpu_models:
            among = sum(gpu for model, gpu in zip(models, gpus, strict=True) if model in shape.gpu_models)
            named += shape.resources.gpu_milli * weight * gpus[code] // max(1, among)
    if not demand or not gpus[code]:
        return 0
    return max(0, named * sum(gpus) * 1000 // (demand * gpus[code]) - _PLENTY)
