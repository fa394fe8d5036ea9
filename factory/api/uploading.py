"""Who may send a big body now: so many at once in all, and so many of one tenant.

A body that arrives slowly holds a thread as long as it takes. Without the second bound one tenant's slow bodies would
keep every other tenant from uploading; without the first all of them together would take the server's memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar
from weakref import WeakValueDictionary

from anyio import CapacityLimiter
from anyio.to_thread import run_sync

from factory.domain.ids import TenantId

__all__ = ["Uploads"]

T = TypeVar("T")


class Uploads:
    """Runs what takes a body in, in threads of its own."""

    def __init__(self, *, total: int = 32, per_tenant: int = 8) -> None:
        self._total = CapacityLimiter(total)
        self._per_tenant = per_tenant
        self._tenants: WeakValueDictionary[TenantId, CapacityLimiter] = WeakValueDictionary()  # while one is in use

    async def run(self, tenant: TenantId, work: Callable[[], T]) -> T:
        """Run `work` in a thread when there is room. Only in the server's event loop."""
        own = self._tenants.get(tenant)
        if own is None:
            own = self._tenants[tenant] = CapacityLimiter(self._per_tenant)
        async with own:  # first: who waits for its own tenant's turn takes no place of another's
            return await run_sync(work, limiter=self._total)
