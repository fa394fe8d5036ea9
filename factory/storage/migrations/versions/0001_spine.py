"""The spine: tenants, pools, jobs, datasets, models, endpoints, the lease and the feed.

Ids and names sort by bytes ("C" on PostgreSQL, SQLite's default). `events` and `audit` are append-only (rule 2).
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_APPEND_ONLY = ("events", "audit")

_NAME = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _name(name: str, *, null: bool = False) -> sa.Column[str]:
    return sa.Column(name, _NAME, nullable=null)


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=False, autoincrement=False)


def _text(name: str = "body") -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=False)


def _serial() -> sa.Column[int]:
    return sa.Column("seq", _SERIAL, nullable=False, autoincrement=True)


def upgrade() -> None:
    """From an empty database."""
    _tenancy()
    _pools()
    _jobs()
    _datasets()
    _models()
    _control()
    _append_only()


def downgrade() -> None:
    """Back to an empty database."""
    _drop_append_only()
    for table in (
        *("feed_state", "feed", "lease", "endpoints", "model_inputs", "model_versions", "models", "version_parents"),
        *("dataset_versions", "uploads", "datasets", "idempotency", "progress", "events", "attempts", "jobs"),
        *("runners", "nodes", "pools", "audit", "keys", "queues", "tenants"),
    ):
        op.drop_table(table)


def _tenancy() -> None:
    op.create_table(
        "tenants", _name("id"), _number("version"), _text(), sa.PrimaryKeyConstraint("id", name="pk_tenants")
    )
    op.create_table(
        "queues",
        _name("name"),
        _name("tenant"),
        _number("version"),
        _text(),
        sa.PrimaryKeyConstraint("name", name="pk_queues"),
    )
    op.create_table(
        "keys",
        _name("id"),
        _name("tenant", null=True),
        _number("version"),
        _text(),
        sa.PrimaryKeyConstraint("id", name="pk_keys"),
    )
    op.create_table(
        "audit",
        _serial(),
        _number("at"),
        _name("principal"),
        _name("tenant", null=True),
        _name("action"),
        _text("detail"),
        sa.PrimaryKeyConstraint("seq", name="pk_audit"),
    )


def _pools() -> None:
    op.create_table(
        "pools",
        _name("name"),
        _name("runner"),
        _name("tenant", null=True),
        _number("version"),
        _text(),
        sa.PrimaryKeyConstraint("name", name="pk_pools"),
    )
    op.create_table(
        "nodes",
        _name("id"),
        _name("pool"),
        _name("runner"),
        _number("version"),
        _text(),
        sa.PrimaryKeyConstraint("id", name="pk_nodes"),
    )
    op.create_table(
        "runners", _name("id"), _number("version"), _text(), sa.PrimaryKeyConstraint("id", name="pk_runners")
    )


def _jobs() -> None:
    op.create_table(
        "jobs",
        _name("id"),
        _name("tenant"),
        _name("queue"),
        _name("state"),
        _name("name"),
        _name("group_kind", null=True),
        _name("group_id", null=True),
        _number("is_open"),
        _name("live_runner", null=True),
        _number("seq"),
        _text(),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
    )
    op.create_index("ix_jobs_tenant_state", "jobs", ["tenant", "state", "id"])
    op.create_index("ix_jobs_tenant_name", "jobs", ["tenant", "name", "id"])
    op.create_index("ix_jobs_tenant_queue", "jobs", ["tenant", "queue", "id"])
    op.create_index("ix_jobs_tenant_id", "jobs", ["tenant", "id"])
    op.create_index("ix_jobs_group", "jobs", ["group_kind", "group_id", "id"])
    is_open, is_live = sa.text("is_open = 1"), sa.text("live_runner IS NOT NULL")
    op.create_index("ix_jobs_open", "jobs", ["id", "tenant"], sqlite_where=is_open, postgresql_where=is_open)
    op.create_index("ix_jobs_live", "jobs", ["live_runner", "id"], sqlite_where=is_live, postgresql_where=is_live)
    op.create_table(
        "attempts",
        _name("id"),
        _name("job_id"),
        _number("ordinal"),
        _name("runner"),
        _name("state"),
        sa.PrimaryKeyConstraint("id", name="pk_attempts"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_attempts_job_id"),
        sa.UniqueConstraint("job_id", "ordinal", name="uq_attempts_job_id_ordinal"),
    )
    op.create_table(
        "events",
        _name("job_id"),
        _number("seq"),
        _text(),
        sa.PrimaryKeyConstraint("job_id", "seq", name="pk_events"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_events_job_id"),
    )
    op.create_table(
        "progress",
        _name("attempt_id"),
        _number("at"),
        _text(),
        sa.PrimaryKeyConstraint("attempt_id", name="pk_progress"),
        sa.ForeignKeyConstraint(["attempt_id"], ["attempts.id"], name="fk_progress_attempt_id"),
    )
    op.create_table(
        "idempotency",
        _name("tenant"),
        _name("principal"),
        _name("route"),
        _name("key"),
        _name("fingerprint"),
        _name("result"),
        _number("created_at"),
        sa.PrimaryKeyConstraint("tenant", "principal", "route", "key", name="pk_idempotency"),
    )


def _datasets() -> None:
    op.create_table(
        "datasets",
        _name("tenant"),
        _name("name"),
        _number("version"),
        _text(),
        sa.PrimaryKeyConstraint("tenant", "name", name="pk_datasets"),
    )
    op.create_table("uploads", _name("id"), _name("tenant"), _text(), sa.PrimaryKeyConstraint("id", name="pk_uploads"))
    op.create_table(
        "dataset_versions",
        _name("id"),
        _name("tenant"),
        _name("dataset"),
        _number("number"),
        _name("state"),
        _name("job_id", null=True),
        _name("request_digest"),
        _number("version"),
        _text(),
        sa.PrimaryKeyConstraint("id", name="pk_dataset_versions"),
        sa.UniqueConstraint("tenant", "dataset", "number", name="uq_dataset_versions_tenant_dataset_number"),
    )
    op.create_index("ix_dataset_versions_job_id", "dataset_versions", ["job_id"])
    op.create_index("ix_dataset_versions_request", "dataset_versions", ["tenant", "dataset", "request_digest"])
    op.create_table(
        "version_parents",
        _name("version_id"),
        _name("parent_id"),
        sa.PrimaryKeyConstraint("version_id", "parent_id", name="pk_version_parents"),
        sa.ForeignKeyConstraint(["version_id"], ["dataset_versions.id"], name="fk_version_parents_version_id"),
    )
    op.create_index("ix_version_parents_parent_id", "version_parents", ["parent_id"])


def _models() -> None:
    op.create_table(
        "models",
        _name("tenant"),
        _name("name"),
        _number("version"),
        _text(),
        sa.PrimaryKeyConstraint("tenant", "name", name="pk_models"),
    )
    op.create_table(
        "model_versions",
        _name("tenant"),
        _name("model"),
        _number("number"),
        _name("job_id"),
        _number("is_projected"),
        _number("version"),
        _text(),
        sa.PrimaryKeyConstraint("tenant", "model", "number", name="pk_model_versions"),
    )
    op.create_index("ix_model_versions_job_id", "model_versions", ["job_id"])
    unprojected = sa.text("is_projected = 0")
    op.create_index(
        "ix_model_versions_unprojected",
        "model_versions",
        ["tenant", "model", "number"],
        sqlite_where=unprojected,
        postgresql_where=unprojected,
    )
    op.create_table(
        "model_inputs",
        _name("tenant"),
        _name("model"),
        _number("number"),
        _name("dataset_version"),
        sa.PrimaryKeyConstraint("tenant", "model", "number", "dataset_version", name="pk_model_inputs"),
        sa.ForeignKeyConstraint(
            ["tenant", "model", "number"],
            ["model_versions.tenant", "model_versions.model", "model_versions.number"],
            name="fk_model_inputs_tenant_model_number",
        ),
    )
    op.create_index("ix_model_inputs_dataset_version", "model_inputs", ["dataset_version"])
    op.create_table(
        "endpoints",
        _name("tenant"),
        _name("name"),
        _number("version"),
        _text(),
        sa.PrimaryKeyConstraint("tenant", "name", name="pk_endpoints"),
    )


def _control() -> None:
    op.create_table(
        "lease",
        _number("id"),
        _name("holder"),
        _number("epoch"),
        _number("expires_at"),
        sa.PrimaryKeyConstraint("id", name="pk_lease"),
        sa.CheckConstraint("id = 1", name="ck_lease_one_row"),
    )
    op.execute("INSERT INTO lease (id, holder, epoch, expires_at) VALUES (1, '', 0, 0)")
    op.create_table("feed", _serial(), _name("kind"), _name("key"), sa.PrimaryKeyConstraint("seq", name="pk_feed"))
    op.create_table(
        "feed_state",
        _number("id"),
        _number("pruned"),
        sa.PrimaryKeyConstraint("id", name="pk_feed_state"),
        sa.CheckConstraint("id = 1", name="ck_feed_state_one_row"),
    )
    op.execute("INSERT INTO feed_state (id, pruned) VALUES (1, 0)")


def _append_only() -> None:
    if op.get_bind().dialect.name == "sqlite":
        for table in _APPEND_ONLY:
            for change in ("UPDATE", "DELETE"):
                op.execute(
                    f"CREATE TRIGGER {table}_no_{change.lower()} BEFORE {change} ON {table} "
                    f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
                )
        return
    op.execute(
        "CREATE FUNCTION factory_append_only() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'restrict_violation'; END $$"
    )
    for table in _APPEND_ONLY:
        op.execute(
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE ON {table} "
            "FOR EACH ROW EXECUTE FUNCTION factory_append_only()"
        )
        op.execute(
            f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION factory_append_only()"
        )


def _drop_append_only() -> None:
    # Triggers go with their tables; SQLite's too. The function stands alone.
    if op.get_bind().dialect.name == "postgresql":
        for table in _APPEND_ONLY:
            op.execute(f"DROP TRIGGER {table}_append_only ON {table}")
            op.execute(f"DROP TRIGGER {table}_no_truncate ON {table}")
        op.execute("DROP FUNCTION factory_append_only()")
