"""What a pool is for: by its runner's join, by an admin's word, and what of both live attempts forbid."""

from __future__ import annotations

from typing import Any

import pytest

from factory.control.gates import Open, judge
from factory.domain.datasets import VersionState
from factory.domain.ids import AttemptId, DatasetName, JobId, PoolName
from factory.domain.jobs import JobState, Waiting, WaitReason
from factory.domain.pools import Isolation, Pool
from factory.domain.tenancy import PLATFORM, Principal, Role
from factory.errors import ConflictError, ForbiddenError, InvalidRequestError, NotFoundError
from factory.schemas.datasets import RegisterRequest
from factory.schemas.pools import PoolSettings
from factory.schemas.runner import JoinRequest, NodeReport

from .world import ANNA, NOW, PAUL, ROOT, SERIES, World, command, training

ADMIN = Principal("ada", Role.ADMIN, ANNA.tenant)
KEY = Principal("key-1", Role.RUNNER, None)
RESTRICTED = {**SERIES, "class": "restricted"}


def join(world: World, *pools: str, runner: str = "site", **fields: Any) -> tuple[str, ...]:
    nodes = tuple(
        NodeReport(
            id=f"{name}-1", pool=name, flavor=name, slot_cpu_milli=1000, slot_memory_bytes=1 << 30, slot_gpu_milli=0,
            cpu_milli=4000, memory_bytes=8 << 30,
        )
        for name in pools
    )  # fmt: skip
    request = JoinRequest(runner=runner, incarnation="i", release="0", ray_version="2.60", nodes=nodes, **fields)
    return world.pools.join(KEY, request, now=NOW).notes


def settings(world: World, name: str = "cpu", **fields: Any) -> Pool:
    world.pools.set_pool(ROOT, PoolName(name), PoolSettings(**fields), now=NOW)
    return pool_of(world, name)


def pool_of(world: World, name: str) -> Pool:
    return next(p for p in world.store.read(lambda tx: tx.pools(PLATFORM)) if p.name == name)


def own(world: World, tenant: str = "mobility", name: str = "cpu") -> Pool:
    return settings(world, name, isolation="tenant", tenant=tenant)


def live(world: World, who: Principal = ANNA) -> AttemptId:
    return world.start(world.jobs.submit(who, command(), now=NOW).job.id)


# --- who says what a pool is ------------------------------------------------------------------------------------------


def test_the_first_join_says_what_the_pools_are(world: World) -> None:
    assert join(world, "a", "b", isolation="tenant", tenant="parks", self_fence_s=60) == ()
    for name in ("a", "b"):
        found = pool_of(world, name)
        assert (found.isolation, found.tenant, found.self_fence_s) == (Isolation.TENANT, "parks", 60)
    assert [p.name for p in world.pools.list_pools(ANNA)] == ["cpu"]


def test_a_later_join_changes_what_its_join_said(world: World) -> None:
    join(world, "a")
    assert join(world, "a", isolation="tenant", tenant="parks") == ()
    assert pool_of(world, "a").tenant == "parks"


def test_what_an_admin_set_survives_the_join_and_holds_for_new_pools_of_the_cluster(world: World) -> None:
    join(world, "a")
    own(world, "parks", "a")
    (note,) = join(world, "a", "b", self_fence_s=60)
    assert "as an admin set it" in note
    for name in ("a", "b"):
        assert (pool_of(world, name).tenant, pool_of(world, name).self_fence_s) == ("parks", None)


def test_isolation_is_the_whole_clusters_and_self_fence_one_pools(world: World) -> None:
    join(world, "a", "b")
    settings(world, "a", isolation="tenant", tenant="parks", self_fence_s=60)
    assert (pool_of(world, "b").tenant, pool_of(world, "b").self_fence_s) == ("parks", None)
    assert pool_of(world, "cpu").isolation is Isolation.SHARED, "the pool of another runner stays"


def test_a_join_that_live_attempts_forbid_keeps_what_is_and_says_so(world: World) -> None:
    live(world, ANNA)
    (note,) = join(world, runner="runner-1", isolation="tenant", tenant="parks")
    assert "1 live attempt of other tenants than 'parks'" in note
    assert pool_of(world, "cpu").isolation is Isolation.SHARED


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"isolation": "tenant"}, InvalidRequestError),
        ({"isolation": "tenant", "tenant": "park"}, NotFoundError),
        ({"isolation": "shared", "tenant": "parks"}, InvalidRequestError),
        ({"tenant": "parks"}, InvalidRequestError),
    ],
)
def test_isolation_and_tenant_go_together(world: World, fields: dict[str, Any], error: type[Exception]) -> None:
    before = pool_of(world, "cpu")
    with pytest.raises(error):
        settings(world, **fields)
    assert pool_of(world, "cpu") == before
    if "isolation" in fields:
        with pytest.raises(error):
            join(world, "a", **fields)


