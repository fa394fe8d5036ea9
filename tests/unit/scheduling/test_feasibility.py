"""What is refused at submit, because no idle factory could ever run it."""

from __future__ import annotations

from dataclasses import replace

from factory.domain.ids import TenantId
from factory.domain.jobs import JobSpec, Waiting, WaitReason
from factory.domain.pools import Node, NodeState, Pool
from factory.domain.tenancy import Queue
from factory.scheduling.feasibility import check_feasible
from factory.testing.builders import allocation, job, node, pool, queue, running, snapshot, spec

CPU = pool("cpu")
GPU = pool("gpu", cpu=4, memory_gib=16, gpu=1)


def check(asked: JobSpec, *things: Pool | Node | Queue, tenant: str = "mobility") -> Waiting | None:
    return check_feasible(snapshot(queue(), *things), asked, TenantId(tenant))


def reason(found: Waiting | None) -> WaitReason:
    assert found is not None
    return found.reason


def test_a_job_that_fits_an_idle_node_is_feasible() -> None:
    assert check(spec(cpu=8), CPU, node("n1", cpu=8)) is None


def test_what_runs_now_makes_nothing_infeasible() -> None:
    busy = running(job("job-a", cpu=8), allocation(["n1"], pool=CPU, cpu=8))
    assert check_feasible(snapshot(queue(), CPU, node("n1", cpu=8), busy), spec(cpu=8), TenantId("mobility")) is None


def test_an_unknown_pool_is_told_with_the_name_that_may_be_meant() -> None:
    found = check(spec(pool="cpus"), CPU, node("n1"))
    assert found is not None
    assert found.reason is WaitReason.NO_MATCHING_FLAVOR
    assert "did you mean 'cpu'" in found.message


def test_a_pool_whose_slots_lack_a_resource_does_not_match() -> None:
    found = check(spec(gpu=1), CPU, node("n1"))
    assert found is not None
    assert found.reason is WaitReason.NO_MATCHING_FLAVOR
    assert dict(found.numbers) == {"asked": "gpu,cpu", "offered": "cpu"}
    assert found.message == "asks for gpu and cpu on one node; pool 'cpu' offers cpu and memory"


def test_the_named_pool_must_match_even_if_another_would() -> None:
    found = check(spec(gpu=1, pool="cpu"), CPU, GPU, node("n1"), node("n2", pool="gpu", gpus=1))
    assert reason(found) is WaitReason.NO_MATCHING_FLAVOR


def test_a_factory_without_pools_says_so() -> None:
    found = check(spec())
    assert found is not None
    assert "no pool has joined" in found.message


def test_the_pool_of_another_tenant_does_not_exist() -> None:
    private = pool("vault", tenant="water")
    found = check(spec(pool="vault"), private, CPU, node("n1", pool="vault"))
    assert found is not None
    assert found.message == "there is no pool 'vault'"
    assert check(spec(pool="vault"), private, node("n1", pool="vault"), tenant="water") is None


def test_a_gang_larger_than_all_nodes_is_told_the_largest_that_would_fit() -> None:
    found = check(spec(cpu=3, replicas=6), CPU, node("n1", cpu=8), node("n2", cpu=7))
    assert found is not None
    assert found.reason is WaitReason.GANG_DOES_NOT_FIT
    assert dict(found.numbers)["largest_gang"] == 4
    assert found.message == "needs 6 x 3 cpu at once, but 2 nodes of pool 'cpu' could hold at most 4 when idle"


def test_a_replica_larger_than_any_node_fits_nowhere() -> None:
    found = check(spec(cpu=9), CPU, node("n1", cpu=8), node("n2", cpu=8))
    assert found is not None
    assert dict(found.numbers)["largest_gang"] == 0


