"""What a runner shall make true, read from the rows: live attempts, warm replicas, and what its ingress shall do."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from factory.control.ports import ControlReader
from factory.domain.endpoints import Endpoint
from factory.domain.ids import AttemptId, PoolName, RunnerId
from factory.domain.jobs import Attempt
from factory.domain.tenancy import PLATFORM
from factory.lifecycle.reconciling import DesiredState, desired_attempt
from factory.serving.ports import IngressState, Route, Server

__all__ = ["Desired", "desired_state", "ingress_state", "revision_of", "runner_desired"]


@dataclass(frozen=True, slots=True)
class Desired:
    """The whole wish to one runner."""

    state: DesiredState
    ingress: IngressState
    fences: tuple[tuple[PoolName, int], ...] = ()  # self_fence_s of the runner's pools that have one


def runner_desired(
    reader: ControlReader, runner: RunnerId, *, warm_per_node: int, keys: Iterable[tuple[str, str]]
) -> Desired:
    """Return all that the runner shall make true, as of one consistent state.

    Args:
        keys: (sha256 hex of a secret, tenant that it may call or "*"), for the ingress.
    """
    state = desired_state(reader, runner, warm_per_node=warm_per_node)
    fences = tuple(
        sorted((p.name, p.self_fence_s) for p in reader.pools(PLATFORM) if p.runner == runner and p.self_fence_s)
    )
    return Desired(state, ingress_state(reader, runner, keys), fences)


def desired_state(reader: ControlReader, runner: RunnerId, *, warm_per_node: int = 0) -> DesiredState:
    """Return the attempts that shall be live on the runner, by id: every one that is not proven dead."""
    live = [(job, attempt) for job in reader.live_jobs(PLATFORM, runner) if (attempt := job.live_attempt) is not None]
    attempts = sorted(
        (desired_attempt(job, attempt, queued_at=job.submitted_at) for job, attempt in live), key=lambda a: a.id
    )
    return DesiredState(runner, tuple(attempts), warm_per_node)


def ingress_state(reader: ControlReader, runner: RunnerId, keys: Iterable[tuple[str, str]]) -> IngressState:
    """Return the routes of endpoints that this runner serves, or would serve, to the replicas that answer there.

    A replica whose attempt is being stopped drains. One that is unknown stays: it may well answer, and the ingress
    sees for itself whether it does.
    """
    here = {
        attempt.id: attempt for job in reader.live_jobs(PLATFORM, runner) if (attempt := job.live_attempt) is not None
    }
    pools = {pool.name for pool in reader.pools(PLATFORM) if pool.runner == runner}
    routes = [
        Route(endpoint.tenant, endpoint.name, servers)
        for endpoint in sorted(reader.endpoints(PLATFORM), key=lambda e: (e.tenant, e.name))
        if (servers := _servers(endpoint, here)) or endpoint.pool is None or endpoint.pool in pools
    ]
    return IngressState(tuple(routes), tuple(sorted(keys)))


def revision_of(desired: Desired) -> str:
    """Return a short text that differs when the wish does: what a long poll gives back as `after`."""
    # every value in it is a frozen dataclass of integers, strings, enums and tuples: its repr is its content
    return hashlib.sha256(repr(desired).encode()).hexdigest()[:16]


def _servers(endpoint: Endpoint, here: dict[AttemptId, Attempt]) -> tuple[Server, ...]:
    servers = [
        Server(backend.attempt, backend.host, backend.port, draining=attempt.stop is not None)
        for backend in endpoint.backends
        if (attempt := here.get(AttemptId(backend.attempt))) is not None
    ]
    return tuple(sorted(servers, key=lambda server: server.name))
