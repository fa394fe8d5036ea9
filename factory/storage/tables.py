"""The tables: key columns, the columns that queries need, a guard (`version` or `seq`) and the value itself as `body`.

`body` is the truth (codec.py); the other columns repeat what is in it so that an index can find the row, and are
written in the same statement. `migrations/` builds the schema; a test holds it equal to this description.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)

__all__ = [
    "METADATA",
    "attempts",
    "audit",
    "dataset_versions",
    "datasets",
    "endpoints",
    "events",
    "feed",
    "feed_state",
    "idempotency",
    "jobs",
    "keys",
    "lease",
    "model_inputs",
    "model_versions",
    "models",
    "nodes",
    "pools",
    "progress",
    "queues",
    "runners",
    "tenants",
    "uploads",
    "version_parents",
]

METADATA = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# Ids and names sort by bytes on both databases, as Python sorts them: keyset pages and "by id" depend on it.
Name = Text().with_variant(Text(collation="C"), "postgresql")
Number = BigInteger()
# Only a column of type INTEGER is SQLite's row id, which numbers rows in the order of the one writer.
Serial = BigInteger().with_variant(Integer(), "sqlite")


def _key(name: str) -> Column[str]:
    return Column(name, Name, primary_key=True)


def _name(name: str, *, null: bool = False) -> Column[str]:
    return Column(name, Name, nullable=null)


def _number(name: str) -> Column[int]:
    return Column(name, Number, nullable=False)


def _body() -> Column[str]:
    return Column("body", Text, nullable=False)


tenants = Table("tenants", METADATA, _key("id"), _number("version"), _body())

queues = Table("queues", METADATA, _key("name"), _name("tenant"), _number("version"), _body())

keys = Table("keys", METADATA, _key("id"), _name("tenant", null=True), _number("version"), _body())

# Append-only: triggers refuse UPDATE and DELETE (and TRUNCATE) on `audit` and `events`.
audit = Table(
    "audit",
    METADATA,
    Column("seq", Serial, primary_key=True, autoincrement=True),
    _number("at"),
    _name("principal"),
    _name("tenant", null=True),
    _name("action"),
    Column("detail", Text, nullable=False),
)

pools = Table(
    "pools",
    METADATA,
    _key("name"),
    _name("runner"),
    _name("tenant", null=True),  # NULL = shared: every tenant sees it
    _number("version"),
    _body(),
)

nodes = Table("nodes", METADATA, _key("id"), _name("pool"), _name("runner"), _number("version"), _body())

runners = Table("runners", METADATA, _key("id"), _number("version"), _body())

jobs = Table(
    "jobs",
    METADATA,
    _key("id"),
    _name("tenant"),
    _name("queue"),
    _name("state"),
    _name("name"),
    _name("group_kind", null=True),
    _name("group_id", null=True),
    _number("is_open"),  # 1 until a final state
    _name("live_runner", null=True),  # runner of the live attempt
    _number("seq"),
    _body(),
    Index("ix_jobs_tenant_state", "tenant", "state", "id"),
    Index("ix_jobs_tenant_name", "tenant", "name", "id"),
    Index("ix_jobs_tenant_queue", "tenant", "queue", "id"),
    Index("ix_jobs_tenant_id", "tenant", "id"),
    Index("ix_jobs_group", "group_kind", "group_id", "id"),
    Index("ix_jobs_open", "id", "tenant", sqlite_where=text("is_open = 1"), postgresql_where=text("is_open = 1")),
    Index(
        "ix_jobs_live",
        "live_runner",
        "id",
        sqlite_where=text("live_runner IS NOT NULL"),
        postgresql_where=text("live_runner IS NOT NULL"),
    ),
)

attempts = Table(
    "attempts",
    METADATA,
    _key("id"),
    Column("job_id", Name, ForeignKey("jobs.id"), nullable=False),
    _number("ordinal"),
    _name("runner"),
    _name("state"),
    UniqueConstraint("job_id", "ordinal"),
)

events = Table(
    "events",
    METADATA,
    Column("job_id", Name, ForeignKey("jobs.id"), primary_key=True),
    Column("seq", Number, primary_key=True, autoincrement=False),
    _body(),
)

progress = Table(
    "progress",
    METADATA,
    Column("attempt_id", Name, ForeignKey("attempts.id"), primary_key=True),
    _number("at"),
    _body(),
)

idempotency = Table(
    "idempotency",
    METADATA,
    _key("tenant"),
    _key("principal"),
    _key("route"),
    _key("key"),
    _name("fingerprint"),
    _name("result"),
    _number("created_at"),
)

datasets = Table("datasets", METADATA, _key("tenant"), _key("name"), _number("version"), _body())

uploads = Table(
    "uploads",
    METADATA,
    _key("id"),
    _name("tenant"),
    _name("sha256"),
    _name("format"),
    _number("has_bytes"),  # 1 until they are removed
    _number("version"),
    _body(),
    Index("ix_uploads_digest", "tenant", "sha256", "format", "has_bytes", "id"),
    Index("ix_uploads_has_bytes", "id", sqlite_where=text("has_bytes = 1"), postgresql_where=text("has_bytes = 1")),
)

dataset_versions = Table(
    "dataset_versions",
    METADATA,
    _key("id"),
    _name("tenant"),
    _name("dataset"),
    _number("number"),
    _name("state"),
    _name("job_id", null=True),
    _name("request_digest"),
    _number("version"),
    _body(),
    UniqueConstraint("tenant", "dataset", "number"),
    Index("ix_dataset_versions_job_id", "job_id"),
    Index("ix_dataset_versions_request", "tenant", "dataset", "request_digest"),
)

version_parents = Table(
    "version_parents",
    METADATA,
    Column("version_id", Name, ForeignKey("dataset_versions.id"), primary_key=True),
    _key("parent_id"),
    Index("ix_version_parents_parent_id", "parent_id"),
)

models = Table("models", METADATA, _key("tenant"), _key("name"), _number("version"), _body())

model_versions = Table(
    "model_versions",
    METADATA,
    _key("tenant"),
    _key("model"),
    Column("number", Number, primary_key=True, autoincrement=False),
    _name("job_id"),
    _number("is_projected"),  # 1 once MLflow has it
    _number("version"),
    _body(),
    Index("ix_model_versions_job_id", "job_id"),
    Index(
        "ix_model_versions_unprojected",
        "tenant",
        "model",
        "number",
        sqlite_where=text("is_projected = 0"),
        postgresql_where=text("is_projected = 0"),
    ),
)

model_inputs = Table(
    "model_inputs",
    METADATA,
    _key("tenant"),
    _key("model"),
    Column("number", Number, primary_key=True, autoincrement=False),
    _key("dataset_version"),
    ForeignKeyConstraint(
        ["tenant", "model", "number"], ["model_versions.tenant", "model_versions.model", "model_versions.number"]
    ),
    Index("ix_model_inputs_dataset_version", "dataset_version"),
)

endpoints = Table("endpoints", METADATA, _key("tenant"), _key("name"), _number("version"), _body())

# One row, always there: a lease that nobody holds has an empty holder, and keeps its epoch.
lease = Table(
    "lease",
    METADATA,
    Column("id", Number, CheckConstraint("id = 1", name="one_row"), primary_key=True, autoincrement=False),
    _name("holder"),
    _number("epoch"),
    _number("expires_at"),
)

feed = Table(
    "feed",
    METADATA,
    Column("seq", Serial, primary_key=True, autoincrement=True),
    _name("kind"),
    _name("key"),
)

feed_state = Table(
    "feed_state",
    METADATA,
    Column("id", Number, CheckConstraint("id = 1", name="one_row"), primary_key=True, autoincrement=False),
    _number("pruned"),  # highest seq that may be missing: a reader that stands below it has to build again
)
