"""In which order a pool's slots are given out: a policy by its name, set by an admin while work goes on."""

from __future__ import annotations

import pytest

from factory.domain.ids import PoolName
from factory.domain.tenancy import PLATFORM
from factory.errors import ForbiddenError, InvalidRequestError
from factory.scheduling.policies import registry as scheduler
from factory.schemas.platform import PoolView
from factory.schemas.pools import POLICIES, PoolSettings

from .world import ANNA, NOW, ROOT, World, command


def put(world: World, policy: str) -> PoolView:
    return world.pools.set_pool(ROOT, PoolName("cpu"), PoolSettings(policy=policy), now=NOW)


def test_a_pools_policy_is_fair_until_it_is_set(world: World) -> None:
    assert [p.policy for p in world.pools.list_pools(ANNA)] == ["fair"]
    world.start(world.jobs.submit(ANNA, command(), now=NOW).job.id)  # a live attempt is not in the way
    assert put(world, "fifo").policy == "fifo"
    assert [p.policy for p in world.pools.list_pools(ANNA)] == ["fifo"]
    assert put(world, "fifo").policy == "fifo"
    assert [row.action for row in world.store.audit_rows()].count("pool.policy") == 1


def test_a_policy_says_nothing_of_whose_the_pool_is(world: World) -> None:
    put(world, "shortest")
    (pool,) = world.store.read(lambda tx: tx.pools(PLATFORM))
    assert (pool.policy, pool.set_by) == ("shortest", "")


def test_an_unknown_policy_is_refused_with_a_suggestion(world: World) -> None:
    with pytest.raises(InvalidRequestError, match="did you mean 'fifo'") as refused:
        put(world, "fifo-order")
    assert refused.value.facts["field"] == "policy"


def test_only_the_platform_sets_a_policy(world: World) -> None:
    with pytest.raises(ForbiddenError):
        world.pools.set_pool(ANNA, PoolName("cpu"), PoolSettings(policy="fifo"), now=NOW)


def test_the_names_on_the_wire_are_those_of_the_scheduler() -> None:
    assert set(POLICIES) == set(scheduler.POLICIES)
    assert POLICIES[0] == scheduler.DEFAULT.name
