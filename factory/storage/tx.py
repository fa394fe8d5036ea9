"""The transaction object: every reader and writer port in one, over one cursor."""

from __future__ import annotations

from factory.storage.control import ControlSql
from factory.storage.datasets import DatasetSql
from factory.storage.endpoints import EndpointSql
from factory.storage.jobs import JobSql
from factory.storage.models import ModelSql
from factory.storage.pools import PoolSql
from factory.storage.tenants import TenantSql

__all__ = ["SqlTx"]


class SqlTx(JobSql, PoolSql, TenantSql, DatasetSql, ModelSql, EndpointSql, ControlSql):
    """What `read(fn)` and `transact(fn)` give to `fn`; usable only inside it."""
