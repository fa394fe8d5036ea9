"""Endpoints (serving/ports.py). Feed key of an endpoint: "<tenant>/<endpoint>"."""

from __future__ import annotations

from sqlalchemy import bindparam, delete, select

from factory.control.ports import FeedKind
from factory.domain.endpoints import Endpoint
from factory.domain.ids import EndpointName, TenantId
from factory.domain.tenancy import Scope
from factory.storage import codec
from factory.storage.session import SqlSession
from factory.storage.sql import compiled, insert_new, replace_guarded, scoped
from factory.storage.tables import endpoints

__all__ = ["EndpointSql"]

_THIS = (endpoints.c.tenant == bindparam("owner"), endpoints.c.name == bindparam("name"))

_ENDPOINTS = scoped(select(endpoints.c.body).order_by(endpoints.c.tenant, endpoints.c.name), endpoints.c.tenant)
_ENDPOINT = compiled(select(endpoints.c.body, endpoints.c.tenant).where(*_THIS))
_INSERT = insert_new(endpoints)
_UPDATE = replace_guarded(endpoints, "body")
_DELETE = scoped(delete(endpoints).where(*_THIS), endpoints.c.tenant)


class EndpointSql(SqlSession):
    """EndpointReader and EndpointTx."""

    def endpoints(self, scope: Scope) -> tuple[Endpoint, ...]:
        return self._list(codec.ENDPOINT, _ENDPOINTS, scope)

    def endpoint(self, scope: Scope, tenant: TenantId, name: EndpointName) -> Endpoint | None:
        return self._one(codec.ENDPOINT, _ENDPOINT, scope, owner=tenant, name=name)

    def put_endpoint(self, endpoint: Endpoint) -> Endpoint:
        columns = {"tenant": endpoint.tenant, "name": endpoint.name}
        stored = self._put(codec.ENDPOINT, endpoint, _INSERT, _UPDATE, f"endpoint '{endpoint.name}'", **columns)
        self._changed(FeedKind.ENDPOINT, f"{endpoint.tenant}/{endpoint.name}")
        return stored

    def delete_endpoint(self, scope: Scope, tenant: TenantId, name: EndpointName) -> None:
        if self._write(_DELETE.of(scope), {"owner": tenant, "name": name, "tenant": scope.tenant}):
            self._changed(FeedKind.ENDPOINT, f"{tenant}/{name}")
