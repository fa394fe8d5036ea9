"""Uploads know where their bytes are, are found by digest, and name the versions that were made of them.

The table is written anew: it is small, and SQLite adds no column without a default.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_NAME = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """From 0001: every upload there is counts as kept."""
    versions: dict[str, list[str]] = {}
    for (body,) in op.get_bind().execute(sa.text("SELECT body FROM dataset_versions ORDER BY id")):
        version = json.loads(body)
        if version.get("upload"):
            versions.setdefault(version["upload"], []).append(version["id"])
    kept = [
        json.loads(body) | {"state": "kept", "versions": versions.get(id, []), "version": 1}
        for id, body in _taken_out()
    ]
    table = op.create_table(
        "uploads",
        sa.Column("id", _NAME, nullable=False),
        sa.Column("tenant", _NAME, nullable=False),
        sa.Column("sha256", _NAME, nullable=False),
        sa.Column("format", _NAME, nullable=False),
        sa.Column("has_bytes", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_uploads"),
    )
    op.create_index("ix_uploads_digest", "uploads", ["tenant", "sha256", "format", "has_bytes", "id"])
    has_bytes = sa.text("has_bytes = 1")
    op.create_index("ix_uploads_has_bytes", "uploads", ["id"], sqlite_where=has_bytes, postgresql_where=has_bytes)
    rows = [
        {
            **{name: upload[name] for name in ("id", "tenant", "sha256", "format")},
            "has_bytes": 1,
            "version": 1,
            "body": _text(upload),
        }
        for upload in kept
    ]
    op.bulk_insert(table, rows)


def downgrade() -> None:
    """To 0001, which knows no state: bytes that were removed are then missed when they are asked for."""
    known = [json.loads(body) for _, body in _taken_out()]
    table = op.create_table(
        "uploads",
        sa.Column("id", _NAME, nullable=False),
        sa.Column("tenant", _NAME, nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_uploads"),
    )
    rows: list[dict[str, Any]] = []
    for upload in known:
        if upload.pop("state") == "arriving":
            continue
        del upload["versions"], upload["version"]
        rows.append({"id": upload["id"], "tenant": upload["tenant"], "body": _text(upload)})
    op.bulk_insert(table, rows)


def _taken_out() -> Sequence[tuple[str, str]]:
    rows = op.get_bind().execute(sa.text("SELECT id, body FROM uploads ORDER BY id")).all()
    op.drop_table("uploads")
    return [(id, body) for id, body in rows]


def _text(value: dict[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
