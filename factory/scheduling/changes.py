"""The rows that scheduling depends on, and how they change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from factory.domain.ids import JobId, NodeId, PoolName, QueueName, RunnerId
from factory.domain.jobs import Job
from factory.domain.pools import Node, Pool, Runner
from factory.domain.tenancy import Queue
from factory.domain.time import Instant
from factory.scheduling.estimating import Kind, Run

__all__ = ["Change", "JobChanged", "NodeChanged", "PoolChanged", "QueueChanged", "Rows", "RunnerChanged"]


@dataclass(frozen=True, slots=True)
class Rows:
    """All rows that scheduling depends on; ids are unique in each.

    Jobs that have ended may be left out; those that are there teach how long jobs run and what queues have used. What
    was learned from jobs that are no longer there is handed on in the last three.
    """

    pools: tuple[Pool, ...] = ()
    nodes: tuple[Node, ...] = ()
    queues: tuple[Queue, ...] = ()
    jobs: tuple[Job, ...] = ()
    runners: tuple[Runner, ...] = ()
    since: Instant | None = (
        None  # usage before counts as if it were of then; None = some while before the first attempt
    )
    spent: tuple[tuple[QueueName, int], ...] = ()
    runs: tuple[tuple[Kind, tuple[Run, ...]], ...] = ()


@dataclass(frozen=True, slots=True)
class PoolChanged:
    """The pool is now so; None = removed."""

    name: PoolName
    pool: Pool | None


@dataclass(frozen=True, slots=True)
class NodeChanged:
    """The node is now so; None = removed."""

    id: NodeId
    node: Node | None


@dataclass(frozen=True, slots=True)
class QueueChanged:
    """The queue is now so; None = removed."""

    name: QueueName
    queue: Queue | None


@dataclass(frozen=True, slots=True)
class JobChanged:
    """The job is now so; None or an ended job = removed."""

    id: JobId
    job: Job | None


@dataclass(frozen=True, slots=True)
class RunnerChanged:
    """The runner is now so; None = removed."""

    id: RunnerId
    runner: Runner | None


Change: TypeAlias = PoolChanged | NodeChanged | QueueChanged | JobChanged | RunnerChanged