def test_only_the_platform_sets_pools_and_every_change_is_audited(world: World) -> None:
    with pytest.raises(ForbiddenError):
        world.pools.set_pool(ADMIN, PoolName("cpu"), PoolSettings(self_fence_s=60), now=NOW)
    with pytest.raises(NotFoundError, match="did you mean 'cpu'"):
        settings(world, "cpx", self_fence_s=60)
    settings(world, self_fence_s=60)
    settings(world, self_fence_s=60)
    assert [r.action for r in world.store.audit_rows()].count("pool.set") == 1


# --- what live attempts forbid ----------------------------------------------------------------------------------------


def test_a_pool_with_foreign_attempts_becomes_nobodys_own(world: World) -> None:
    attempts = [live(world, PAUL), live(world, PAUL), live(world, ANNA)]
    with pytest.raises(ConflictError, match="2 live attempts of other tenants than 'mobility'"):
        own(world)
    for attempt in attempts[:2]:
        world.end(attempt)
    assert own(world).tenant == "mobility", "its own attempts go on"


def test_a_pool_that_leaves_its_tenant_holds_no_attempt_of_it(world: World) -> None:
    own(world)
    attempt = live(world, ANNA)
    for fields in ({"isolation": "shared"}, {"isolation": "tenant", "tenant": "parks"}):
        with pytest.raises(ConflictError, match="1 live attempt of tenant 'mobility'"):
            settings(world, **fields)
    world.end(attempt)
    assert settings(world, isolation="shared").isolation is Isolation.SHARED


def test_self_fence_changes_only_while_nothing_runs(world: World) -> None:
    assert settings(world, self_fence_s=60).self_fence_s == 60
    attempt = live(world)
    for wanted in (0, 90):
        with pytest.raises(ConflictError, match="self-fence changes only while nothing runs"):
            settings(world, self_fence_s=wanted)
    settings(world, self_fence_s=60)
    world.end(attempt)
    assert settings(world, self_fence_s=0).self_fence_s is None


# --- data above class `internal` --------------------------------------------------------------------------------------


def test_restricted_data_is_refused_where_pools_are_shared_and_says_how_to_go_on(world: World) -> None:
    with pytest.raises(
        InvalidRequestError, match="class 'restricted' is handled only on a pool of the tenant's own"
    ) as e:
        world.register("secret", RESTRICTED)
    assert e.value.hint.endswith("factory pools set POOL --isolation tenant --tenant mobility")


def test_restricted_data_ingests_and_trains_on_the_tenants_pool(world: World) -> None:
    join(world, "open")
    own(world)
    version = world.version_of(world.ingest("secret", contract=RESTRICTED))
    assert version.state is VersionState.PUBLISHED
    ingest = world.store.read(lambda tx: tx.job(PLATFORM, JobId(version.job or "")))
    assert ingest is not None
    assert ingest.spec.pool == "cpu"
    trained = world.jobs.submit(ANNA, training(data="secret", pool="cpu"), now=NOW).job
    assert trained.state is JobState.QUEUED
    with pytest.raises(InvalidRequestError, match="pool 'open' is shared with other tenants"):
        world.jobs.submit(ANNA, training(data="secret", pool="open"), now=NOW)
    with pytest.raises(InvalidRequestError, match="no pool is named"):
        world.jobs.submit(ANNA, training(data="secret"), now=NOW)


def test_a_pool_that_is_shared_again_holds_the_jobs_with_restricted_data(world: World) -> None:
    own(world)
    world.ingest("secret", contract=RESTRICTED)
    training_job = world.jobs.submit(ANNA, training(data="secret", pool="cpu"), now=NOW).job
    upload = world.upload(b"more")
    request = RegisterRequest(upload=upload, contract=RESTRICTED)
    version = world.datasets.register(ANNA, DatasetName("secret"), request, now=NOW).version
    ingest_job = world.store.read(lambda tx: tx.job(PLATFORM, JobId(version.job or "")))
    assert ingest_job is not None
    outputs = {"clean": {"dataset": "clean", "contract": RESTRICTED}}
    writing_job = world.jobs.submit(ANNA, command(outputs=outputs, pool="cpu"), now=NOW).job
    settings(world, isolation="shared")
    for job in (training_job, ingest_job, writing_job):
        verdict = world.store.read(lambda tx, job=job: judge(tx, job))
        assert isinstance(verdict, Waiting)
        assert verdict.reason is WaitReason.DATASET_GATE_FAILED
        assert "pool 'cpu' is shared with other tenants" in verdict.message
        assert "--isolation tenant --tenant mobility" in verdict.hint
    own(world)
    for job in (training_job, ingest_job, writing_job):
        assert world.store.read(lambda tx, job=job: judge(tx, job)) == Open()
