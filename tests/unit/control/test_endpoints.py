"""Endpoints: replica jobs come before old ones go, come again after a back-off, and leave nothing behind."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from factory.domain.endpoints import Backend, Endpoint, EndpointState, Revision
from factory.domain.ids import AttemptId, Digest, EndpointName, JobId, ModelName, PoolName, QueueName, VersionId
from factory.domain.jobs import EndReason, Job, JobState, Outcome, ServiceEntry
from factory.domain.models import Lineage, ModelVersion
from factory.domain.tenancy import PLATFORM
from factory.testing import builders
from tests.unit.control.factory_floor import MOBILITY, START, Floor, said

NAME = EndpointName("forecast")


class Serving(Floor):
    """A floor with 8 CPUs, one model and one endpoint of two replicas."""

    def __init__(self) -> None:
        super().__init__(builders.pool(), builders.node("n1"), builders.queue(), builders.runner(seen_at=START))
        self.write(self._seed)
        self.tick()
        self.tick()

    def _seed(self, tx: Any) -> None:
        lineage = Lineage(
            (VersionId("dsv-1"),), (Digest("sha256:0"),), "series-forecast", "1.0.0", "{}", JobId("job-t"),
            AttemptId("job-t.1"), "", 0,
        )  # fmt: skip
        for number in (1, 2):
            tx.put_model_version(
                ModelVersion(MOBILITY, ModelName("m"), number, "pt2", "k", 1, "", "{}", "{}", (), "{}", lineage, 0)
            )
        tx.put_endpoint(
            Endpoint(
                MOBILITY, NAME, EndpointState.DEPLOYING, QueueName("mobility"), PoolName("cpu"), "",
                (self.revision(1),), (), 0, "key-1",
            )
        )  # fmt: skip

    @staticmethod
    def revision(number: int, replicas: int = 2) -> Revision:
        return Revision(number, ModelName("m"), number, replicas, builders.resources(cpu=1), 0)

    def endpoint(self) -> Endpoint | None:
        return self.store.read(lambda reader: reader.endpoint(PLATFORM, MOBILITY, NAME))

    def change(self, **fields: Any) -> None:
        self.write(lambda tx: tx.put_endpoint(replace(tx.endpoint(PLATFORM, MOBILITY, NAME), **fields)))

    def replicas(self, revision: int) -> list[Job]:
        jobs = self.store.read(lambda reader: reader.open_jobs(PLATFORM))
        return [j for j in jobs if isinstance(j.spec.entry, ServiceEntry) and j.spec.entry.revision == revision]

    def ready(self, *jobs: Job) -> None:
        """The replicas run and say that they listen."""
        self.report(*(said(self.attempt(job.id).id, "running") for job in jobs))
        endpoint = self.endpoint()
        assert endpoint is not None
        new = tuple(
            Backend(j.id, self.attempt(j.id).id, j.spec.entry.revision, "127.0.0.1", 9000, self.clock.at)  # pyright: ignore[reportAttributeAccessIssue]
            for j in jobs
        )
        self.change(backends=(*endpoint.backends, *new))
        self.tick()


@pytest.fixture
def floor() -> Serving:
    return Serving()


def test_each_replica_of_the_wanted_revision_has_one_job(floor: Serving) -> None:
    jobs = floor.replicas(1)
    assert [job.group.index for job in jobs if job.group is not None] == [0, 1]
    assert all(job.state is JobState.ADMITTED for job in jobs)
    floor.tick(5)
    assert floor.replicas(1) == jobs


def test_an_endpoint_is_ready_when_a_replica_answers(floor: Serving) -> None:
    floor.ready(floor.replicas(1)[0])
    endpoint = floor.endpoint()
    assert endpoint is not None
    assert endpoint.state is EndpointState.READY


def test_the_old_revision_serves_until_every_new_replica_is_ready(floor: Serving) -> None:
    old = floor.replicas(1)
    floor.ready(*old)
    floor.change(revisions=(floor.revision(1), floor.revision(2)))
    floor.tick()
    floor.tick()
    new = floor.replicas(2)
    floor.ready(new[0])
    assert all(job.state is JobState.RUNNING for job in floor.replicas(1))
    floor.ready(new[1])
    assert all(job.state is JobState.CANCELLING for job in floor.replicas(1))
    floor.tick()
    for job in old:
        floor.report(said(floor.attempt(job.id).id, "ended"))
    floor.tick()
    endpoint = floor.endpoint()
    assert endpoint is not None
    assert [revision.number for revision in endpoint.revisions] == [2]
    assert {backend.job for backend in endpoint.backends} == {job.id for job in new}


def test_fewer_replicas_cancel_the_highest_indices(floor: Serving) -> None:
    floor.change(revisions=(floor.revision(1, replicas=1),))
    floor.tick()
    assert [(j.group.index, j.state) for j in floor.replicas(1) if j.group] == [
        (0, JobState.ADMITTED),
        (1, JobState.CANCELLING),
    ]


def test_a_replica_that_failed_is_made_again_after_a_back_off_that_grows(floor: Serving) -> None:
    for wait_s in (1, 2, 4):
        job = floor.replicas(1)[-1]
        raised = said(floor.attempt(job.id).id, "ended", outcome=Outcome(EndReason.USER_ERROR))
        floor.report(raised)
        assert floor.job(job.id).state is JobState.FAILED
        asleep = floor.tick()
        assert len(floor.replicas(1)) == 1
        assert asleep.wake_at <= floor.clock.at + wait_s * 1000
        floor.tick(wait_s - 0.1)
        assert len(floor.replicas(1)) == 1
        floor.tick(0.1)
        floor.tick()
        assert len(floor.replicas(1)) == 2


def test_a_dead_replicas_backend_is_forgotten(floor: Serving) -> None:
    job = floor.replicas(1)[0]
    floor.ready(job)
    floor.report(said(floor.attempt(job.id).id, "ended", outcome=Outcome(EndReason.WORKER_LOST)))
    floor.tick()
    endpoint = floor.endpoint()
    assert endpoint is not None
    assert (endpoint.backends, endpoint.state) == ((), EndpointState.DEPLOYING)


def test_a_deleted_endpoint_goes_with_its_last_job(floor: Serving) -> None:
    jobs = floor.replicas(1)
    floor.ready(*jobs)
    floor.change(state=EndpointState.DELETING)
    floor.tick()
    assert floor.endpoint() is not None
    floor.report(*(said(floor.attempt(job.id).id, "ended") for job in jobs))
    floor.tick()
    assert floor.endpoint() is None
    assert floor.replicas(1) == []


def test_a_model_version_that_is_gone_makes_no_job() -> None:
    floor = Serving()
    floor.change(revisions=(replace(floor.revision(3), model_version=9),))
    floor.tick()
    assert floor.replicas(3) == []
