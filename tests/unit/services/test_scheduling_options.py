"""What a job may say to the scheduler: its least gang, flavors, GPU models, topology, estimate; and its priority."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from factory.domain.events import PriorityChanged
from factory.domain.ids import JobId
from factory.domain.jobs import PriorityClass, Topology
from factory.errors import ConflictError, ForbiddenError, InvalidRequestError, NotFoundError
from factory.jobs.service import _fingerprint
from factory.schemas.jobs import JobSpec
from factory.testing.builders import pool

from .world import ANNA, NOW, PAUL, VIEWER, World, command


def test_what_a_job_says_to_the_scheduler_is_stored_and_shown(world: World) -> None:
    said = {"min_replicas": 2, "flavors": ["cpu", "cpu"], "topology": "one-node", "estimate_s": 90}
    spec = world.jobs.submit(ANNA, command(cpu=1, replicas=3, **said), now=NOW).job.spec
    assert (spec.min_replicas, spec.flavors, spec.topology, spec.estimate_s) == (2, ("cpu",), Topology.ONE_NODE, 90)
    view = world.jobs.view(ANNA, world.jobs.submit(ANNA, command(estimate_s=60), now=NOW).job.id, now=NOW)
    assert (view.estimate_s, view.min_replicas, view.topology) == (60, None, Topology.ANY)


@pytest.mark.parametrize(
    ("fields", "field", "says"),
    [
        ({"replicas": 2, "min_replicas": 3}, "min_replicas", "3 is more than replicas, which is 2"),
        ({"min_replicas": 0}, "min_replicas", "greater than or equal to 1"),
        ({"topology": "one-rack"}, "topology", "'one-node'"),
        ({"estimate_s": 0}, "estimate_s", "greater than or equal to 1"),
    ],
)
def test_a_wrong_option_is_refused_by_the_name_of_its_field(fields: dict[str, Any], field: str, says: str) -> None:
    with pytest.raises(ValidationError) as refused:
        command(**fields)
    (error,) = refused.value.errors()
    assert error["loc"] == (field,)
    assert says in error["msg"]


def test_an_unknown_flavor_is_refused_with_a_suggestion(world: World) -> None:
    with pytest.raises(InvalidRequestError, match="did you mean 'cpu'") as refused:
        world.jobs.submit(ANNA, command(flavors=["cpus"]), now=NOW)
    assert refused.value.facts["field"] == "flavors"


def test_the_flavor_of_another_tenants_pool_does_not_exist(world: World) -> None:
    world.store.transact(lambda tx: tx.put_pool(pool("parks-own", tenant="parks", flavor="h100")))
    with pytest.raises(InvalidRequestError, match="no flavor 'h100'") as refused:
        world.jobs.submit(ANNA, command(flavors=["h100"]), now=NOW)
    assert refused.value.facts["known"] == ["cpu"]


def test_a_pool_must_be_of_one_of_the_flavors(world: World) -> None:
    world.store.transact(lambda tx: tx.put_pool(pool("big", flavor="big")))
    with pytest.raises(InvalidRequestError, match="pool 'cpu' is of flavor 'cpu'"):
        world.jobs.submit(ANNA, command(pool="cpu", flavors=["big"]), now=NOW)


def test_a_key_of_the_first_release_still_names_the_same_body() -> None:
    body = {"name": "train", "command": {"argv": ["true"]}, "cpu": 2, "memory": "1GiB", "replicas": 2}
    spec = JobSpec.model_validate(body | {"labels": {"a": "b"}})
    # as the first release stored it
    assert _fingerprint(spec) == "faa318832b64cd4584a0e284e3ee2d32b2681532c2d26df110fc3ae697d73b40"
    assert _fingerprint(spec.model_copy(update={"estimate_s": 5})) != _fingerprint(spec)


# --- priority ---------------------------------------------------------------------------------------------------------


def test_a_job_that_waits_moves_to_another_priority(world: World) -> None:
    job = world.jobs.submit(ANNA, command(), now=NOW).job
    moved = world.jobs.set_priority(ANNA, job.id, PriorityClass.HIGH, now=NOW + 1)
    assert (moved.spec.priority, moved.state, moved.seq) == (PriorityClass.HIGH, job.state, job.seq + 1)
    assert world.jobs.set_priority(ANNA, job.id, PriorityClass.HIGH, now=NOW + 2) == moved
    (_, event) = world.jobs.events(ANNA, job.id)
    assert (event.type, event.detail) == (PriorityChanged.__name__, {"by": "anna", "priority": "high"})


def test_the_priority_of_a_job_that_runs_or_has_ended_is_not_changed(world: World) -> None:
    job = world.jobs.submit(ANNA, command(), now=NOW).job
    attempt = world.start(job.id)
    with pytest.raises(ConflictError, match="is running: a priority decides when a job starts"):
        world.jobs.set_priority(ANNA, job.id, PriorityClass.HIGH, now=NOW)
    world.end(attempt)
    with pytest.raises(ConflictError, match="has already succeeded"):
        world.jobs.set_priority(ANNA, job.id, PriorityClass.HIGH, now=NOW)


def test_only_who_may_submit_for_the_tenant_changes_a_priority(world: World) -> None:
    job = world.jobs.submit(ANNA, command(), now=NOW).job
    with pytest.raises(ForbiddenError):
        world.jobs.set_priority(VIEWER, job.id, PriorityClass.HIGH, now=NOW)
    for who, id in ((PAUL, job.id), (ANNA, JobId("job-9999"))):
        with pytest.raises(NotFoundError, match="no job"):
            world.jobs.set_priority(who, id, PriorityClass.HIGH, now=NOW)
