"""Tenants, queues, keys and the audit log (tenants/ports.py)."""

from __future__ import annotations

from sqlalchemy import bindparam, delete, insert, select

from factory.control.ports import FeedKind
from factory.domain.ids import KeyId, QueueName, TenantId
from factory.domain.tenancy import Key, Queue, Scope, Tenant
from factory.domain.time import Instant
from factory.storage import codec
from factory.storage.session import SqlSession
from factory.storage.sql import compiled, insert_new, replace_guarded, scoped
from factory.storage.tables import audit, keys, queues, tenants

__all__ = ["TenantSql"]

_TENANTS = scoped(select(tenants.c.body).order_by(tenants.c.id), tenants.c.id)
_KEYS = scoped(select(keys.c.body).order_by(keys.c.id), keys.c.tenant)
_KEY = compiled(select(keys.c.body, keys.c.tenant).where(keys.c.id == bindparam("id")))

_INSERT_TENANT = insert_new(tenants)
_UPDATE_TENANT = replace_guarded(tenants, "body")
_INSERT_QUEUE = insert_new(queues)
_UPDATE_QUEUE = replace_guarded(queues, "tenant", "body")
_INSERT_KEY = insert_new(keys)
_UPDATE_KEY = replace_guarded(keys, "tenant", "body")
_DELETE_QUEUE = scoped(delete(queues).where(queues.c.name == bindparam("name")), queues.c.tenant)
_AUDIT = compiled(
    insert(audit).values({name: bindparam(name) for name in ("at", "principal", "tenant", "action", "detail")})
)


class TenantSql(SqlSession):
    """TenantReader (but for `queues`, which JobSql has too) and TenantTx."""

    def tenants(self, scope: Scope) -> tuple[Tenant, ...]:
        return self._list(codec.TENANT, _TENANTS, scope)

    def keys(self, scope: Scope) -> tuple[Key, ...]:
        return self._list(codec.KEY, _KEYS, scope)

    def key(self, scope: Scope, key_id: KeyId) -> Key | None:
        return self._one(codec.KEY, _KEY, scope, id=key_id)

    def put_tenant(self, tenant: Tenant) -> Tenant:
        return self._put(codec.TENANT, tenant, _INSERT_TENANT, _UPDATE_TENANT, f"tenant '{tenant.id}'", id=tenant.id)

    def put_queue(self, queue: Queue) -> Queue:
        columns = {"name": queue.name, "tenant": queue.tenant}
        stored = self._put(codec.QUEUE, queue, _INSERT_QUEUE, _UPDATE_QUEUE, f"queue '{queue.name}'", **columns)
        self._changed(FeedKind.QUEUE, queue.name)
        return stored

    def put_key(self, key: Key) -> Key:
        columns = {"id": key.id, "tenant": key.tenant}
        return self._put(codec.KEY, key, _INSERT_KEY, _UPDATE_KEY, f"key '{key.id}'", **columns)

    def delete_queue(self, scope: Scope, name: QueueName) -> None:
        if self._write(_DELETE_QUEUE.of(scope), {"name": name, "tenant": scope.tenant}):
            self._changed(FeedKind.QUEUE, name)

    def put_audit(self, at: Instant, principal: str, tenant: TenantId | None, action: str, detail_json: str) -> None:
        params = {"at": at, "principal": principal, "tenant": tenant, "action": action, "detail": detail_json}
        self._write(_AUDIT, params)
