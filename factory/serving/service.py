"""Endpoints: a name that answers with a model. The control loop makes replica jobs of the wanted revision."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from factory.domain.endpoints import Backend, Endpoint, EndpointState, Revision
from factory.domain.ids import AttemptId, EndpointName, ModelName, PoolName, QueueName, RunnerId, TenantId, is_name
from factory.domain.jobs import Attempt, ServiceEntry
from factory.domain.models import AliasName, split_reference
from factory.domain.pools import Isolation, Node
from factory.domain.resources import Resources
from factory.domain.tenancy import PLATFORM, WRITERS, Principal, Scope
from factory.domain.time import Instant
from factory.errors import (
    ConflictError,
    ForbiddenError,
    InvalidRequestError,
    NotFoundError,
    UnknownPoolError,
    UnknownQueueError,
)
from factory.lifecycle.liveness import job_of, require_live
from factory.schemas.attempt import ReadyRequest
from factory.schemas.common import Page
from factory.schemas.models import BackendView, DeployRequest, EndpointView, RevisionView
from factory.serving.ports import DeployReader, DeployStore, DeployTx, FollowTx

__all__ = ["Deployment", "EndpointService", "follow_aliases"]


@dataclass(frozen=True, slots=True)
class Deployment:
    """The endpoint as it is now, and what the request did."""

    view: EndpointView
    created: bool
    changed: bool


@dataclass(frozen=True, slots=True)
class _Wish:
    """A deploy request with its names resolved."""

    follow: str  # alias, "" = pinned
    model: ModelName
    model_version: int
    replicas: int
    resources: Resources
    queue: QueueName
    pool: PoolName | None


def follow_aliases(tx: FollowTx, now: Instant) -> tuple[Endpoint, ...]:
    """Give each endpoint that follows an alias a new revision if the alias has moved; return those that changed."""
    changed: list[Endpoint] = []
    for endpoint in tx.endpoints(PLATFORM):
        if not endpoint.follow or endpoint.state is EndpointState.DELETING:
            continue
        wanted = endpoint.revisions[-1]
        model = tx.model(Scope(endpoint.tenant), endpoint.tenant, wanted.model)
        number = None if model is None else model.number(AliasName(endpoint.follow))
        if number is not None and number != wanted.model_version:
            newer = replace(wanted, number=wanted.number + 1, model_version=number, created_at=now)
            changed.append(tx.put_endpoint(replace(endpoint, revisions=(*endpoint.revisions, newer))))
    return tuple(changed)


class EndpointService:
    """Endpoints of a tenant."""

    def __init__(self, store: DeployStore) -> None:
        self._store = store

    def deploy(self, principal: Principal, name: EndpointName, request: DeployRequest, *, now: Instant) -> Deployment:
        """Let `name` serve a model (PUT: the same request changes nothing).

        Raises: InvalidRequestError; NotFoundError: no such model, or its alias points nowhere; UnknownQueueError,
        UnknownPoolError; ConflictError: it is being deleted.
        """
        principal.require(*WRITERS)
        tenant = principal.acting_tenant()
        if not is_name(name):
            raise InvalidRequestError(
                f"'{name}' is no name for an endpoint", hint="use small letters, digits and '-', at most 63 characters"
            )

        def work(tx: DeployTx) -> Deployment:
            wish = _resolve(tx, tenant, request)
            known = tx.endpoint(Scope(tenant), tenant, name)
            if known is not None and known.state is EndpointState.DELETING:
                raise ConflictError(f"endpoint '{name}' is being deleted", hint="deploy it again when it is gone")
            if known is not None and _wish_of(known) == wish:
                return Deployment(_view(tx, known), created=False, changed=False)
            stored = tx.put_endpoint(_deployed(known, tenant, name, wish, principal, now))
            detail = {"endpoint": name, "request": request.model_dump(mode="json")}
            tx.put_audit(now, principal.id, tenant, "endpoint.deploy", json.dumps(detail, sort_keys=True))
            return Deployment(_view(tx, stored), created=known is None, changed=True)

        return self._store.transact(work)

    def list(self, principal: Principal, *, cursor: str | None = None, limit: int = 50) -> Page[EndpointView]:
        """Return endpoints by tenant and name; `cursor` is the last one seen."""
        size = max(1, min(limit, 1000))

        def look(reader: DeployReader) -> Page[EndpointView]:
            found = reader.endpoints(principal.scope)
            keyed = sorted(((f"{e.tenant}/{e.name}", e) for e in found), key=lambda pair: pair[0])
            rest = [(key, e) for key, e in keyed if cursor is None or key > cursor]
            items = tuple(_view(reader, endpoint) for _, endpoint in rest[:size])
            return Page[EndpointView](items=items, next_cursor=rest[size - 1][0] if len(rest) > size else None)

        return self._store.read(look)

    def get(self, principal: Principal, name: EndpointName) -> EndpointView:
        """Return one endpoint. Raises: NotFoundError."""
        return self._store.read(lambda r: _view(r, _endpoint(r, principal, name)))

    def delete(self, principal: Principal, name: EndpointName, *, now: Instant) -> EndpointView:
        """Begin to delete it; the control loop stops its replicas and removes the row. Raises: NotFoundError."""
        principal.require(*WRITERS)

        def work(tx: DeployTx) -> EndpointView:
            endpoint = _endpoint(tx, principal, name)
            if endpoint.state is not EndpointState.DELETING:
                endpoint = tx.put_endpoint(replace(endpoint, state=EndpointState.DELETING))
                tx.put_audit(now, principal.id, endpoint.tenant, "endpoint.delete", json.dumps({"endpoint": name}))
            return _view(tx, endpoint)

        return self._store.transact(work)

    def ready(self, attempt_id: AttemptId, request: ReadyRequest, *, now: Instant) -> None:
        """A replica listens; a repeat changes nothing.

        Raises: UnauthenticatedError: the attempt is over; ForbiddenError: its job is no replica of an endpoint, or the
        address is not its node's; NotFoundError: the endpoint is gone.
        """
        if not request.host or not 1 <= request.port <= 65_535:
            raise InvalidRequestError(f"'{request.host}:{request.port}' is no address to listen on")

        def work(tx: DeployTx) -> None:
            job, attempt = require_live(tx.job(PLATFORM, job_of(attempt_id)), attempt_id)
            entry = job.spec.entry
            if not isinstance(entry, ServiceEntry):
                raise ForbiddenError(f"job {job.id} is no replica of an endpoint")
            endpoint = tx.endpoint(Scope(job.tenant), job.tenant, entry.endpoint)
            if endpoint is None:
                raise NotFoundError("endpoint", entry.endpoint, hint="it was deleted: the replica will be stopped")
            _require_own_address(tx.nodes(PLATFORM), attempt, request.host)
            others = tuple(b for b in endpoint.backends if b.attempt != attempt.id)
            here = next((b for b in endpoint.backends if b.attempt == attempt.id), None)
            if here is not None and (here.host, here.port) == (request.host, request.port):
                return
            backend = Backend(job.id, attempt.id, entry.revision, request.host, request.port, now)
            backends = tuple(sorted((*others, backend), key=lambda b: b.attempt))
            tx.put_endpoint(replace(endpoint, backends=backends))

        self._store.transact(work)


def _require_own_address(nodes: Sequence[Node], attempt: Attempt, host: str) -> None:
    """The ingress sends callers' data where a backend says: that must be the node that the plan chose, at the address
    that its agent reports. A node that reports none serves nothing: any address would be somebody else's.

    Raises: ForbiddenError: another address, or none is known.
    """
    mine = {placement.node for placement in attempt.allocation.placements}
    addresses = {node.host for node in nodes if node.id in mine and node.host}
    if host not in addresses:
        raise ForbiddenError(
            f"a replica on {', '.join(sorted(mine))} may not answer from '{host}'",
            hint=f"listen on {' or '.join(sorted(addresses))}"
            if addresses
            else "its node reports no address: look at its agent (factory nodes)",
        )


def _resolve(reader: DeployReader, tenant: TenantId, request: DeployRequest) -> _Wish:
    scope = Scope(tenant)
    name, which = split_reference(request.model)
    model = reader.model(scope, tenant, name)
    if model is None:
        known = [m.name for m in reader.models(scope)]
        raise NotFoundError("model", name, known, hint="see: factory models list")
    number = model.number(which)
    version = None if number is None else reader.model_version(scope, tenant, name, number)
    if number is None or version is None:
        hint = "promote a version first: factory models promote" if number is None else f"the latest is @{model.last}"
        raise NotFoundError("model", request.model, hint=hint)
    queues = [q.name for q in reader.queues(scope) if q.tenant == tenant]
    queue = QueueName(request.queue or tenant)
    if queue not in queues:
        raise UnknownQueueError(queue, queues)
    usable = [p.name for p in reader.pools(scope) if p.isolation is Isolation.SHARED or p.tenant == tenant]
    if request.pool is not None and request.pool not in usable:
        raise UnknownPoolError(request.pool, usable)
    return _Wish(
        follow=which.value if isinstance(which, AliasName) else "",
        model=name,
        model_version=number,
        replicas=request.replicas,
        resources=Resources(_milli(request.cpu), request.memory, _milli(request.gpu)),
        queue=queue,
        pool=None if request.pool is None else PoolName(request.pool),
    )


def _wish_of(endpoint: Endpoint) -> _Wish:
    wanted = endpoint.revisions[-1]
    return _Wish(
        follow=endpoint.follow,
        model=wanted.model,
        model_version=wanted.model_version,
        replicas=wanted.replicas,
        resources=wanted.resources,
        queue=endpoint.queue,
        pool=endpoint.pool,
    )


def _deployed(
    known: Endpoint | None, tenant: TenantId, name: EndpointName, wish: _Wish, principal: Principal, now: Instant
) -> Endpoint:
    base = known or Endpoint(
        tenant=tenant,
        name=name,
        state=EndpointState.DEPLOYING,
        queue=wish.queue,
        pool=wish.pool,
        follow=wish.follow,
        revisions=(),
        backends=(),
        created_at=now,
        created_by=principal.id,
    )
    # pinning what the alias names now, or following it, changes nothing of what runs: no new revision then
    runs_the_same = known is not None and replace(_wish_of(known), follow=wish.follow) == wish
    revisions = base.revisions
    if not runs_the_same:
        number = revisions[-1].number + 1 if revisions else 1
        newer = Revision(number, wish.model, wish.model_version, wish.replicas, wish.resources, now)
        revisions = (*revisions, newer)
    return replace(base, queue=wish.queue, pool=wish.pool, follow=wish.follow, revisions=revisions)


def _endpoint(reader: DeployReader, principal: Principal, name: EndpointName) -> Endpoint:
    endpoint = reader.endpoint(principal.scope, principal.acting_tenant(), name)
    if endpoint is None:
        known = [e.name for e in reader.endpoints(principal.scope)]
        raise NotFoundError("endpoint", name, known, hint="see: factory endpoints list")
    return endpoint


def _view(reader: DeployReader, endpoint: Endpoint) -> EndpointView:
    wanted = endpoint.revisions[-1]
    ingress = _ingress_url(reader, endpoint)
    return EndpointView(
        name=endpoint.name,
        tenant=endpoint.tenant,
        state=endpoint.state,
        model=f"{wanted.model}@{endpoint.follow or wanted.model_version}",
        url=f"{ingress.rstrip('/')}/{endpoint.tenant}/{endpoint.name}" if ingress else "",
        revisions=tuple(
            RevisionView(
                number=r.number, model=f"{r.model}@{r.model_version}", replicas=r.replicas, created_at=r.created_at
            )
            for r in endpoint.revisions
        ),
        backends=tuple(
            BackendView(job=b.job, attempt=b.attempt, revision=b.revision, ready_at=b.ready_at)
            for b in endpoint.backends
        ),
        created_at=endpoint.created_at,
    )


def _ingress_url(reader: DeployReader, endpoint: Endpoint) -> str:
    """Return the ingress of its runner: where a replica answers, else where its pool is, else the only one."""
    urls = {r.id: r.ingress_url for r in reader.runners(PLATFORM) if r.ingress_url}
    serving = _runner_of(reader, endpoint)
    if serving is not None:
        return urls.get(serving, "")
    return next(iter(urls.values())) if len(urls) == 1 else ""


def _runner_of(reader: DeployReader, endpoint: Endpoint) -> RunnerId | None:
    for backend in sorted(endpoint.backends, key=lambda b: (-b.revision, b.attempt)):
        job = reader.job(Scope(endpoint.tenant), backend.job)
        live = None if job is None else job.live_attempt
        if live is not None:
            return live.runner
    pool = next((p for p in reader.pools(PLATFORM) if p.name == endpoint.pool), None)
    return None if pool is None else pool.runner


def _milli(amount: float) -> int:
    return max(1, round(amount * 1000)) if amount > 0 else 0
