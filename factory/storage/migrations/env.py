"""Run by Alembic: migrates over the connection that migrate.py opened, inside its transaction."""

from __future__ import annotations

from alembic import context

from factory.storage.tables import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    transactional_ddl=True,  # SQLite's DDL is transactional too; Alembic assumes that it isn't
)
with context.begin_transaction():
    context.run_migrations()
