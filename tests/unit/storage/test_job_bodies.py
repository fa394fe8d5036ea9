"""A body is decoded once per text, and what was asked for is encoded once per job."""

from __future__ import annotations

from dataclasses import replace

import pytest

from factory.domain.events import Submitted
from factory.domain.jobs import Job, JobState
from factory.storage import codec
from factory.storage.bodies import JobBodies
from factory.testing.builders import attempt, job


def submitted(made: Job) -> Submitted:
    return Submitted(made.submitted_at, made.id, made.tenant, made.submitted_by, made.spec)


def test_a_body_is_the_job_for_a_reader_that_never_saw_it() -> None:
    bodies, first = JobBodies(), job("job-a")
    later = replace(first, state=JobState.ADMITTED, seq=2, attempts=(attempt("job-a"),))
    for made in (first, later):
        assert codec.JOB.load(bodies.dump(made)) == made
    assert codec.EVENT.load(bodies.dump_event(first.id, submitted(first))) == submitted(first)


def test_the_same_text_is_the_same_value() -> None:
    bodies, made = JobBodies(), job("job-a")
    body = bodies.dump(made)
    assert bodies.load(made.id, body) is made
    assert bodies.load(made.id, codec.JOB.dump(made)) is bodies.load(made.id, codec.JOB.dump(made))


def test_another_text_is_never_answered_with_what_was_kept() -> None:
    """A transaction that was rolled back left its job behind; another one wrote the same seq."""
    bodies = JobBodies()
    bodies.dump(job("job-a", state=JobState.SUSPENDED, seq=2))
    committed = job("job-a", state=JobState.CANCELLED, seq=2)
    assert bodies.load(committed.id, codec.JOB.dump(committed)) == committed


def test_another_spec_of_the_same_job_is_encoded_anew() -> None:
    bodies, made = JobBodies(), job("job-a", cpu=1)
    bodies.dump(made)
    assert codec.JOB.load(bodies.dump(job("job-a", cpu=2, seq=2))).spec.resources.cpu_milli == 2000


def test_a_wrong_type_is_refused_in_the_spec_and_beside_it() -> None:
    bodies, made = JobBodies(), job("job-a")
    for wrong in (replace(made, seq="2"), replace(made, spec=replace(made.spec, replicas="2"))):  # pyright: ignore[reportArgumentType]
        with pytest.raises(TypeError):
            bodies.dump(wrong)


def test_what_was_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("factory.storage.bodies._KEPT", 2)
    bodies = JobBodies()
    first, *more = [job(f"job-{n}") for n in range(5)]
    kept = bodies.dump(first)
    for made in more:
        bodies.dump(made)
    assert bodies.load(first.id, kept) == first
    assert bodies.load(first.id, kept) is not first
