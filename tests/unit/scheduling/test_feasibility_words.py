"""What is told of a job that could never run: each sentence with its numbers, its hint, and when it is silent."""

from __future__ import annotations

from dataclasses import replace

import pytest

from factory.domain.ids import PoolName, TenantId
from factory.domain.jobs import JobSpec, Topology, Waiting, WaitReason
from factory.domain.pools import Node, NodeState, Pool
from factory.domain.tenancy import Queue
from factory.scheduling.feasibility import check_feasible, least_of, mismatch, obstacle
from factory.testing.builders import node, pool, queue, snapshot, spec

CPU = pool("cpu", cpu=1, memory_gib=4)
SSD = pool("ssd", cpu=1, memory_gib=4)
GPU = pool("gpu", cpu=4, memory_gib=16, gpu=1)
MOBILITY = TenantId("mobility")


def asked(**what: object) -> JobSpec:
    changed = {key: what.pop(key) for key in ("flavors", "gpu_models", "topology", "min_replicas") if key in what}
    return replace(spec(**what), **changed)  # pyright: ignore[reportArgumentType]


def never(row: JobSpec, *things: Pool | Node | Queue) -> Waiting:
    found = check_feasible(snapshot(*things), row, MOBILITY)
    assert found is not None
    return found


def may(row: JobSpec, *things: Pool | Node | Queue) -> bool:
    return check_feasible(snapshot(*things), row, MOBILITY) is None


# -- the gang ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("topology", "how", "largest"),
    [
        (Topology.ANY, "at once", 9),
        (Topology.ONE_NODE, "on one node", 4),
        (Topology.SAME_ZONE, "in one zone", 5),
        (Topology.SPREAD, "on nodes of their own", 3),
    ],
)
def test_how_the_gang_must_lie_is_told(topology: Topology, how: str, largest: int) -> None:
    nodes = (node("n1", cpu=4, zone="east"), node("n2", cpu=3, zone="west"), node("n3", cpu=2, zone="west"))
    assert may(asked(replicas=largest, topology=topology), CPU, queue(), *nodes)
    found = never(asked(replicas=largest + 1, topology=topology), CPU, queue(), *nodes)
    assert found == Waiting(
        WaitReason.GANG_DOES_NOT_FIT,
        f"needs {largest + 1} x 1 cpu {how}, but 3 nodes of pool 'cpu' could hold at most {largest} when idle",
        f"ask for at most {largest} replicas",
        (("asked_replicas", largest + 1), ("largest_gang", largest), ("nodes", 3), ("pool", "cpu")),
    )


def test_a_gang_that_may_be_smaller_is_judged_by_the_least() -> None:
    things = (CPU, queue(), node("n1", cpu=3))
    assert least_of(asked(replicas=9)) == 9
    assert least_of(asked(replicas=9, min_replicas=3)) == 3
    assert may(asked(replicas=9, min_replicas=3), *things)
    assert never(asked(replicas=9, min_replicas=4), *things).message.startswith("needs 4 x 1 cpu at once")


def test_gpu_models_that_no_node_has_are_named() -> None:
    things = (GPU, queue(), node("g1", pool="gpu", gpus=2, gpu_model="a100"))
    found = never(asked(gpu=1, gpu_models=("h100", "h200")), *things)
    assert found.message == (
        "needs 1 x 1 gpu + 1 cpu on h100 and h200 at once, but 1 node of pool 'gpu' could hold at most 0 when idle"
    )
    assert found.hint == "ask for less per replica (see: factory nodes)"
    assert may(asked(gpu=1, gpu_models=("h100", "a100")), *things)


def test_one_replica_at_most_is_singular() -> None:
    assert never(asked(cpu=2, replicas=2), CPU, queue(), node("n1", cpu=3)).hint == "ask for at most 1 replica"


@pytest.mark.parametrize("state", list(NodeState))
def test_nodes_count_whatever_their_state(state: NodeState) -> None:
    assert may(asked(cpu=4), CPU, queue(), node("n1", cpu=4, state=state))


# -- quota -------------------------------------------------------------------------------------------------------------


def test_the_most_that_a_queue_may_hold_is_told_with_its_parts() -> None:
    found = never(asked(cpu=4), CPU, queue("mobility", quota={"cpu": 2}, borrowing=1), node("n1", cpu=9))
    assert found == Waiting(
        WaitReason.EXCEEDS_MAX_QUOTA,
        "needs 4 slots (1 x 4 cpu) in pool 'cpu', but queue 'mobility' may never hold more than 3 slots there "
        "(2 slots nominal, 1 slot of it borrowed at most)",
        "ask for less, or ask an operator for more quota (see: factory queues)",
        (("asked_milli", 4000), ("pool", "cpu"), ("potential_milli", 3000), ("queue", "mobility")),
    )


def test_a_queue_without_a_borrowing_limit_is_told_of_none() -> None:
    tree = (queue("city", quota={"cpu": 0}), queue("mobility", parent="city", quota={"cpu": 2}, borrowing=None))
    found = never(asked(cpu=4), CPU, *tree, node("n1", cpu=9))
    assert found.message.endswith("may never hold more than 2 slots there (2 slots nominal)")
    assert may(asked(cpu=2), CPU, *tree, node("n1", cpu=9))


def test_less_than_nothing_is_told_as_nothing() -> None:
    keeps = queue("water", quota={"cpu": 9}, lending=0)
    found = never(asked(cpu=1), CPU, queue(), keeps, node("n1", cpu=4))
    assert "may never hold more than 0 slots" in found.message
    assert dict(found.numbers)["potential_milli"] == 0


