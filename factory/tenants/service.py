"""Tenants, queues and keys, and who a secret belongs to. Every change is audited."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from factory.domain.ids import KeyId, PoolName, QueueName, TenantId, is_name
from factory.domain.tenancy import PLATFORM, Key, Principal, Queue, Quota, Role, Tenant
from factory.domain.time import Instant
from factory.errors import (
    ConflictError,
    ForbiddenError,
    InvalidRequestError,
    NotFoundError,
    UnauthenticatedError,
    UnknownPoolError,
)
from factory.scheduling.planning import Policy
from factory.scheduling.snapshot import Rows, Snapshot
from factory.schemas.platform import (
    KeyCreated,
    KeyRequest,
    KeyView,
    QueueDetail,
    QueueRequest,
    QueueView,
    QuotaModel,
    TenantRequest,
    TenantView,
)
from factory.tenants.ports import GovernReader, GovernStore, GovernTx, SchedulerViews, SecretSource
from factory.tenants.queues import Use, queue_detail, queue_view

__all__ = ["KEY_CACHE_MS", "TenantService"]

KEY_CACHE_MS = 5_000  # how long a revoked key may still be accepted by another process
_CACHE_SIZE = 10_000  # keys remembered; then the cache begins anew
_SECRET = re.compile(r"fak_([a-z2-7]{8})_[A-Za-z0-9_-]{43}")
_TENANT_ROLES = (Role.VIEWER, Role.OPERATOR, Role.ADMIN)
_CALLERS = (*_TENANT_ROLES, Role.PLATFORM)  # may ask an endpoint


@dataclass(frozen=True, slots=True)
class _Known:
    """An accepted key, for a short while."""

    key: Key
    read_at: Instant


class TenantService:
    """Who there is, and what they may do."""

    def __init__(
        self,
        store: GovernStore,
        *,
        secrets: SecretSource,
        views: SchedulerViews | None = None,
        policy: Policy | None = None,
    ) -> None:
        """Join the service.

        Args:
            views: where the scheduler's view comes from; None = built from the rows each time.
            policy: what the control loop plans with; None = the defaults.
        """
        self._policy = policy
        self._store = store
        self._secrets = secrets
        self._views = views
        self._known: dict[str, _Known] = {}  # by digest of the secret; never the secret itself (rule 10)

    # --- keys -------------------------------------------------------------------------------------------------------

    def authenticate(self, secret: str, *, now: Instant) -> Principal:
        """Return whose key this is. Raises: UnauthenticatedError: unknown, expired or revoked."""
        match = _SECRET.fullmatch(secret)
        if match is None:
            raise _unauthenticated()
        digest = hashlib.sha256(secret.encode()).hexdigest()
        known = self._known.get(digest)
        if known is None or not 0 <= now - known.read_at < KEY_CACHE_MS:
            key = self._store.read(lambda r: r.key(PLATFORM, KeyId(match[1])))
            if key is None or not hmac.compare_digest(key.digest, digest):
                raise _unauthenticated()
            known = _Known(key, now)
            if len(self._known) >= _CACHE_SIZE:
                self._known.clear()
            self._known[digest] = known
        if not known.key.is_valid(now):
            raise _unauthenticated()
        return Principal(known.key.id, known.key.role, known.key.tenant)

    def create_key(self, principal: Principal, request: KeyRequest, *, now: Instant) -> KeyCreated:
        """Make a key: platform any, a tenant's admin its own tenant's up to admin. The secret is in this answer only.

        Raises: ForbiddenError; NotFoundError: no such tenant; InvalidRequestError: role and tenant do not go together.
        """
        principal.require(Role.ADMIN, Role.PLATFORM)
        tenant = _tenant_of_key(principal, request)
        if request.expires_at is not None and request.expires_at <= now:
            raise InvalidRequestError("the key would be expired from the start", hint="give a later `expires_at`")
        key_id = KeyId(base64.b32encode(self._secrets(5)).decode().lower())
        secret = f"fak_{key_id}_{base64.urlsafe_b64encode(self._secrets(32)).decode().rstrip('=')}"
        key = Key(
            id=key_id,
            digest=hashlib.sha256(secret.encode()).hexdigest(),
            role=request.role,
            tenant=tenant,
            title=request.title,
            created_at=now,
            expires_at=request.expires_at,
        )

        def work(tx: GovernTx) -> Key:
            if tenant is not None:
                _tenant(tx, principal, tenant)
            stored = tx.put_key(key)
            _audit(tx, principal, tenant, "key.create", now, key=key_id, role=request.role.value)
            return stored

        return KeyCreated(**_key_view(self._store.transact(work)).model_dump(), secret=secret)

    def list_keys(self, principal: Principal) -> tuple[KeyView, ...]:
        """Return the keys that the caller governs, without their secrets."""
        principal.require(Role.ADMIN, Role.PLATFORM)
        keys = self._store.read(lambda r: r.keys(principal.scope))
        return tuple(_key_view(key) for key in sorted(keys, key=lambda k: (k.created_at, k.id)))

    def revoke_key(self, principal: Principal, key_id: KeyId, *, now: Instant) -> KeyView:
        """End a key: here at once, everywhere within 5 s. A repeat changes nothing. Raises: NotFoundError."""
        principal.require(Role.ADMIN, Role.PLATFORM)

        def work(tx: GovernTx) -> Key:
            key = tx.key(principal.scope, key_id)
            if key is None:
                raise NotFoundError("key", key_id, hint="see: factory keys list")
            if key.revoked_at is not None:
                return key
            _audit(tx, principal, key.tenant, "key.revoke", now, key=key_id)
            return tx.put_key(replace(key, revoked_at=now))

        key = self._store.transact(work)
        self._known.pop(key.digest, None)
        return _key_view(key)

    def ingress_keys(self, *, now: Instant) -> dict[str, str]:
        """Return sha256 hex of each valid key that may call endpoints -> tenant, "*" = all."""
        keys = self._store.read(lambda r: r.keys(PLATFORM))
        return {
            key.digest: key.tenant or "*"
            for key in sorted(keys, key=lambda k: k.digest)
            if key.role in _CALLERS and key.is_valid(now)
        }

    # --- tenants ----------------------------------------------------------------------------------------------------

    def put_tenant(self, principal: Principal, name: TenantId, request: TenantRequest, *, now: Instant) -> TenantView:
        """Create or rename a tenant; its own queue comes with it (platform role). The same request changes nothing.

        Raises: ForbiddenError, InvalidRequestError; ConflictError: another tenant has a queue of that name.
        """
        principal.require(Role.PLATFORM)
        _check_name(name, "a tenant")

        def work(tx: GovernTx) -> TenantView:
            known = next((t for t in tx.tenants(PLATFORM) if t.id == name), None)
            if known is not None and known.title == request.title:
                return _tenant_view(known)
            if known is None:
                stored = tx.put_tenant(Tenant(name, request.title, now))
                own = next((q for q in tx.queues(PLATFORM) if q.name == name), None)
                if own is not None and own.tenant != name:
                    raise ConflictError(
                        f"there is a queue '{name}' of tenant '{own.tenant}'", hint="choose another name for the tenant"
                    )
                if own is None:
                    tx.put_queue(Queue(QueueName(name), name))
            else:
                stored = tx.put_tenant(replace(known, title=request.title))
            _audit(tx, principal, name, "tenant.put", now, title=request.title)
            return _tenant_view(stored)

        return self._store.transact(work)

    def list_tenants(self, principal: Principal) -> tuple[TenantView, ...]:
        """Return the tenants that the caller may see, by name."""
        tenants = self._store.read(lambda r: r.tenants(principal.scope))
        return tuple(_tenant_view(t) for t in sorted(tenants, key=lambda t: t.id))

    # --- queues -----------------------------------------------------------------------------------------------------

    def put_queue(self, principal: Principal, name: QueueName, request: QueueRequest, *, now: Instant) -> QueueView:
        """Create or change a queue (platform role). The same request changes nothing.

        Raises: ForbiddenError; NotFoundError: no such tenant or parent; UnknownPoolError; InvalidRequestError: the tree
        would have a loop; ConflictError: it has open jobs of another tenant.
        """
        principal.require(Role.PLATFORM)
        _check_name(name, "a queue")
        tenant = TenantId(request.tenant)

        def work(tx: GovernTx) -> QueueView:
            _tenant(tx, principal, tenant)
            queues = {q.name: q for q in tx.queues(PLATFORM)}
            jobs = tx.open_jobs(PLATFORM)
            known = queues.get(name)
            parent = _parent(queues, name, request.parent)
            if known is not None and known.tenant != tenant and any(j.spec.queue == name for j in jobs):
                raise ConflictError(
                    f"queue '{name}' has open jobs of tenant '{known.tenant}'",
                    hint="let them end, or use another queue",
                )
            wanted = Queue(
                name=name,
                tenant=tenant,
                parent=parent,
                weight=request.weight,
                quotas=_quotas(tx, request.quotas),
                version=0 if known is None else known.version,
            )
            if wanted != known:
                wanted = tx.put_queue(wanted)
                _audit(tx, principal, tenant, "queue.put", now, queue=name, request=request.model_dump(mode="json"))
            return queue_view(wanted, Use.of(jobs), {*queues, name})

        return self._store.transact(work)

    def delete_queue(self, principal: Principal, name: QueueName, *, now: Instant) -> None:
        """Remove a queue without open jobs and children (platform role).

        Raises: ForbiddenError, NotFoundError; ConflictError: it is in use, or a tenant's own queue.
        """
        principal.require(Role.PLATFORM)

        def work(tx: GovernTx) -> None:
            queues = {q.name: q for q in tx.queues(PLATFORM)}
            queue = queues.get(name)
            if queue is None:
                raise NotFoundError("queue", name, queues, hint="see: factory queues")
            if queue.name == queue.tenant:
                raise ConflictError(f"queue '{name}' is the own queue of tenant '{name}'", hint="its jobs go there")
            children = sorted(q.name for q in queues.values() if q.parent == name)
            if children:
                raise ConflictError(f"queue '{name}' is the parent of {', '.join(children)}", hint="move those first")
            count = sum(1 for job in tx.open_jobs(PLATFORM) if job.spec.queue == name)
            if count:
                raise ConflictError(
                    f"queue '{name}' has {count} open job{'' if count == 1 else 's'}",
                    hint="let them end, or cancel them",
                )
            tx.delete_queue(PLATFORM, name)
            _audit(tx, principal, queue.tenant, "queue.delete", now, queue=name)

        self._store.transact(work)

    def list_queues(self, principal: Principal) -> tuple[QueueView, ...]:
        """Return the queues that the caller may see, by name, with what they hold now."""

        def look(reader: GovernReader) -> tuple[QueueView, ...]:
            use = Use.of(reader.open_jobs(principal.scope))
            mine = {q.name: q for q in reader.queues(principal.scope)}
            return tuple(queue_view(mine[name], use, mine) for name in sorted(mine))

        return self._store.read(look)

    def show_queue(self, principal: Principal, name: QueueName, *, now: Instant) -> QueueDetail:
        """Return one queue: how it stands in each pool, and who waits first and why. Raises: NotFoundError."""

        def look(reader: GovernReader) -> QueueDetail:
            mine = {q.name: q for q in reader.queues(principal.scope)}
            if name not in mine:
                raise NotFoundError("queue", name, mine, hint="see: factory queues")
            return queue_detail(mine[name], self._snapshot(reader), mine, principal.scope, now, self._policy)

        return self._store.read(look)

    def _snapshot(self, reader: GovernReader) -> Snapshot:
        if self._views is not None:
            return self._views.at(reader)
        return Snapshot.build(
            Rows(
                pools=reader.pools(PLATFORM),
                nodes=reader.nodes(PLATFORM),
                queues=reader.queues(PLATFORM),
                jobs=reader.open_jobs(PLATFORM),
                runners=reader.runners(PLATFORM),
            )
        )


def _tenant_of_key(principal: Principal, request: KeyRequest) -> TenantId | None:
    if request.role not in _TENANT_ROLES:
        principal.require(Role.PLATFORM)
        if request.tenant is not None:
            raise InvalidRequestError(f"a key of role {request.role.value} belongs to no tenant", hint="leave it out")
        return None
    tenant = TenantId(request.tenant) if request.tenant is not None else principal.tenant
    if tenant is None:
        raise InvalidRequestError(
            f"a key of role {request.role.value} belongs to a tenant", hint="name it: factory keys create --tenant …"
        )
    if not principal.scope.covers(tenant):
        raise ForbiddenError("an admin makes keys of its own tenant only", hint="ask the platform team")
    return tenant


def _tenant(reader: GovernReader, principal: Principal, name: TenantId) -> Tenant:
    tenants = {t.id: t for t in reader.tenants(principal.scope)}
    if name not in tenants:
        raise NotFoundError("tenant", name, tenants, hint="see: factory tenants")
    return tenants[name]


def _parent(queues: dict[QueueName, Queue], name: QueueName, parent: str | None) -> QueueName | None:
    if parent is None:
        return None
    if parent not in queues:
        raise NotFoundError("queue", parent, queues, hint="make the parent first")
    above: QueueName | None = QueueName(parent)
    while above is not None:
        if above == name:
            raise InvalidRequestError(f"queue '{name}' would be its own ancestor", hint="choose another parent")
        above = queues[above].parent if above in queues else None
    return QueueName(parent)


def _quotas(reader: GovernReader, wanted: Iterable[QuotaModel]) -> tuple[Quota, ...]:
    known = {p.name for p in reader.pools(PLATFORM)}
    quotas: dict[PoolName, Quota] = {}
    for quota in wanted:
        pool = PoolName(quota.pool)
        # before any runner has joined, quotas may be set for pools to come
        if known and pool not in known:
            raise UnknownPoolError(pool, known)
        if pool in quotas:
            raise InvalidRequestError(f"pool '{pool}' has two quotas", hint="give one")
        quotas[pool] = Quota(pool, round(quota.nominal * 1000), _milli(quota.borrowing), _milli(quota.lending))
    return tuple(quotas[pool] for pool in sorted(quotas))


def _milli(slots: float | None) -> int | None:
    return None if slots is None else round(slots * 1000)


def _check_name(name: str, what: str) -> None:
    if not is_name(name):
        raise InvalidRequestError(
            f"'{name}' is no name for {what}", hint="use small letters, digits and '-', at most 63 characters"
        )


def _unauthenticated() -> UnauthenticatedError:
    return UnauthenticatedError(
        "the key is unknown, expired or revoked",
        hint="send `Authorization: Bearer <key>`; make one: factory keys create",
    )


def _audit(
    tx: GovernTx, principal: Principal, tenant: TenantId | None, action: str, now: Instant, **detail: object
) -> None:
    tx.put_audit(now, principal.id, tenant, action, json.dumps(detail, sort_keys=True))


def _tenant_view(tenant: Tenant) -> TenantView:
    return TenantView(id=tenant.id, title=tenant.title, created_at=tenant.created_at)


def _key_view(key: Key) -> KeyView:
    return KeyView(
        id=key.id,
        role=key.role,
        tenant=key.tenant,
        title=key.title,
        created_at=key.created_at,
        expires_at=key.expires_at,
        revoked_at=key.revoked_at,
    )