def test_gpus_of_a_gang_are_counted_by_device() -> None:
    nodes = [node("n1", pool="gpu", cpu=64, gpus=3), node("n2", pool="gpu", cpu=64, gpus=1)]
    assert check(spec(gpu=2, replicas=1), GPU, *nodes) is None
    assert reason(check(spec(gpu=2, replicas=2), GPU, *nodes)) is WaitReason.GANG_DOES_NOT_FIT
    assert check(spec(gpu=0.6, replicas=4), GPU, *nodes) is None
    assert reason(check(spec(gpu=0.6, replicas=5), GPU, *nodes)) is WaitReason.GANG_DOES_NOT_FIT


def test_nodes_that_are_lost_or_draining_may_come_back() -> None:
    nodes = [node("n1", cpu=4, state=NodeState.LOST), node("n2", cpu=4, state=NodeState.DRAINING)]
    assert check(spec(cpu=4, replicas=2), CPU, *nodes) is None


def test_a_pool_that_has_no_nodes_yet_rules_nothing_out() -> None:
    assert check(spec(cpu=1000), CPU) is None


def test_more_than_nominal_and_borrowing_is_more_than_the_quota_ever_gives() -> None:
    nodes = [node("n1", cpu=64)]
    limited = queue("mobility", quota={"cpu": 4}, borrowing=2)
    assert check(spec(replicas=6), CPU, *nodes, limited) is None
    found = check(spec(replicas=7), CPU, *nodes, limited)
    assert found is not None
    assert found.reason is WaitReason.EXCEEDS_MAX_QUOTA
    assert dict(found.numbers) == {
        "pool": "cpu", "queue": "mobility", "asked_milli": 7000, "potential_milli": 6000,
    }  # fmt: skip


def test_what_others_keep_for_themselves_cannot_be_borrowed() -> None:
    lines = [
        queue("city"),
        queue("mobility", parent="city", quota={"cpu": 2}, borrowing=8),
        queue("water", parent="city", quota={"cpu": 4}, lending=1),
    ]
    assert check(spec(replicas=3), CPU, node("n1", cpu=64), *lines) is None
    found = check(spec(replicas=11), CPU, node("n1", cpu=64), *lines)
    assert reason(found) is WaitReason.EXCEEDS_MAX_QUOTA
    assert found is not None
    assert dict(found.numbers)["potential_milli"] == 10_000


def test_the_nominal_of_a_queue_above_comes_on_top_of_those_below() -> None:
    city = queue("city", quota={"cpu": 2})
    mobility = queue("mobility", parent="city", quota={"cpu": 4}, borrowing=None)
    assert check(spec(replicas=6), CPU, node("n1", cpu=64), city, mobility) is None
    found = check(spec(replicas=7), CPU, node("n1", cpu=64), city, mobility)
    assert reason(found) is WaitReason.EXCEEDS_MAX_QUOTA


def test_borrowing_without_limit_rules_nothing_out() -> None:
    assert check(spec(replicas=9), CPU, node("n1", cpu=64), queue("mobility", quota={"cpu": 1}, borrowing=None)) is None


def test_one_pool_that_could_run_it_is_enough() -> None:
    limited = queue("mobility", quota={"cpu": 1})
    assert check(spec(cpu=2), CPU, GPU, node("n1"), node("n2", pool="gpu"), limited) is None


def test_a_fraction_above_one_gpu_is_misconfigured() -> None:
    found = check(spec(gpu=1.5), GPU, node("n1", pool="gpu", gpus=2))
    assert found is not None
    assert found.reason is WaitReason.MISCONFIGURED
    assert found.hint == "ask for 1 or 2"


def test_an_unknown_queue_is_misconfigured() -> None:
    assert reason(check(spec(queue="nowhere"), CPU, node("n1"))) is WaitReason.MISCONFIGURED


def test_an_empty_gang_and_less_than_nothing_are_misconfigured() -> None:
    assert reason(check(spec(replicas=0), CPU, node("n1"))) is WaitReason.MISCONFIGURED
    assert reason(check(replace(spec(), resources=spec(cpu=-1).resources), CPU, node("n1"))) is WaitReason.MISCONFIGURED