def test_quota_is_told_before_nodes_and_is_judged_for_the_least() -> None:
    limited = queue("mobility", quota={"cpu": 2})
    assert never(asked(replicas=9), CPU, limited, node("n1", cpu=1)).reason is WaitReason.EXCEEDS_MAX_QUOTA
    assert may(asked(replicas=9, min_replicas=2), CPU, limited, node("n1", cpu=2))


# -- several pools -----------------------------------------------------------------------------------------------------


def test_of_several_obstacles_the_first_in_precedence_is_told() -> None:
    limited = queue("mobility", quota={"ssd": 2})
    things = (CPU, SSD, limited, node("n1", cpu=1), node("s1", pool="ssd", cpu=9))
    assert never(asked(cpu=4), *things).reason is WaitReason.EXCEEDS_MAX_QUOTA
    assert never(asked(cpu=4, pool="cpu"), *things).reason is WaitReason.GANG_DOES_NOT_FIT
    assert may(asked(cpu=4), *things, pool("zz", cpu=1, memory_gib=4), node("z1", pool="zz", cpu=4))


def test_an_obstacle_is_that_of_one_pool() -> None:
    snap = snapshot(CPU, SSD, queue(), node("n1", cpu=1), node("s1", pool="ssd", cpu=9))
    assert obstacle(snap, asked(cpu=4), CPU) is not None
    assert obstacle(snap, asked(cpu=4), SSD) is None
    assert mismatch(snap, asked(cpu=4), MOBILITY, (CPU,)) is None


# -- what is wrong with the job itself ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "field", "message"),
    [
        (asked(queue="nowhere"), "queue", "there is no queue 'nowhere'"),
        (asked(replicas=0), "replicas", "replicas is 0; a gang has at least 1"),
        (asked(replicas=-3), "replicas", "replicas is -3; a gang has at least 1"),
        (
            asked(replicas=2, min_replicas=0), "min_replicas",
            "min_replicas is 0; it must be from 1 to replicas, which is 2",
        ),
        (
            asked(replicas=2, min_replicas=3), "min_replicas",
            "min_replicas is 3; it must be from 1 to replicas, which is 2",
        ),
        (asked(cpu=-1), "resources", "asks for less than nothing of a resource"),
        (asked(gpu=2.5), "resources.gpu", "asks for 2.5 gpu; above one GPU only whole GPUs can be given"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_by_its_field(row: JobSpec, field: str, message: str) -> None:
    found = never(row, CPU, GPU, queue(), node("n1"))
    assert (found.reason, found.message, dict(found.numbers)["field"]) == (WaitReason.MISCONFIGURED, message, field)


def test_a_part_of_a_gpu_too_many_is_told_with_what_may_be_asked_for() -> None:
    found = never(asked(gpu=2.5), GPU, queue())
    assert found.hint == "ask for 2 or 3"
    assert dict(found.numbers)["asked_milli"] == 2500
    for gpu in (0.5, 1, 2, 3):
        assert may(asked(gpu=gpu), GPU, queue(), node("g1", pool="gpu", gpus=4))


def test_an_unknown_queue_is_told_before_anything_else() -> None:
    assert "no queue" in never(asked(queue="x", replicas=0, cpu=-1), CPU, queue()).message
    assert never(asked(queue="x"), CPU, queue()).hint == "see: factory queues"


# -- no pool matches ---------------------------------------------------------------------------------------------------


def test_an_unknown_pool_is_told_with_one_that_may_be_meant() -> None:
    found = never(asked(pool="gpuu"), CPU, GPU, queue())
    assert found.message.startswith("there is no pool 'gpuu'")
    assert "gpu" in found.message[len("there is no pool 'gpuu'") :]
    assert dict(found.numbers) == {"pool": "gpuu"}


def test_unknown_flavors_are_told_only_if_none_of_them_is_known() -> None:
    found = never(asked(flavors=("tpu", "npu")), CPU, GPU, queue())
    assert found.message.startswith("there is no flavor 'tpu' and 'npu'")
    assert dict(found.numbers) == {"asked": "tpu,npu", "offered": "cpu,gpu"}
    partly = never(asked(gpu=1, flavors=("tpu", "cpu")), CPU, GPU, queue())
    assert partly.message == "asks for gpu and cpu on one node; pool 'cpu' offers cpu and memory"
    assert may(asked(flavors=("tpu", "cpu")), CPU, queue(), node("n1"))


def test_what_each_pool_offers_is_told() -> None:
    found = never(asked(gpu=1), CPU, SSD, queue())
    assert found.message == (
        "asks for gpu and cpu on one node; pool 'cpu' offers cpu and memory; pool 'ssd' offers cpu and memory"
    )
    assert dict(found.numbers) == {"asked": "gpu,cpu", "offered": "cpu,ssd"}
    assert found.hint == "see: factory pools"


def test_pools_that_are_another_tenants_do_not_exist() -> None:
    vault = pool("vault", cpu=1, memory_gib=4, tenant="water")
    assert never(asked(), vault, queue()).message == "asks for cpu on one node; no pool has joined"
    assert never(asked(pool="vault"), vault, queue()).message.startswith("there is no pool 'vault'")
    own = pool("vault", cpu=1, memory_gib=4, tenant="mobility")
    assert may(asked(pool="vault"), own, queue(), node("n1", pool="vault"))


def test_a_named_pool_that_lacks_something_is_the_only_one_told_of() -> None:
    found = never(asked(gpu=1, pool=PoolName("cpu")), CPU, GPU, queue())
    assert found.message == "asks for gpu and cpu on one node; pool 'cpu' offers cpu and memory"
    assert dict(found.numbers)["offered"] == "cpu"
