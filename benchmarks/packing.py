"""How much of a GPU cluster can be given away: GPUs allocated when the arrived demand reaches 100 % and 130 % of it.

Protocol of "Beware of Fragmentation" (Weng et al., ATC'23): per seed shuffle the pods, draw more with replacement until
their GPU demand is 130 % of the cluster, shuffle; they arrive in that order, never leave, and have one try each. A pod
with a part of a GPU takes it from one device, one with several GPUs takes whole devices of one node; CPU and memory
count; a pod may name the GPU models that will do.

Prints one JSON object on its last line, by policy: alloc_100 and alloc_130 (mean % of the GPUs over the seeds), their
standard deviations sd_100 and sd_130, decisions_per_s, and shapes_from: what the policy knows of the workload.
- random: any node and device that fits (as the paper's).
- bestfit: the node that is left with the least, CPUs and GPUs in parts of the largest node; the fullest device.
- fgd: the paper's score in whole numbers, ties to the first node; told the trace's own distribution beforehand.
- ours: the placement of `factory.scheduling`; typical shapes learned from the pods that arrived so far.

    python -m benchmarks.packing --nodes CSV --pods CSV [--seeds 42-51] [--policies random,bestfit,fgd,ours]
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from factory.domain.ids import NodeId, PoolName, RunnerId
from factory.domain.pools import Node
from factory.domain.resources import MIB, Resources
from factory.scheduling.fleet import WHOLE, Fleet, Shape
from factory.scheduling.floor import Floor
from factory.scheduling.fragmentation import Typical

Ints = NDArray[np.int64]


class Policy(Protocol):
    """Places one pod after the other."""

    shapes_from: str  # what it knows of the workload

    def offer(self, pod: Shape) -> bool:
        """Take the pod if it fits; return whether it did."""
        ...


def main() -> None:
    """Run the policies on one list of nodes and one of pods."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=Path, required=True, help="CSV: sn, cpu_milli, memory_mib, gpu, model")
    parser.add_argument("--pods", type=Path, required=True, help="CSV: cpu_milli, memory_mib, num_gpu, gpu_milli, …")
    parser.add_argument("--seeds", type=_seeds, default=_seeds("42-51"), help="such as 42-51 or 42,44")
    parser.add_argument("--policies", type=lambda text: text.split(","), default=list(_POLICIES))
    args = parser.parse_args()
    if unknown := sorted(set(args.policies) - set(_POLICIES)):
        parser.error(f"there is no policy {unknown[0]!r}; known: {', '.join(_POLICIES)}")
    nodes, pods = read_nodes(args.nodes), read_pods(args.pods)
    if not any(pod.resources.gpu_milli for pod in pods):
        parser.error("no pod asks for a GPU")
    print(json.dumps({name: measure(name, nodes, pods, args.seeds) for name in args.policies}))


def measure(name: str, nodes: list[Idle], pods: list[Shape], seeds: list[int]) -> dict[str, float | str]:
    """Run one policy with every seed."""
    results: list[tuple[float, float]] = []
    decisions, seconds, shapes_from = 0, 0.0, ""
    for seed in seeds:
        policy = _POLICIES[name](nodes, pods, seed)
        gpus = sum(node.free.gpu_milli for node in nodes)
        order = arrivals(pods, gpus, seed)
        arrived = allocated = 0
        at: dict[int, float] = {}
        began = time.perf_counter()
        for pod in order:
            decisions += 1
            arrived += pod.resources.gpu_milli
            if policy.offer(pod):
                allocated += pod.resources.gpu_milli
            for percent in (100, 130):
                if percent not in at and arrived * 100 >= gpus * percent:
                    at[percent] = 100 * allocated / gpus
            if 130 in at:
                break
        seconds += time.perf_counter() - began
        results.append((at[100], at[130]))
        shapes_from = policy.shapes_from
        print(f"{name} seed {seed}: {at[100]:.2f} / {at[130]:.2f}", file=sys.stderr, flush=True)
    first, last = zip(*results, strict=True)
    return {
        "alloc_100": round(statistics.fmean(first), 3),
        "alloc_130": round(statistics.fmean(last), 3),
        "sd_100": round(statistics.stdev(first), 3) if len(first) > 1 else 0.0,
        "sd_130": round(statistics.stdev(last), 3) if len(last) > 1 else 0.0,
        "decisions_per_s": round(decisions / seconds),
        "shapes_from": shapes_from,
    }


def arrivals(pods: list[Shape], gpu_milli: int, seed: int) -> list[Shape]:
    """Return the pods of one run in the order of their arrival; together they ask for 130 % of the GPUs or more."""
    rng = random.Random(seed)
    order = list(pods)
    rng.shuffle(order)
    demand = sum(pod.resources.gpu_milli for pod in order)
    while demand * 100 < gpu_milli * 130:
        order.append(rng.choice(pods))
        demand += order[-1].resources.gpu_milli
    rng.shuffle(order)
    return order


@dataclass(frozen=True, slots=True)
class Idle:
    """A node on which nothing runs."""

    node: Node

    @property
    def free(self) -> Resources:
        return self.node.capacity

    @property
    def devices(self) -> tuple[int, ...]:
        return (WHOLE,) * self.node.devices


