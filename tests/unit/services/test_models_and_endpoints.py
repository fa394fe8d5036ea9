"""Models: registered once, with whole lineage, promoted by the gate. Endpoints: deployed, following the champion."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from factory.domain.endpoints import EndpointState
from factory.domain.events import StopRequested
from factory.domain.ids import AttemptId, EndpointName, JobId, ModelName, TenantId
from factory.domain.jobs import EndReason, GroupKind, GroupRef, JobSpec, ModelRef, Outcome, ServiceEntry
from factory.domain.models import split_reference
from factory.domain.resources import Resources
from factory.domain.tenancy import PLATFORM
from factory.errors import (
    ConflictError,
    FactoryError,
    ForbiddenError,
    InvalidRequestError,
    NotFoundError,
    PromotionRefusedError,
    UnauthenticatedError,
    UnknownPoolError,
    UnknownQueueError,
)
from factory.schemas.attempt import ReadyRequest
from factory.schemas.models import DeployRequest
from factory.serving.service import follow_aliases
from factory.testing.builders import queue

from .world import ANNA, NOW, PAUL, VIEWER, World, command, training

M = ModelName("m")
E = EndpointName("forecast")


@pytest.fixture
def world(world: World) -> World:
    world.ingest("footfall")
    return world


def start_training(world: World, **fields: Any) -> AttemptId:
    return world.start(world.jobs.submit(ANNA, training(**fields), now=NOW).job.id)


# --- register ---------------------------------------------------------------------------------------------------------


def test_a_model_version_names_all_that_it_came_from(world: World) -> None:
    attempt, number = world.train(mae=50, seed=7)
    view = world.models.version(ANNA, M, number)
    lineage = view.lineage
    assert (number, view.metrics, view.aliases) == (1, {"mae": 50}, ())
    assert (lineage.datasets, lineage.algorithm, lineage.seed) == (("footfall@1",), "series-forecast@1.0.0", 7)
    assert (lineage.attempt, lineage.code_digest[:7]) == (attempt, "sha256:")
    assert world.jobs.view(ANNA, JobId(lineage.job), now=NOW).models == ("m@1",)


def test_a_job_registers_one_model_also_over_attempts(world: World) -> None:
    attempt = start_training(world)
    request = world.model_request(attempt)
    first = world.models.register(attempt, request, now=NOW)
    assert world.models.register(attempt, request, now=NOW) == first
    world.end(attempt, EndReason.WORKER_LOST)
    newer = world.start(attempt.rpartition(".")[0])
    assert world.models.register(newer, request, now=NOW) == first
    assert world.models.get(ANNA, M).last == 1
    with pytest.raises(UnauthenticatedError):
        world.models.register(attempt, request, now=NOW)


def test_a_registered_file_does_not_change(world: World) -> None:
    attempt, _ = world.train()
    with pytest.raises(ConflictError, match="has registered its model"):
        world.models.put_file(attempt, (b"other weights",), limit_bytes=100)
    assert b"".join(world.models.open_file(ANNA, M, 1)) == f"weights of {attempt}".encode()


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"format": "pickle"}, InvalidRequestError, "not a safe format"),
        ({"model": "other"}, InvalidRequestError, "registers 'm', not 'other'"),
        ({"sha256": "00" * 32}, InvalidRequestError, "not the one that this attempt stored"),
        ({"object_key": "uploads/parks/upl-1"}, InvalidRequestError, "not the one that this attempt stored"),
        ({"metrics": {"mae": float("nan")}}, InvalidRequestError, "not finite"),
        ({"evaluation": {"metric": "mae"}}, InvalidRequestError, "evaluation."),
    ],
)
def test_a_wrong_registration_is_refused(
    world: World, changes: dict[str, Any], error: type[FactoryError], says: str
) -> None:
    attempt = start_training(world)
    with pytest.raises(error, match=says):
        world.models.register(attempt, world.model_request(attempt, **changes), now=NOW)
    assert world.models.list(ANNA).items == ()


def test_an_attempt_registers_no_file_of_another_one(world: World) -> None:
    theirs = world.model_request(start_training(world))
    with pytest.raises(InvalidRequestError, match="not the one that this attempt stored"):
        world.models.register(start_training(world), theirs, now=NOW)


def test_a_repair_job_makes_no_model(world: World) -> None:
    reads = {"raw": {"dataset": "footfall", "purpose": "repair"}}
    spec = command(inputs=reads, outputs={"clean": {"dataset": "clean"}})
    attempt = world.start(world.jobs.submit(ANNA, spec, now=NOW).job.id)
    with pytest.raises(ForbiddenError, match="never models"):
        world.models.put_file(attempt, (b"x",), limit_bytes=10)
    request = world.model_request(start_training(world))
    with pytest.raises(ForbiddenError, match="never models"):
        world.models.register(attempt, request, now=NOW)


def test_a_command_makes_no_model(world: World) -> None:
    attempt = world.start(world.jobs.submit(ANNA, command(), now=NOW).job.id)
    with pytest.raises(ForbiddenError, match="registers no model"):
        world.models.put_file(attempt, (b"x",), limit_bytes=10)


# --- promote ----------------------------------------------------------------------------------------------------------


def test_the_first_champion_must_beat_the_baseline(world: World) -> None:
    world.train(mae=70)
    with pytest.raises(PromotionRefusedError, match="does not beat baseline week") as refusal:
        world.models.promote(ANNA, M, 1, now=NOW)
    checks: Any = refusal.value.facts["checks"]
    assert {c["rule"]: c["passed"] for c in checks}["better"] is False
    assert world.models.get(ANNA, M).champion is None
    world.train(mae=50)
    view = world.models.promote(ANNA, M, 2, now=NOW)
    assert (view.moved, view.against) == (True, "baseline week")
    assert world.models.get(ANNA, M).champion == 2


def test_a_better_version_takes_over_and_the_old_one_is_previous(world: World) -> None:
    world.train(mae=50)
    world.train(mae=45)
    world.models.promote(ANNA, M, 1, now=NOW)
    world.models.promote(ANNA, M, 2, now=NOW)
    view = world.models.get(ANNA, M)
    assert (view.champion, view.previous) == (2, 1)
    assert {v.number: v.aliases for v in view.versions} == {2: ("champion",), 1: ("previous",)}
    with pytest.raises(PromotionRefusedError, match="champion v2"):
        world.models.promote(ANNA, M, 1, now=NOW)


def test_promoting_the_champion_moves_nothing(world: World) -> None:
    world.train(mae=50)
    world.models.promote(ANNA, M, 1, now=NOW)
    assert world.models.promote(ANNA, M, 1, now=NOW).moved is False
    assert [r.action for r in world.store.audit_rows()].count("model.promote") == 1


def test_only_who_may_write_promotes_and_only_its_own(world: World) -> None:
    world.train(mae=50)
    with pytest.raises(ForbiddenError):
        world.models.promote(VIEWER, M, 1, now=NOW)
    with pytest.raises(NotFoundError):
        world.models.promote(PAUL, M, 1, now=NOW)
    with pytest.raises(NotFoundError, match="the latest is m@1"):
        world.models.promote(ANNA, M, 2, now=NOW)


def test_a_reference_is_resolved_now(world: World) -> None:
    world.train(mae=50)
    assert world.models.resolve(ANNA, "m@1").number == 1
    with pytest.raises(NotFoundError, match="m@champion"):
        world.models.resolve(ANNA, "m@champion")
    world.models.promote(ANNA, M, 1, now=NOW)
    assert world.models.resolve(ANNA, "m@champion").number == 1


@pytest.mark.parametrize("text", ["m", "m@", "m@v1", "m@-1", "m@²"])
def test_a_text_that_names_no_version_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="names no model version"):
        split_reference(text)


def test_a_predict_job_is_pinned_to_the_champion_of_its_submit(world: World) -> None:
    world.train(mae=50)
    world.models.promote(ANNA, M, 1, now=NOW)
    spec = training(
        algorithm={"name": "series-forecast", "operation": "predict", "model": "m@champion"},
        outputs={"forecast": {"dataset": "forecast"}},
    )
    attempt = world.start(world.jobs.submit(ANNA, spec, now=NOW).job.id)
    world.train(mae=45)
    world.models.promote(ANNA, M, 2, now=NOW)
    reply = world.models.model_of(attempt)
    assert (reply.number, reply.algorithm, reply.format) == (1, "series-forecast", "safetensors")
    assert b"".join(world.models.open_model(attempt)).startswith(b"weights")


# --- endpoints --------------------------------------------------------------------------------------------------------


def deploy(world: World, **fields: Any) -> Any:
    return world.endpoints.deploy(ANNA, E, DeployRequest(**{"model": "m@champion", **fields}), now=NOW)


@pytest.fixture
def champion(world: World) -> World:
    world.train(mae=50)
    world.models.promote(ANNA, M, 1, now=NOW)
    return world


def replica(world: World, revision: int = 1) -> AttemptId:
    """Bring one replica job to life, as the control loop and a runner do."""
    spec = JobSpec(
        name="forecast-r1-0",
        entry=ServiceEntry(E, revision, ModelRef(M, 1), "series-forecast", "1.0.0"),
        queue=queue("mobility").name,
        resources=Resources(250),
    )
    group = GroupRef(GroupKind.ENDPOINT, "mobility/forecast")
    job = world.store.transact(
        lambda tx: world.jobs.submit_service(tx, TenantId("mobility"), spec, group=group, by="anna", now=NOW)
    )
    return world.start(job.id)


def test_the_same_deploy_changes_nothing(champion: World) -> None:
    first = deploy(champion)
    assert (first.created, first.changed, first.view.state) == (True, True, EndpointState.DEPLOYING)
    assert [(r.number, r.model) for r in first.view.revisions] == [(1, "m@1")]
    again = deploy(champion)
    assert (again.created, again.changed, again.view) == (False, False, first.view)


def test_another_deploy_is_another_revision(champion: World) -> None:
    deploy(champion)
    view = deploy(champion, replicas=2).view
    assert [(r.number, r.replicas) for r in view.revisions] == [(1, 1), (2, 2)]


def test_pinning_what_runs_makes_no_revision(champion: World) -> None:
    deploy(champion)
    pinned = deploy(champion, model="m@1")
    assert (pinned.changed, pinned.view.model, len(pinned.view.revisions)) == (True, "m@1", 1)


def test_an_endpoint_follows_its_alias_and_a_pinned_one_does_not(champion: World) -> None:
    deploy(champion)
    champion.endpoints.deploy(ANNA, EndpointName("pinned"), DeployRequest(model="m@1"), now=NOW)
    assert champion.store.transact(lambda tx: follow_aliases(tx, NOW)) == ()
    champion.train(mae=45)
    champion.models.promote(ANNA, M, 2, now=NOW)
    changed = champion.store.transact(lambda tx: follow_aliases(tx, NOW + 5))
    assert [(e.name, e.revisions[-1].number, e.revisions[-1].model_version) for e in changed] == [("forecast", 2, 2)]
    assert champion.store.transact(lambda tx: follow_aliases(tx, NOW + 6)) == ()
    assert deploy(champion).changed is False, "the request means what the endpoint follows"


@pytest.mark.parametrize(
    ("fields", "error", "says"),
    [
        ({"model": "mm@1"}, NotFoundError, "did you mean 'm'"),
        ({"model": "m@9"}, NotFoundError, "m@9"),
        ({"model": "m@previous"}, NotFoundError, "m@previous"),
        ({"model": "m"}, InvalidRequestError, "names no model version"),
        ({"queue": "parks"}, UnknownQueueError, "parks"),
        ({"pool": "cpux"}, UnknownPoolError, "did you mean 'cpu'"),
    ],
)
def test_a_wrong_deploy_is_refused(
    champion: World, fields: dict[str, Any], error: type[FactoryError], says: str
) -> None:
    with pytest.raises(error, match=says):
        deploy(champion, **fields)
    assert champion.endpoints.list(ANNA).items == ()


def test_a_ready_replica_is_a_backend_at_the_ingress_of_its_runner(champion: World) -> None:
    deploy(champion)
    assert champion.endpoints.get(ANNA, E).url == ""
    attempt = replica(champion)
    champion.store.transact(lambda tx: [tx.put_runner(_at(r, "http://127.0.0.1:9000/")) for r in tx.runners(PLATFORM)])
    champion.endpoints.ready(attempt, ReadyRequest(host="127.0.0.1", port=7001), now=NOW)
    champion.endpoints.ready(attempt, ReadyRequest(host="127.0.0.1", port=7001), now=NOW + 9)
    view = champion.endpoints.get(ANNA, E)
    assert [(b.attempt, b.revision, b.ready_at) for b in view.backends] == [(attempt, 1, NOW)]
    assert view.url == "http://127.0.0.1:9000/mobility/forecast"
    champion.endpoints.ready(attempt, ReadyRequest(host="127.0.0.1", port=7002), now=NOW + 10)
    (endpoint,) = champion.store.read(lambda tx: tx.endpoints(PLATFORM))
    assert [b.port for b in endpoint.backends] == [7002]


def test_a_replica_may_only_answer_from_the_node_that_the_plan_chose(champion: World) -> None:
    deploy(champion)
    attempt = replica(champion)
    champion.store.transact(lambda tx: [tx.put_node(replace(n, host="10.0.0.7")) for n in tx.nodes(PLATFORM)])
    with pytest.raises(ForbiddenError, match=r"may not answer from '169\.254\.169\.254'"):
        champion.endpoints.ready(attempt, ReadyRequest(host="169.254.169.254", port=80), now=NOW)
    assert champion.endpoints.get(ANNA, E).backends == ()
    champion.endpoints.ready(attempt, ReadyRequest(host="10.0.0.7", port=7001), now=NOW)
    assert len(champion.endpoints.get(ANNA, E).backends) == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "169.254.169.254", "n1"])
def test_a_replica_on_a_node_without_an_address_answers_from_nowhere(champion: World, host: str) -> None:
    deploy(champion)
    attempt = replica(champion)
    champion.store.transact(lambda tx: [tx.put_node(replace(n, host="")) for n in tx.nodes(PLATFORM)])
    with pytest.raises(ForbiddenError, match=f"may not answer from '{host}'"):
        champion.endpoints.ready(attempt, ReadyRequest(host=host, port=7001), now=NOW)
    assert champion.endpoints.get(ANNA, E).backends == ()


def _at(runner: Any, url: str) -> Any:
    return replace(runner, ingress_url=url)


def test_only_a_live_replica_may_say_that_it_is_ready(champion: World) -> None:
    deploy(champion)
    attempt = replica(champion)
    stop = StopRequested(NOW, attempt, Outcome(EndReason.TIMED_OUT))
    champion.step(attempt.rpartition(".")[0], lambda _: stop)
    champion.end(attempt, EndReason.TIMED_OUT)
    with pytest.raises(UnauthenticatedError):
        champion.endpoints.ready(attempt, ReadyRequest(host="127.0.0.1", port=7001), now=NOW)
    other = champion.start(champion.jobs.submit(ANNA, command(), now=NOW).job.id)
    with pytest.raises(ForbiddenError):
        champion.endpoints.ready(other, ReadyRequest(host="127.0.0.1", port=7001), now=NOW)
    with pytest.raises(InvalidRequestError):
        champion.endpoints.ready(other, ReadyRequest(host="127.0.0.1", port=0), now=NOW)


def test_a_deleted_endpoint_takes_no_deploy_until_it_is_gone(champion: World) -> None:
    deploy(champion)
    assert champion.endpoints.delete(ANNA, E, now=NOW).state is EndpointState.DELETING
    assert champion.endpoints.delete(ANNA, E, now=NOW).state is EndpointState.DELETING
    with pytest.raises(ConflictError, match="is being deleted"):
        deploy(champion)


def test_another_tenants_endpoint_does_not_exist(champion: World) -> None:
    deploy(champion)
    with pytest.raises(NotFoundError):
        champion.endpoints.get(PAUL, E)
    with pytest.raises(NotFoundError):
        champion.endpoints.delete(PAUL, E, now=NOW)
    assert champion.endpoints.list(PAUL).items == ()
