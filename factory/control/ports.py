"""What the control loop needs: one transaction over everything it decides on, the change feed and the leader lease."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, TypeVar

from factory.datasets.ports import DatasetReader
from factory.domain.ids import TenantId
from factory.domain.jobs import GroupRef, Job, JobSpec
from factory.domain.time import Instant
from factory.jobs.ports import JobReader, JobTx
from factory.models.ports import ModelReader
from factory.pools.ports import PoolReader, PoolTx
from factory.serving.ports import EndpointReader, EndpointTx

__all__ = ["ControlReader", "ControlStore", "ControlTx", "FeedEntry", "FeedKind", "Lease", "ReplicaSubmitter"]

T = TypeVar("T")


class FeedKind(StrEnum):
    """What kind of row a feed entry names; `key` is its id or name, "<tenant>/<name>" for endpoints and models."""

    JOB = "job"
    NODE = "node"
    POOL = "pool"
    RUNNER = "runner"
    QUEUE = "queue"
    VERSION = "version"  # dataset version
    ENDPOINT = "endpoint"
    MODEL = "model"


@dataclass(frozen=True, slots=True)
class FeedEntry:
    """Row `key` of `kind` changed; `seq` grows in commit order, without an entry ever appearing below one seen."""

    seq: int
    kind: FeedKind
    key: str


@dataclass(frozen=True, slots=True)
class Lease:
    """Who leads, and since which epoch."""

    holder: str
    epoch: int
    expires_at: Instant


class ControlReader(JobReader, PoolReader, DatasetReader, ModelReader, EndpointReader, Protocol):
    """Reads over everything."""

    def feed(self, after: int, limit: int = 10_000) -> tuple[FeedEntry, ...]:
        """Entries above `after`, in order. Raises: FeedPrunedError: some of them are gone; build again."""
        ...

    def feed_head(self) -> int:
        """The last seq, 0 if there is none: read it in the same transaction as the rows of a full build."""
        ...

    def lease(self) -> Lease | None: ...


class ControlTx(ControlReader, JobTx, PoolTx, EndpointTx, Protocol):
    """Reads and writes over everything that the loop changes."""

    def acquire_lease(self, holder: str, now: Instant, ttl_ms: int, *, proven_dead: bool = False) -> Lease | None:
        """Renew the holder's own lease (same epoch), or take a free, expired or `proven_dead` one (epoch + 1).

        PostgreSQL uses the database's clock instead of `now`. None = another one leads.
        """
        ...

    def release_lease(self, holder: str) -> None:
        """Give it up in order (SIGTERM), so that a follower need not wait."""
        ...

    def prune_feed(self, before_seq: int) -> None:
        """Forget entries below `before_seq`; the last entry stays, whatever is asked."""
        ...


class ControlStore(Protocol):
    """The transactional door. With `epoch`, the transaction commits only if that is the lease's current epoch and the
    lease has not ended; else FencedError (rule 5).
    """

    def read(self, fn: Callable[[ControlReader], T]) -> T: ...

    def transact(self, fn: Callable[[ControlTx], T], *, epoch: int | None = None) -> T: ...


class ReplicaSubmitter(Protocol):
    """Inserts one replica job of an endpoint in the loop's transaction (bootstrap: `JobService`)."""

    def submit_service(
        self, tx: JobTx, tenant: TenantId, spec: JobSpec, *, group: GroupRef, by: str, now: Instant
    ) -> Job: ...
