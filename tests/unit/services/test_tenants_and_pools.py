"""Keys and who they are, queues and their tree; pools and nodes as runners report them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from factory.domain.ids import KeyId, NodeId, QueueName, RunnerId, TenantId
from factory.domain.pools import NodeState
from factory.domain.tenancy import PLATFORM, Principal, Role
from factory.errors import (
    ConflictError,
    FactoryError,
    ForbiddenError,
    InvalidRequestError,
    NotFoundError,
    UnauthenticatedError,
    UnknownPoolError,
    UnsupportedError,
)
from factory.pools.service import StaleRunnerError, apply_nodes, current_runner
from factory.schemas.platform import KeyRequest, QueueRequest, TenantRequest
from factory.schemas.runner import JoinRequest, NodeReport
from factory.tenants.service import KEY_CACHE_MS
from factory.testing.builders import node, pool

from .world import ANNA, NOW, PAUL, ROOT, World, command

ADMIN = Principal("ada", Role.ADMIN, TenantId("mobility"))


def actions(world: World) -> list[str]:
    return [row.action for row in world.store.audit_rows()]


# --- keys -------------------------------------------------------------------------------------------------------------


def test_a_key_says_who_calls(world: World) -> None:
    made = world.tenants.create_key(ROOT, KeyRequest(role=Role.OPERATOR, tenant="mobility"), now=NOW)
    assert made.secret.startswith(f"fak_{made.id}_")
    assert world.tenants.authenticate(made.secret, now=NOW) == Principal(made.id, Role.OPERATOR, TenantId("mobility"))


def test_a_secret_is_nowhere_in_the_rows(world: World) -> None:
    made = world.tenants.create_key(ROOT, KeyRequest(role=Role.PLATFORM), now=NOW)
    rows = repr(
        (world.store.read(lambda tx: tx.keys(PLATFORM)), world.store.audit_rows(), world.tenants.list_keys(ROOT))
    )
    assert made.id in rows
    assert made.secret.rpartition("_")[2] not in rows


@pytest.mark.parametrize("wrong", ["", "fak_", "nonsense", "other-id", "other-secret", "longer"])
def test_a_wrong_secret_is_refused(world: World, wrong: str) -> None:
    secret = world.tenants.create_key(ROOT, KeyRequest(role=Role.PLATFORM), now=NOW).secret
    bad = {
        "other-id": f"fak_{'a' * 8}_{secret[-43:]}",
        "other-secret": secret[:-1] + ("A" if secret[-1] != "A" else "B"),
        "longer": secret + "A",
    }.get(wrong, wrong)
    with pytest.raises(UnauthenticatedError):
        world.tenants.authenticate(bad, now=NOW)


def test_an_expired_key_is_refused_also_from_the_cache(world: World) -> None:
    request = KeyRequest(role=Role.PLATFORM, expires_at=NOW + 100)
    secret = world.tenants.create_key(ROOT, request, now=NOW).secret
    world.tenants.authenticate(secret, now=NOW + 99)
    with pytest.raises(UnauthenticatedError):
        world.tenants.authenticate(secret, now=NOW + 100)


def test_a_revoked_key_ends_here_at_once_and_elsewhere_soon(world: World) -> None:
    made = world.tenants.create_key(ROOT, KeyRequest(role=Role.PLATFORM), now=NOW)
    elsewhere = type(world.tenants)(world.store, secrets=bytes)
    elsewhere.authenticate(made.secret, now=NOW)
    world.tenants.authenticate(made.secret, now=NOW)
    assert world.tenants.revoke_key(ROOT, KeyId(made.id), now=NOW).revoked_at == NOW
    with pytest.raises(UnauthenticatedError):
        world.tenants.authenticate(made.secret, now=NOW)
    with pytest.raises(UnauthenticatedError):
        elsewhere.authenticate(made.secret, now=NOW + KEY_CACHE_MS)
    assert actions(world)[-2:] == ["key.create", "key.revoke"]


@pytest.mark.parametrize(
    ("who", "request_", "error"),
    [
        (ANNA, {"role": Role.VIEWER}, ForbiddenError),
        (ADMIN, {"role": Role.PLATFORM}, ForbiddenError),
        (ADMIN, {"role": Role.VIEWER, "tenant": "parks"}, ForbiddenError),
        (ROOT, {"role": Role.VIEWER}, InvalidRequestError),
        (ROOT, {"role": Role.RUNNER, "tenant": "parks"}, InvalidRequestError),
        (ROOT, {"role": Role.VIEWER, "tenant": "park"}, NotFoundError),
    ],
)
def test_who_may_make_which_key(
    world: World, who: Principal, request_: dict[str, Any], error: type[FactoryError]
) -> None:
    with pytest.raises(error):
        world.tenants.create_key(who, KeyRequest(**request_), now=NOW)
    assert world.tenants.list_keys(ROOT) == ()


def test_an_admin_governs_the_keys_of_its_tenant_only(world: World) -> None:
    theirs = world.tenants.create_key(ROOT, KeyRequest(role=Role.VIEWER, tenant="parks"), now=NOW)
    own = world.tenants.create_key(ADMIN, KeyRequest(role=Role.VIEWER), now=NOW)
    assert [k.id for k in world.tenants.list_keys(ADMIN)] == [own.id]
    with pytest.raises(NotFoundError):
        world.tenants.revoke_key(ADMIN, KeyId(theirs.id), now=NOW)


def test_the_ingress_accepts_valid_keys_of_people(world: World) -> None:
    operator = world.tenants.create_key(ROOT, KeyRequest(role=Role.OPERATOR, tenant="mobility"), now=NOW)
    world.tenants.create_key(ROOT, KeyRequest(role=Role.PLATFORM), now=NOW)
    world.tenants.create_key(ROOT, KeyRequest(role=Role.RUNNER), now=NOW)
    assert sorted(world.tenants.ingress_keys(now=NOW).values()) == ["*", "mobility"]
    world.tenants.revoke_key(ROOT, KeyId(operator.id), now=NOW)
    assert list(world.tenants.ingress_keys(now=NOW).values()) == ["*"]


# --- tenants and queues -----------------------------------------------------------------------------------------------


def test_a_tenant_comes_with_its_queue(world: World) -> None:
    before = len(actions(world))
    world.tenants.put_tenant(ROOT, TenantId("water"), TenantRequest(title="Water"), now=NOW)
    world.tenants.put_tenant(ROOT, TenantId("water"), TenantRequest(title="Water"), now=NOW + 1)
    assert [q.name for q in world.tenants.list_queues(ROOT) if q.tenant == "water"] == ["water"]
    assert len(actions(world)) == before + 1
    with pytest.raises(ForbiddenError):
        world.tenants.put_tenant(ADMIN, TenantId("fire"), TenantRequest(), now=NOW)


def test_a_tenant_sees_itself_only(world: World) -> None:
    assert [t.id for t in world.tenants.list_tenants(ANNA)] == ["mobility"]
    assert [q.name for q in world.tenants.list_queues(PAUL)] == ["parks"]
    assert [t.id for t in world.tenants.list_tenants(ROOT)] == ["mobility", "parks"]


def test_a_queue_shows_what_it_holds(world: World) -> None:
    request = QueueRequest.model_validate({"tenant": "mobility", "quotas": [{"pool": "cpu", "nominal": 2.5}]})
    world.tenants.put_queue(ROOT, QueueName("mobility"), request, now=NOW)
    world.start(world.jobs.submit(ANNA, command(), now=NOW).job.id)
    world.jobs.submit(ANNA, command(), now=NOW)
    view = next(q for q in world.tenants.list_queues(ANNA) if q.name == "mobility")
    assert (view.used, view.queued, view.running, view.quotas[0].nominal) == ({"cpu": 1.0}, 1, 1, 2.5)


@pytest.mark.parametrize(
    ("name", "request_", "error"),
    [
        ("q", {"tenant": "park"}, NotFoundError),
        ("q", {"tenant": "parks", "parent": "nobody"}, NotFoundError),
        ("q", {"tenant": "parks", "quotas": [{"pool": "cpux", "nominal": 1}]}, UnknownPoolError),
        (
            "q",
            {"tenant": "parks", "quotas": [{"pool": "cpu", "nominal": 1}, {"pool": "cpu", "nominal": 2}]},
            InvalidRequestError,
        ),
        ("parks", {"tenant": "parks", "parent": "parks"}, InvalidRequestError),
        ("Q q", {"tenant": "parks"}, InvalidRequestError),
    ],
)
def test_a_wrong_queue_is_refused(world: World, name: str, request_: dict[str, Any], error: type[FactoryError]) -> None:
    before = world.tenants.list_queues(ROOT)
    with pytest.raises(error):
        world.tenants.put_queue(ROOT, QueueName(name), QueueRequest.model_validate(request_), now=NOW)
    assert world.tenants.list_queues(ROOT) == before


def test_a_queue_tree_has_no_loop(world: World) -> None:
    def put(name: str, parent: str | None) -> None:
        request = QueueRequest(tenant="parks", parent=parent)
        world.tenants.put_queue(ROOT, QueueName(name), request, now=NOW)

    put("a", None)
    put("b", "a")
    put("c", "b")
    with pytest.raises(InvalidRequestError, match="its own ancestor"):
        put("a", "c")


def test_a_queue_in_use_is_not_deleted(world: World) -> None:
    world.tenants.put_queue(ROOT, QueueName("q"), QueueRequest(tenant="mobility"), now=NOW)
    job = world.jobs.submit(ANNA, command(queue="q"), now=NOW).job
    with pytest.raises(ConflictError, match="1 open job"):
        world.tenants.delete_queue(ROOT, QueueName("q"), now=NOW)
    with pytest.raises(ConflictError, match="own queue"):
        world.tenants.delete_queue(ROOT, QueueName("parks"), now=NOW)
    world.jobs.cancel(ANNA, job.id, now=NOW)
    world.tenants.delete_queue(ROOT, QueueName("q"), now=NOW)
    assert "q" not in [q.name for q in world.tenants.list_queues(ROOT)]


# --- pools and nodes --------------------------------------------------------------------------------------------------


def report(id: str = "g1", **changes: Any) -> NodeReport:
    fields: dict[str, Any] = {
        "id": id,
        "pool": "gpu",
        "flavor": "h100",
        "slot_cpu_milli": 4000,
        "slot_memory_bytes": 16 << 30,
        "slot_gpu_milli": 1000,
        "cpu_milli": 8000,
        "memory_bytes": 40 << 30,
        "devices": 2,
    }
    return NodeReport(**{**fields, **changes})


def join(
    world: World,
    *reports: NodeReport,
    runner: str = "gpus",
    incarnation: str = "one",
    who: Principal | None = None,
    **fields: Any,
) -> None:
    request = JoinRequest(
        runner=runner, incarnation=incarnation, release="0.1", ray_version="2.60", nodes=reports, **fields
    )
    world.pools.join(who or Principal(f"key-of-{runner}", Role.RUNNER, None), request, now=NOW)


def apply(world: World, *reports: NodeReport, now: int = NOW, incarnation: str = "one") -> list[tuple[str, NodeState]]:
    def work(tx: Any) -> list[tuple[str, NodeState]]:
        runner = current_runner(tx, RunnerId("gpus"), incarnation)
        return [(n.id, n.state) for n in apply_nodes(tx, runner, reports, now)]

    return world.store.transact(work)


def test_a_runner_brings_its_pools_and_nodes(world: World) -> None:
    join(world, report())
    view = next(p for p in world.pools.list_pools(ANNA) if p.name == "gpu")
    assert (view.flavor, view.runner, view.nodes, view.slots, view.used_slots) == ("h100", "gpus", 1, 2.0, 0)
    assert next(n for n in world.pools.list_nodes(ANNA) if n.id == "g1").gpus == 2


def test_a_node_is_shown_with_how_it_holds_memory_limits_and_a_changed_way_is_a_change(world: World) -> None:
    join(world, report(memory_limits="cgroup"))
    assert world.pools.node(ROOT, NodeId("g1")).memory_limits == "cgroup"
    assert apply(world, report(memory_limits="watchdog")) == [("g1", NodeState.READY)]
    assert next(n for n in world.pools.list_nodes(ANNA) if n.id == "g1").memory_limits == "watchdog"


def test_the_same_report_changes_nothing(world: World) -> None:
    join(world, report())
    head = world.store.read(lambda tx: tx.feed_head())
    assert apply(world, report()) == []
    assert world.store.read(lambda tx: tx.feed_head()) == head
    assert apply(world, report(), now=NOW + 60_000) == [], "a sign of life is written, and is no change"
    assert world.pools.node(ROOT, NodeId("g1")).seen_at == NOW + 60_000


def test_a_node_that_is_missing_or_dead_is_lost_until_it_reports_again(world: World) -> None:
    join(world, report("g1"), report("g2"))
    lost = NodeState.LOST
    assert apply(world, report("g1", is_alive=False)) == [("g1", lost), ("g2", lost)]
    assert apply(world, report("g1", is_alive=False)) == []
    assert apply(world, report("g1"), report("g2")) == [("g1", NodeState.READY), ("g2", NodeState.READY)]
    assert apply(world, report("g1"), report("g2"), report("g3", is_alive=False)) == []


def test_a_draining_node_stays_so_over_reports(world: World) -> None:
    join(world, report())
    assert world.pools.drain(ROOT, NodeId("g1"), now=NOW).state is NodeState.DRAINING
    assert apply(world, report()) == []
    assert apply(world, report(cpu_milli=7000)) == [("g1", NodeState.DRAINING)]
    assert world.pools.undrain(ROOT, NodeId("g1"), now=NOW).state is NodeState.READY
    assert actions(world)[-2:] == ["node.drain", "node.undrain"]
    with pytest.raises(ForbiddenError):
        world.pools.drain(ADMIN, NodeId("g1"), now=NOW)
    with pytest.raises(NotFoundError, match="did you mean 'g1'"):
        world.pools.drain(ROOT, NodeId("g11"), now=NOW)


def test_a_node_that_was_draining_when_it_was_lost_comes_back_draining(world: World) -> None:
    join(world, report())
    world.pools.drain(ROOT, NodeId("g1"), reason="new disks", now=NOW)
    assert apply(world) == [("g1", NodeState.LOST)]
    assert apply(world, report()) == [("g1", NodeState.DRAINING)]
    assert world.pools.node(ROOT, NodeId("g1")).drain == "new disks"
    assert world.pools.undrain(ROOT, NodeId("g1"), now=NOW).state is NodeState.READY


def test_a_lost_node_may_be_drained_and_undrained_for_its_return(world: World) -> None:
    join(world, report())
    apply(world)
    assert world.pools.drain(ROOT, NodeId("g1"), now=NOW).state is NodeState.LOST
    assert apply(world, report()) == [("g1", NodeState.DRAINING)]
    apply(world)
    assert world.pools.undrain(ROOT, NodeId("g1"), now=NOW).state is NodeState.LOST
    assert apply(world, report()) == [("g1", NodeState.READY)]


def test_only_a_lost_node_is_removed_and_it_may_come_back(world: World) -> None:
    join(world, report("g1"), report("g2"))
    with pytest.raises(ConflictError, match="it would be back at once"):
        world.pools.remove(ROOT, NodeId("g1"), now=NOW)
    apply(world, report("g2"))
    with pytest.raises(ForbiddenError):
        world.pools.remove(ADMIN, NodeId("g1"), now=NOW)
    world.pools.remove(ROOT, NodeId("g1"), now=NOW)
    assert [n.id for n in world.pools.list_nodes(ROOT)] == ["n1", "g2"]
    assert actions(world)[-1] == "node.remove"
    with pytest.raises(NotFoundError):
        world.pools.remove(ROOT, NodeId("g1"), now=NOW)
    assert apply(world, report("g1"), report("g2")) == [("g1", NodeState.READY)]


def test_a_lost_node_stays_while_attempts_on_it_are_not_proven_dead(world: World) -> None:
    job = world.jobs.submit(ANNA, command(), now=NOW).job
    attempt = world.start(job.id)
    world.store.transact(lambda tx: [tx.put_node(replace(n, state=NodeState.LOST)) for n in tx.nodes(PLATFORM)])
    with pytest.raises(ConflictError, match="holds 1 attempt not proven dead") as refused:
        world.pools.remove(ROOT, NodeId("n1"), now=NOW)
    assert refused.value.facts["attempts"] == [attempt]
    assert "factory nodes fence n1" in refused.value.hint
    world.jobs.fence_node(ROOT, NodeId("n1"), reason="its board burnt", now=NOW)
    world.pools.remove(ROOT, NodeId("n1"), now=NOW)
    assert world.pools.list_nodes(ROOT) == ()


def test_an_older_process_of_a_runner_is_stale(world: World) -> None:
    join(world, report())
    join(world, incarnation="two")
    with pytest.raises(StaleRunnerError, match="a newer process"):
        apply(world, report(), incarnation="one")
    assert apply(world, report(), incarnation="two") == [], "what the older one reported is not lost by the join"
    with pytest.raises(StaleRunnerError, match="has not joined"):
        world.store.read(lambda tx: current_runner(tx, RunnerId("other"), "one"))


def test_pools_and_nodes_belong_to_one_runner(world: World) -> None:
    join(world, report())
    with pytest.raises(ConflictError, match="pool 'gpu' belongs to runner 'gpus'"):
        join(world, report("h1"), runner="others")
    with pytest.raises(ConflictError, match="node 'g1' belongs to runner 'gpus'"):
        join(world, report("g1", pool="gpu-2"), runner="others")
    assert [r.id for r in world.store.read(lambda tx: tx.runners(PLATFORM))] == ["gpus", "runner-1"]


def test_another_protocol_is_refused(world: World) -> None:
    with pytest.raises(UnsupportedError, match="speaks protocol 2"):
        join(world, protocol=2)
    with pytest.raises(ForbiddenError):
        world.pools.join(ANNA, JoinRequest(runner="r", incarnation="i", release="0.1", ray_version="2.60"), now=NOW)


def test_a_node_shows_attempts_of_the_callers_tenant_only(world: World) -> None:
    attempt = world.start(world.jobs.submit(ANNA, command(), now=NOW).job.id)
    for who, seen in ((ANNA, (attempt,)), (PAUL, ()), (ROOT, (attempt,))):
        view = next(n for n in world.pools.list_nodes(who) if n.id == "n1")
        assert (view.used_cpu, view.attempts) == (1.0, seen)


def test_a_pool_of_another_tenant_is_not_listed(world: World) -> None:
    def fill(tx: Any) -> None:
        tx.put_pool(pool("own", tenant="parks"))
        tx.put_node(node("p1", pool="own"))

    world.store.transact(fill)
    assert [p.name for p in world.pools.list_pools(ANNA)] == ["cpu"]
    assert [p.name for p in world.pools.list_pools(PAUL)] == ["cpu", "own"]
    assert [n.id for n in world.pools.list_nodes(ANNA)] == ["n1"]
