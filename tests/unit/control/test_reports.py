"""What runners say, once, twice, late, and by those who may not."""

from __future__ import annotations

import pytest

from factory.control.desired import desired_state, ingress_state, revision_of, runner_desired
from factory.control.reports import Unusable, apply_report
from factory.domain.endpoints import Backend, Endpoint, EndpointState, Revision
from factory.domain.events import StopRequested
from factory.domain.ids import AttemptId, EndpointName, JobId, ModelName, PoolName, QueueName
from factory.domain.jobs import AttemptState, EndReason, JobState, Outcome
from factory.lifecycle.stepping import Stale
from factory.pools.service import StaleRunnerError
from factory.schemas.runner import ReportBatch
from factory.testing import builders
from tests.unit.control.factory_floor import MOBILITY, RUNNER, Floor, said


@pytest.fixture
def floor() -> Floor:
    made = Floor()
    made.submit("job-a")
    made.tick()
    return made


def test_an_attempt_starts_runs_and_ends_by_its_runners_word(floor: Floor) -> None:
    for kind, state in (("starting", JobState.STARTING), ("running", JobState.RUNNING), ("ended", JobState.SUCCEEDED)):
        assert floor.report(said("job-a.1", kind)).ignored == ()
        assert floor.job("job-a").state is state
    assert floor.ended == ["job-a"]


def test_what_is_said_twice_or_late_changes_nothing(floor: Floor) -> None:
    floor.report(said("job-a.1", "running"))
    assert floor.report(said("job-a.1", "starting")).ignored == (("job-a.1", Stale.ALREADY_KNOWN),)
    floor.report(said("job-a.1", "ended"))
    before = floor.job("job-a")
    assert floor.report(said("job-a.1", "ended"), said("job-a.1", "running")).ignored == (
        ("job-a.1", Stale.JOB_ENDED),
        ("job-a.1", Stale.JOB_ENDED),
    )
    assert floor.job("job-a") == before


def test_a_report_bears_the_time_at_which_it_was_heard(floor: Floor) -> None:
    floor.clock.at += 5_000
    floor.report(said("job-a.1", "running"))
    assert floor.attempt("job-a").running_at == floor.clock.at


def test_an_older_process_of_the_runner_is_refused_with_all_it_says(floor: Floor) -> None:
    with pytest.raises(StaleRunnerError):
        floor.report(said("job-a.1", "ended"), incarnation="inc-0")
    assert floor.job("job-a").state is JobState.ADMITTED


def test_what_is_no_fact_is_ignored_with_the_reason(floor: Floor) -> None:
    told = floor.report(
        said("job-x.1", "ended"),
        said("job-a.1", "ended", proof=""),
        said("job-a.1", "ended", proof="self-fence"),
        said("job-a.1", "ended", outcome=None),
    )
    assert told.ignored == (
        ("job-x.1", Unusable.NO_SUCH_ATTEMPT),
        ("job-a.1", Unusable.NO_PROOF),
        ("job-a.1", Unusable.NO_PROOF),
        ("job-a.1", Unusable.NO_PROOF),
    )


def test_a_runner_may_not_speak_for_anothers_attempt(floor: Floor) -> None:
    floor.write(lambda tx: tx.put_runner(builders.runner("runner-2", incarnation="inc-9")))
    batch = ReportBatch(runner="runner-2", incarnation="inc-9", attempts=(said("job-a.1", "ended"),))
    told = floor.write(lambda tx: apply_report(tx, batch, floor.clock.at))
    assert told.ignored == (("job-a.1", Unusable.OTHER_RUNNER),)


def test_the_wish_lists_every_attempt_that_is_not_proven_dead(floor: Floor) -> None:
    def wish() -> list[tuple[str, AttemptState, bool]]:
        state = floor.store.read(lambda reader: desired_state(reader, RUNNER))
        return [(a.id, a.state, a.stop is not None) for a in state.attempts]

    assert wish() == [("job-a.1", AttemptState.DESIRED, False)]
    floor.cancel("job-a")
    assert wish() == [("job-a.1", AttemptState.STOPPING, True)]
    floor.report(said("job-a.1", "ended"))
    assert wish() == []


def test_the_ingress_leads_to_live_replicas_and_lets_stopping_ones_drain(floor: Floor) -> None:
    revision = Revision(1, ModelName("m"), 1, 1, builders.resources(cpu=1), 0)
    backend = Backend(JobId("job-a"), "job-a.1", 1, "127.0.0.1", 9001, 0)
    floor.write(
        lambda tx: tx.put_endpoint(
            Endpoint(
                MOBILITY,
                EndpointName("forecast"),
                EndpointState.READY,
                QueueName("mobility"),
                PoolName("cpu"),
                "",
                (revision,),
                (backend, Backend(JobId("job-x"), "job-x.1", 1, "127.0.0.1", 9002, 0)),
                0,
                "key-1",
            )
        )
    )

    def servers() -> list[tuple[str, bool]]:
        state = floor.store.read(lambda reader: ingress_state(reader, RUNNER, ()))
        (route,) = state.routes
        return [(server.name, server.draining) for server in route.servers]

    assert servers() == [("job-a.1", False)]
    floor.happen("job-a", StopRequested(floor.clock.at, AttemptId("job-a.1"), Outcome(EndReason.START_TIMEOUT)))
    assert servers() == [("job-a.1", True)]
    floor.report(said("job-a.1", "ended"))
    assert servers() == []


def test_the_wishs_revision_differs_exactly_when_the_wish_does(floor: Floor) -> None:
    def revision(*keys: tuple[str, str]) -> str:
        return revision_of(floor.store.read(lambda reader: runner_desired(reader, RUNNER, warm_per_node=1, keys=keys)))

    first = revision()
    floor.submit("job-b", queue="mobility", cpu=9)
    assert revision() == first
    assert revision(("ab", "mobility")) != first
    floor.cancel("job-a")
    assert revision() != first