def read_nodes(path: Path) -> list[Idle]:
    """Read the nodes."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        Idle(
            Node(
                id=NodeId(row["sn"]),
                pool=PoolName("trace"),
                runner=RunnerId("trace"),
                capacity=Resources(int(row["cpu_milli"]), int(row["memory_mib"]) * MIB, int(row["gpu"]) * WHOLE),
                devices=int(row["gpu"]),
                gpu_model=row["model"],
            )
        )
        for row in rows
    ]


def read_pods(path: Path) -> list[Shape]:
    """Read what the pods ask for. Columns are found by name; a list may have the first five alone."""
    with path.open(newline="") as file:
        return [_shape(row) for row in csv.DictReader(file)]


def _shape(row: dict[str, str]) -> Shape:
    count, part = int(row["num_gpu"] or 0), int(row["gpu_milli"] or 0)
    gpu = count * WHOLE if count > 1 else count * part
    models = {model for model in (row.get("gpu_spec") or "").split("|") if model and gpu}
    return Shape(Resources(int(row["cpu_milli"]), int(row["memory_mib"]) * MIB, gpu), tuple(sorted(models)))


class Ours:
    """The kernel's placement. Nothing is known beforehand: it learns what is typical as pods arrive."""

    shapes_from = "arrivals so far"

    def __init__(self, nodes: list[Idle], _pods: list[Shape], _seed: int) -> None:
        self._floor = Floor(Fleet.build(nodes), Typical())
        self._seen: Counter[Shape] = Counter()
        self._arrived = 0
        self._renewed = 0

    def offer(self, pod: Shape) -> bool:
        self._seen[pod] += 1
        self._arrived += 1
        if self._arrived >= self._renewed + min(self._renewed + 1, 1024):  # at 1, 3, 7, …, then every 1,024
            self._renewed = self._arrived
            self._floor.retype(Typical.of(self._seen))
        placed = self._floor.place(pod, 1)
        if placed is None:
            return False
        self._floor.take(placed)
        return True


