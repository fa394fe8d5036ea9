"""The schema, step by step: Alembic revisions that are never edited once merged."""
