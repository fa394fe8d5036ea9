"""What every store must do: one suite per port, run on every adapter.

`factory.storage` (SQLite, PostgreSQL) and `factory.testing.memory` run it in tests/conformance/test_stores.py, and so
do planted bugs, which must fail it. A store needs a clock that stands at `NOW`, except where the database has its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from factory.control.ports import ControlTx
from factory.datasets.ports import DatasetTx
from factory.domain.time import Instant
from factory.models.ports import ModelTx
from factory.tenants.ports import TenantTx
from factory.testing.behaviours import behaviours_of

__all__ = ["NOW", "FixedClock", "Store", "StoreTx", "failures", "suites"]

T = TypeVar("T")

NOW: Instant = 1_700_000_000_000


class FixedClock:
    """A clock that stands still."""

    def now(self) -> Instant:
        """Return NOW."""
        return NOW


class StoreTx(ControlTx, DatasetTx, ModelTx, TenantTx, Protocol):
    """Every reader and writer port in one."""


class Store(Protocol):
    """Every transactional door in one."""

    def read(self, fn: Callable[[StoreTx], T]) -> T: ...

    def transact(self, fn: Callable[[StoreTx], T], *, epoch: int | None = None) -> T: ...


def suites() -> dict[str, type[Any]]:
    """The suites by the port that they are of; each is constructed with a store that nobody has used."""
    # Imported here: the suites need the protocols above.
    from factory.testing.conformance_store_control import ControlSuite, TransactionSuite
    from factory.testing.conformance_store_jobs import JobSuite
    from factory.testing.conformance_store_resources import (
        DatasetSuite,
        EndpointSuite,
        ModelSuite,
        PoolSuite,
        TenantSuite,
    )

    return {
        "transactions": TransactionSuite,
        "control": ControlSuite,
        "jobs": JobSuite,
        "pools": PoolSuite,
        "tenants": TenantSuite,
        "datasets": DatasetSuite,
        "models": ModelSuite,
        "endpoints": EndpointSuite,
    }


def failures(make_store: Callable[[], Store]) -> tuple[str, ...]:
    """Run everything, each behaviour on a store of its own; return "suite.behaviour" of those that do not hold."""
    failed: list[str] = []
    for port, suite in suites().items():
        for name, behaviour in behaviours_of(suite).items():
            try:
                behaviour(suite(make_store()))
            except Exception:  # whatever a broken adapter raises, it has not behaved
                failed.append(f"{port}.{name}")
    return tuple(failed)
