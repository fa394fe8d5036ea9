"""What a replica is told to do: the work order, its token, and where it stands in its gang."""

from __future__ import annotations

import zlib

from factory.domain.jobs import Outcome, Placement
from factory.schemas.attempt import WorkOrder
from factory.schemas.common import WireModel

__all__ = ["OutcomeFile", "ReplicaOrder", "gang_port", "threads_of"]

_PORTS = range(23_000, 28_000)  # below Linux' ephemeral range, so that no client socket takes the port meanwhile


class ReplicaOrder(WireModel):
    """One rank's order. It travels in memory only; the file on the node holds `without_secrets()`."""

    work: WorkOrder
    placement: Placement
    token: str  # the attempt's bearer token
    host: str = "127.0.0.1"  # this node's address; services listen there
    gang: tuple[str, ...] = ("127.0.0.1",)  # address of each rank's node
    self_fence_s: int | None = None  # it ends when its node was not renewed so long (worker/fencing.py); None = never
    ingress_secret: str = ""  # what the ingress says to services: they answer nobody else

    def without_secrets(self) -> ReplicaOrder:
        """Return what may be written to disk."""
        return self.model_copy(update={"token": "", "ingress_secret": ""})


class OutcomeFile(WireModel):
    """outcome.json."""

    outcome: Outcome


def gang_port(attempt: str) -> int:
    """Return the port at which the ranks of a gang meet: the same on every rank without asking anybody.

    >>> gang_port("job-a.1") == gang_port("job-a.1") and gang_port("job-a.1") in range(23_000, 28_000)
    True
    """
    return _PORTS[zlib.crc32(attempt.encode()) % len(_PORTS)]


def threads_of(cpu_milli: int) -> int:
    """Return how many threads an allocation of CPUs stands for: rounded up, at least one.

    >>> threads_of(250), threads_of(1500)
    (1, 2)
    """
    return max(1, -(-cpu_milli // 1000))
