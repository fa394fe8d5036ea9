"""Published policies to compare with, written from their papers.

    fifo      First come, first served: the head waits until it fits, nobody goes past it, nobody is preempted.
    srtf      Shortest remaining time first; knows every run time.
    srsf      Shortest remaining service (time x GPUs) first; knows every run time.
              Both: the optimum's stand-ins in Tiresias (NSDI'19) and Muri (SIGCOMM'22).
    tiresias  Discretised two-dimensional least attained service, "Tiresias-L" (Gu et al., NSDI'19, 4.2): queues by
              attained GPU-seconds, first come first served inside a queue, no promotion; limits 3,250 and 7,200
              GPU-seconds, the defaults of the published simulator.

All but `fifo` decide anew at every event: they walk all jobs in their order over an empty cluster and keep who fits.
This is the strongest form of each: a running job may change its node for nothing, which the factory's jobs may not.
The published simulator does one thing differently in Tiresias: at every event it puts those of a queue that wait behind
those that run, which is not the paper's first come first served. `PublishedTiresias` does the same, to reproduce its
figures (with `Charge.MURI`).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from benchmarks.policies.cluster import Execution, Verdict

__all__ = ["TIRESIAS_LIMITS", "Fifo", "PublishedTiresias", "Ranked", "Tiresias", "srsf", "srtf"]

Rank: TypeAlias = Callable[[Execution], float]

TIRESIAS_LIMITS = (3_250, 7_200)  # GPU-seconds


def srtf(execution: Execution) -> float:
    """Return the run time to go."""
    return execution.remaining_s


def srsf(execution: Execution) -> float:
    """Return the service to go."""
    return execution.remaining_s * execution.gpus


class Fifo:
    """Starts the head of the line as soon as it fits."""

    def __init__(self, nodes: int, gpus_per_node: int) -> None:
        self._cluster = _Nodes(nodes, gpus_per_node)
        self._line: deque[Execution] = deque()
        self._places: dict[int, list[int]] = {}

    def decide(self, now_s: float, came: Sequence[Execution], ended: Sequence[Execution]) -> Verdict:
        """Start heads until one does not fit."""
        for execution in ended:
            self._cluster.release(self._places.pop(execution.job.index), execution.gpus)
        self._line.extend(came)
        start: list[Execution] = []
        while self._line and (places := self._cluster.take(self._line[0].gpus)):
            self._places[self._line[0].job.index] = places
            start.append(self._line.popleft())
        return Verdict(start=start)


class Ranked:
    """Runs who ranks least."""

    def __init__(self, rank: Rank, nodes: int, gpus_per_node: int) -> None:
        self._rank = rank
        self._nodes = nodes
        self._gpus_per_node = gpus_per_node
        self._present: list[Execution] = []

    def decide(self, now_s: float, came: Sequence[Execution], ended: Sequence[Execution]) -> Verdict:
        """Rank all that are present, least first; ties in the order of submission."""
        self._present = [execution for execution in self._present if execution not in ended]
        self._present.extend(came)
        ranked = sorted(self._present, key=self._rank)
        return _verdict(ranked, _fitting(ranked, self._nodes, self._gpus_per_node), math.inf)


class Tiresias:
    """Queues by attained service; the running go down a queue when they reach its limit."""

    def __init__(self, nodes: int, gpus_per_node: int, limits: Sequence[int] = TIRESIAS_LIMITS) -> None:
        self._nodes = nodes
        self._gpus_per_node = gpus_per_node
        self._limits = limits
        self._queues: list[list[Execution]] = [[] for _ in range(len(limits) + 1)]

    def decide(self, now_s: float, came: Sequence[Execution], ended: Sequence[Execution]) -> Verdict:
        """Serve the queues in turn."""
        self._queues = [[execution for execution in queue if execution not in ended] for queue in self._queues]
        self._queues[0].extend(came)
        self._demote()
        ranked = [execution for queue in self._queues for execution in self._in_turn(queue)]
        chosen = _fitting(ranked, self._nodes, self._gpus_per_node)
        self._settle(chosen)
        return _verdict(ranked, chosen, self._next_demotion_s(now_s, chosen))

    def _in_turn(self, queue: list[Execution]) -> Iterable[Execution]:
        return sorted(queue, key=lambda execution: execution.job.index)

    def _settle(self, chosen: set[int]) -> None:
        """The order inside a queue is that of submission: nothing to do."""

    def _demote(self) -> None:
        for level, limit in enumerate(self._limits):
            reached = [execution for execution in self._queues[level] if self._has_reached(execution, limit)]
            for execution in reached:
                self._queues[level].remove(execution)
                self._queues[level + 1].append(execution)

    def _has_reached(self, execution: Execution, limit: int) -> bool:
        return execution.is_running and execution.attained_s >= self._span_s(execution, limit) - 1e-6

    def _span_s(self, execution: Execution, limit: int) -> float:
        return limit / execution.gpus

    def _next_demotion_s(self, now_s: float, chosen: set[int]) -> float:
        return min(
            (
                now_s + self._span_s(execution, limit) - execution.attained_s
                for limit, queue in zip(self._limits, self._queues, strict=False)
                for execution in queue
                if execution.job.index in chosen
            ),
            default=math.inf,
        )


class PublishedTiresias(Tiresias):
    """As the published simulator orders a queue: joined at its end, and whoever does not run goes behind who does."""

    def _in_turn(self, queue: list[Execution]) -> Iterable[Execution]:
        return queue

    def _settle(self, chosen: set[int]) -> None:
        for queue in self._queues:
            queue.sort(key=lambda execution: execution.job.index not in chosen)  # stable

    def _span_s(self, execution: Execution, limit: int) -> float:
        return math.ceil(limit / execution.gpus)


class _Nodes:
    """Free GPUs of equal nodes. A job takes the first node that has room; one wider than a node, whole nodes."""

    def __init__(self, nodes: int, gpus_per_node: int) -> None:
        self._gpus_per_node = gpus_per_node
        self._free = [gpus_per_node] * nodes
        self.left = nodes * gpus_per_node

    def take(self, gpus: int) -> list[int]:
        """Return the nodes that were taken; empty if the job does not fit."""
        free, whole = self._free, self._gpus_per_node
        if gpus <= whole:
            nodes = next(([node] for node, room in enumerate(free) if room >= gpus), [])
        else:
            empty = [node for node, room in enumerate(free) if room == whole]
            needed = -(-gpus // whole)
            nodes = empty[:needed] if len(empty) >= needed else []
        for node in nodes:
            free[node] -= min(gpus, whole)
            self.left -= min(gpus, whole)
        return nodes

    def release(self, nodes: list[int], gpus: int) -> None:
        """Give back what `take` took."""
        for node in nodes:
            self._free[node] += min(gpus, self._gpus_per_node)
            self.left += min(gpus, self._gpus_per_node)


def _fitting(ranked: Iterable[Execution], nodes: int, gpus_per_node: int) -> set[int]:
    """Return the indices of those that fit when placed in this order on an empty cluster."""
    cluster = _Nodes(nodes, gpus_per_node)
    chosen: set[int] = set()
    for execution in ranked:
        if not cluster.left:
            break
        if execution.gpus <= cluster.left and cluster.take(execution.gpus):
            chosen.add(execution.job.index)
    return chosen


def _verdict(ranked: Iterable[Execution], chosen: set[int], wake_at_s: float) -> Verdict:
    stop: list[Execution] = []
    start: list[Execution] = []
    for execution in ranked:
        is_chosen = execution.job.index in chosen
        if execution.is_running and not is_chosen:
            stop.append(execution)
        elif is_chosen and not execution.is_running:
            start.append(execution)
    return Verdict(stop, start, wake_at_s)
