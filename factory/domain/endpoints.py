"""Endpoints: a name that answers, revisions of what stands behind it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from factory.domain.ids import EndpointName, JobId, ModelName, PoolName, QueueName, TenantId
from factory.domain.resources import Resources
from factory.domain.time import Instant

__all__ = ["Backend", "Endpoint", "EndpointState", "Revision"]


class EndpointState(StrEnum):
    """What the endpoint does now."""

    DEPLOYING = "deploying"  # no replica of any revision answers yet
    READY = "ready"  # traffic flows
    DELETING = "deleting"  # replicas are being stopped; then the row goes


@dataclass(frozen=True, slots=True)
class Revision:
    """One desired configuration of an endpoint."""

    number: int
    model: ModelName
    model_version: int  # resolved from the alias when the revision was made
    replicas: int
    resources: Resources
    created_at: Instant


@dataclass(frozen=True, slots=True)
class Backend:
    """A replica that said it is ready, by its attempt's token."""

    job: JobId
    attempt: str
    revision: int
    host: str
    port: int
    ready_at: Instant


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint of one tenant. `follow` = alias that new revisions follow ("champion"), "" = pinned."""

    tenant: TenantId
    name: EndpointName
    state: EndpointState
    queue: QueueName
    pool: PoolName | None
    follow: str
    revisions: tuple[Revision, ...]  # last is the wanted one; older ones go once it is ready
    backends: tuple[Backend, ...]
    created_at: Instant
    created_by: str
    version: int = 0