class Cluster:
    """The state that the reference policies share: their own, so that they owe the kernel nothing."""

    shapes_from = "none"

    def __init__(self, nodes: list[Idle], pods: list[Shape], seed: int) -> None:
        most = max(node.node.devices for node in nodes)
        self.cpu: Ints = np.array([node.free.cpu_milli for node in nodes])
        self.memory: Ints = np.array([node.free.memory_bytes for node in nodes])
        self.gpus: Ints = np.array([(*node.devices, *(0,) * (most - len(node.devices))) for node in nodes])
        self.models = np.array([node.node.gpu_model for node in nodes])
        self.rng = random.Random(seed)
        self.prepare(pods)

    def prepare(self, pods: list[Shape]) -> None:
        """Look at the whole trace, if the policy does."""

    def offer(self, pod: Shape) -> bool:
        fits = self.fitting(pod)
        if not len(fits):
            return False
        node, device = self.choose(pod, fits)
        self.cpu[node] -= pod.resources.cpu_milli
        self.memory[node] -= pod.resources.memory_bytes
        gpu = pod.resources.gpu_milli
        if gpu >= WHOLE:
            self.gpus[node, np.flatnonzero(self.gpus[node] == WHOLE)[: gpu // WHOLE]] = 0
        elif gpu:
            self.gpus[node, device] -= gpu
        return True

    def choose(self, pod: Shape, fits: Ints) -> tuple[int, int]:
        """Return the node and, for a part of a GPU, the device."""
        raise NotImplementedError

    def fitting(self, pod: Shape) -> Ints:
        """Return the nodes that the pod fits on."""
        asked = pod.resources
        fits = (self.cpu >= asked.cpu_milli) & (self.memory >= asked.memory_bytes)
        if asked.gpu_milli >= WHOLE:
            fits &= (self.gpus == WHOLE).sum(axis=1) >= asked.gpu_milli // WHOLE
        elif asked.gpu_milli:
            fits &= self.gpus.max(axis=1) >= asked.gpu_milli
        if pod.gpu_models:
            fits &= np.isin(self.models, pod.gpu_models)
        return np.flatnonzero(fits)

    def fullest(self, pod: Shape, node: int) -> int:
        """Return the device of the node that is left with the least."""
        free = self.gpus[node]
        return int(np.where(free >= pod.resources.gpu_milli, free, WHOLE + 1).argmin())


class Random(Cluster):
    """Any node and any device that fits."""

    def choose(self, pod: Shape, fits: Ints) -> tuple[int, int]:
        node = int(self.rng.choice(fits))
        if not 0 < pod.resources.gpu_milli < WHOLE:
            return node, 0
        return node, int(self.rng.choice(np.flatnonzero(self.gpus[node] >= pod.resources.gpu_milli)))


class BestFit(Cluster):
    """The node that is left with the least, of a score in whole per cent; ties to the first node."""

    def prepare(self, pods: list[Shape]) -> None:
        self._most_cpu, self._most_gpu = int(self.cpu.max()), int(self.gpus.sum(axis=1).max())

    def choose(self, pod: Shape, fits: Ints) -> tuple[int, int]:
        cpu = (self.cpu[fits] - pod.resources.cpu_milli) / self._most_cpu
        gpu = (self.gpus[fits].sum(axis=1) - pod.resources.gpu_milli) / self._most_gpu
        node = int(fits[((cpu + gpu) * 50).astype(np.int64).argmin()])
        return node, self.fullest(pod, node)


class Fgd(Cluster):
    """Fragmentation gradient descent: the node, and of shares the device, whose expected fragmentation grows least.

    Source: Weng et al., ATC'23, sections 3 and 4; score int(100 * sigmoid(GPUs saved)), ties to the first.
    """

    shapes_from = "trace"

    def prepare(self, pods: list[Shape]) -> None:
        total, covered = len(pods), 0
        typical: list[tuple[Shape, int]] = []
        for shape, count in Counter(pods).most_common():
            if covered * 100 >= total * 95:
                break
            covered += count
            typical.append((shape, count))
        shapes = [shape for shape, _ in typical]
        self._weight = np.array([count / covered for _, count in typical])
        self._asked_cpu = np.array([shape.resources.cpu_milli for shape in shapes])
        self._asked_memory = np.array([shape.resources.memory_bytes for shape in shapes])
        gpu = np.array([shape.resources.gpu_milli for shape in shapes])
        self._asked_part = np.minimum(gpu, WHOLE)
        self._asked_count = np.where(gpu >= WHOLE, gpu // WHOLE, 1)
        self._asks_gpu = gpu > 0
        self._may = np.array([[not s.gpu_models or model in s.gpu_models for s in shapes] for model in self.models])
        self._scores: dict[Shape, tuple[Ints, Ints]] = {}
        self._known: dict[Shape, int] = {}
        self._touched: list[int] = []

    def choose(self, pod: Shape, fits: Ints) -> tuple[int, int]:
        if pod not in self._scores:
            self._scores[pod] = np.full(len(self.cpu), -1), np.zeros(len(self.cpu), np.int64)
            stale = np.arange(len(self.cpu))
        else:
            stale = np.unique(np.array(self._touched[self._known[pod] :], np.int64))
        scores, devices = self._scores[pod]
        scores[stale] = -1
        stale = np.intersect1d(stale, fits)
        if len(stale):
            scores[stale], devices[stale] = self._judge(pod, stale)
        self._known[pod] = len(self._touched)
        node = int(scores.argmax())  # nodes that do not fit have -1
        self._touched.append(node)
        return node, int(devices[node])

    def _judge(self, pod: Shape, nodes: Ints) -> tuple[Ints, Ints]:
        """Return the score of each node, and the best device."""
        gpu = pod.resources.gpu_milli
        cpu, memory = self.cpu[nodes] - pod.resources.cpu_milli, self.memory[nodes] - pod.resources.memory_bytes
        before, free = self._fragments(nodes, self.cpu[nodes], self.memory[nodes], self.gpus[nodes]), self.gpus[nodes]
        if gpu >= WHOLE or not gpu:
            whole = free == WHOLE
            left = np.where(whole & (np.cumsum(whole, axis=1) <= gpu // WHOLE), 0, free)
            score = _sigmoid(before - self._fragments(nodes, cpu, memory, left))
            return score, np.zeros(len(nodes), np.int64)
        scores = np.full(free.shape, -1)
        for device in range(free.shape[1]):
            at = np.flatnonzero(free[:, device] >= gpu)
            if len(at):
                left = free[at]
                left[:, device] -= gpu
                after = self._fragments(nodes[at], cpu[at], memory[at], left)
                scores[at, device] = _sigmoid(before[at] - after)
        return scores.max(axis=1), scores.argmax(axis=1)

    def _fragments(self, nodes: Ints, cpu: Ints, memory: Ints, gpus: Ints) -> NDArray[np.float64]:
        """Return the expected fragmentation of each node, in thousandths of a GPU."""
        enough = (gpus[:, :, None] >= self._asked_part) & self._asks_gpu
        fits = (
            (cpu[:, None] >= self._asked_cpu)
            & (memory[:, None] >= self._asked_memory)
            & (enough.sum(axis=1) >= self._asked_count)
            & self._may[nodes]
            & self._asks_gpu
        )
        useless = np.where(enough, 0, gpus[:, :, None]).sum(axis=1)
        return np.where(fits, useless, gpus.sum(axis=1)[:, None]) @ self._weight


def _sigmoid(decrease: NDArray[np.float64]) -> Ints:
    return (100 / (1 + np.exp(-decrease / 1000))).astype(np.int64)


_POLICIES: dict[str, Callable[[list[Idle], list[Shape], int], Policy]] = {
    "random": Random,
    "bestfit": BestFit,
    "fgd": Fgd,
    "ours": Ours,
}


def _seeds(text: str) -> list[int]:
    """Read such as "42-51" or "42,44"."""
    seeds: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        seeds += range(int(first), int(last or first) + 1)
    return seeds


if __name__ == "__main__":
    main()
