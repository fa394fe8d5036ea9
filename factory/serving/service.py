"""Endpoints: a name that answers with a model. The control loop makes replica jobs of the wanted revision."""

from __future__ import annotations

from dataclasses import dataclass

from factory.domain.endpoints import Endpoint
from factory.domain.ids import AttemptId, EndpointName
from factory.domain.tenancy import Principal
from factory.domain.time import Instant
from factory.schemas.attempt import ReadyRequest
from factory.schemas.common import Page
from factory.schemas.models import DeployRequest, EndpointView
from factory.serving.ports import DeployStore, FollowTx

__all__ = ["Deployment", "EndpointService", "follow_aliases"]


@dataclass(frozen=True, slots=True)
class Deployment:
    """The endpoint as it is now, and what the request did."""

    view: EndpointView
    created: bool
    changed: bool


def follow_aliases(tx: FollowTx, now: Instant) -> tuple[Endpoint, ...]:
    """Give each endpoint that follows an alias a new revision if the alias has moved; return those that changed."""
    ...


class EndpointService:
    """Endpoints of a tenant."""

    def __init__(self, store: DeployStore) -> None: ...

    def deploy(self, principal: Principal, name: EndpointName, request: DeployRequest, *, now: Instant) -> Deployment:
        """Let `name` serve a model (PUT: the same request changes nothing). Raises: NotFoundError, UnknownQueueError."""
        ...

    def list(self, principal: Principal, *, cursor: str | None = None, limit: int = 50) -> Page[EndpointView]: ...

    def get(self, principal: Principal, name: EndpointName) -> EndpointView: ...

    def delete(self, principal: Principal, name: EndpointName, *, now: Instant) -> EndpointView:
        """Begin to delete it; the control loop stops its replicas and removes the row."""
        ...

    def ready(self, attempt_id: AttemptId, request: ReadyRequest, *, now: Instant) -> None:
        """A replica listens. Raises: UnauthenticatedError, ForbiddenError: its job is no replica of an endpoint."""
        ...
