"""What a pool is for: `isolation` and `self_fence_s`, and who may change them when.

- S1 A Ray cluster is one trust domain (DESIGN §1), so isolation is the cluster's: all pools of a runner have the same.
- S2 The runner's join says what its pools are. What an admin set (`Pool.set_by`) goes before every later join.
- S3 The isolation changes only while no attempt runs there that the new one would not let in; and a pool that leaves a
  tenant holds no attempt at all, since its data may be above class `internal`.
- S4 `self_fence_s` changes only while no attempt runs in the pool: so each one was started with the value that the
  control plane counts with.
- S5 A join that asks for a change which S3 or S4 forbid keeps what is, and is told so; an admin is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from factory.domain.ids import TenantId
from factory.domain.jobs import Job
from factory.domain.pools import Isolation, Pool, Runner
from factory.domain.tenancy import PLATFORM
from factory.errors import ConflictError, InvalidRequestError, NotFoundError
from factory.pools.ports import FleetReader, FleetTx, PoolReader

__all__ = ["Governed", "as_joined", "check_owner", "govern", "new_pool"]


@dataclass(frozen=True, slots=True)
class Governed:
    """What a pool is for."""

    isolation: Isolation
    tenant: TenantId | None
    self_fence_s: int | None

    @staticmethod
    def of(pool: Pool | Runner) -> Governed:
        """What it is, or what its join said."""
        return Governed(pool.isolation, pool.tenant, pool.self_fence_s)

    def put_on(self, pool: Pool, by: str) -> Pool:
        """Return the pool with it."""
        return replace(pool, isolation=self.isolation, tenant=self.tenant, self_fence_s=self.self_fence_s, set_by=by)


def check_owner(reader: FleetReader, isolation: Isolation, tenant: str | None) -> TenantId | None:
    """Return the owner. Raises: InvalidRequestError: isolation and tenant do not go together; NotFoundError."""
    if isolation is Isolation.SHARED:
        if tenant is not None:
            raise InvalidRequestError(
                f"a shared pool belongs to no tenant, not to '{tenant}'",
                hint="leave the tenant out, or isolation=tenant",
            )
        return None
    if tenant is None:
        raise InvalidRequestError("isolation 'tenant' needs a tenant", hint="name it: --tenant water")
    known = [t.id for t in reader.tenants(PLATFORM)]
    if tenant not in known:
        raise NotFoundError("tenant", tenant, known, hint="see: factory tenants")
    return TenantId(tenant)


def new_pool(reader: PoolReader, runner: Runner, pool: Pool) -> Pool:
    """Return a pool that its runner reports first as it is made: like its siblings (rule S1), else as the join says."""
    sibling = next(iter(_of_runner(reader, runner)), None)
    if sibling is None:
        return Governed.of(runner).put_on(pool, "")
    return Governed.of(sibling).put_on(pool, sibling.set_by)


def as_joined(tx: FleetTx, runner: Runner, jobs: Sequence[Job]) -> tuple[str, ...]:
    """Make the runner's pools what its join says, where rules S2 to S4 let it; return what did not take effect."""
    said = Governed.of(runner)
    pools = _of_runner(tx, runner)
    if any(pool.set_by for pool in pools):
        differs = [pool.name for pool in pools if Governed.of(pool) != said]
        return (f"pool {', '.join(differs)} is as an admin set it, not as the join file says",) if differs else ()
    reason = next((why for pool in pools if (why := _hindrance(pool, said, jobs)) is not None), None)
    if reason is not None:
        return (f"{reason}: it stays as it is until the runner joins again",)
    for pool in pools:
        if Governed.of(pool) != said:
            tx.put_pool(said.put_on(pool, ""))
    return ()


def govern(tx: FleetTx, pool: Pool, wanted: Governed, by: str, jobs: Sequence[Job]) -> tuple[Pool, ...]:
    """Set a pool, and the isolation of its siblings, by an admin's word; return the pools that changed.

    Raises: ConflictError: attempts are in the way (rules S3, S4).
    """
    changed: list[Pool] = []
    for one in _of_runner(tx, pool):
        fence = wanted.self_fence_s if one.name == pool.name else one.self_fence_s
        become = replace(wanted, self_fence_s=fence)
        if (reason := _hindrance(one, become, jobs)) is not None:
            raise ConflictError(
                reason,
                hint="drain its nodes (factory nodes drain NODE) and let the attempts end, or cancel their jobs",
                facts={"pool": one.name, "attempts": sorted(_live_in(one, jobs))},
            )
        if become.put_on(one, by) != one and (one.name == pool.name or Governed.of(one) != become):
            changed.append(tx.put_pool(become.put_on(one, by)))
    return tuple(changed)


def _hindrance(pool: Pool, wanted: Governed, jobs: Iterable[Job]) -> str | None:
    """Return why the pool cannot become `wanted` now."""
    live = _live_in(pool, jobs)
    if wanted.self_fence_s != pool.self_fence_s and live:  # rule S4
        return f"pool '{pool.name}' has {_count(live)}: self-fence changes only while nothing runs there"
    if (wanted.isolation, wanted.tenant) == (pool.isolation, pool.tenant):
        return None
    if pool.isolation is Isolation.TENANT and live:  # rule S3
        return f"pool '{pool.name}' has {_count(live)} of tenant '{pool.tenant}', whose data others must not meet"
    foreign = [attempt for attempt, tenant in live.items() if tenant != wanted.tenant]
    if foreign and wanted.isolation is Isolation.TENANT:
        return f"pool '{pool.name}' has {_count(foreign)} of other tenants than '{wanted.tenant}'"
    return None


def _count(attempts: Iterable[str]) -> str:
    number = len(list(attempts))
    return f"{number} live attempt{'' if number == 1 else 's'}"


def _live_in(pool: Pool, jobs: Iterable[Job]) -> dict[str, TenantId]:
    """Return the live attempts in a pool, and whose each is; an unknown one is live until it is proven dead."""
    return {
        live.id: job.tenant
        for job in jobs
        if (live := job.live_attempt) is not None and live.allocation.pool == pool.name
    }


def _of_runner(reader: PoolReader, of: Pool | Runner) -> list[Pool]:
    runner = of.runner if isinstance(of, Pool) else of.id
    return sorted((p for p in reader.pools(PLATFORM) if p.runner == runner), key=lambda p: p.name)
