"""What is stored is what comes back; what is not understood is refused."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.domain.datasets import DatasetVersion
from factory.domain.endpoints import Endpoint
from factory.domain.events import Event
from factory.domain.jobs import Job
from factory.domain.models import Model, ModelVersion
from factory.domain.pools import Node, Pool, Runner
from factory.domain.tenancy import Key, Queue, Tenant
from factory.errors import ConfigurationError
from factory.jobs.ports import AttemptProgress
from factory.storage import codec
from factory.testing.builders import allocation, job, pool, running

CODECS: list[tuple[codec.Codec[Any], Any]] = [
    (codec.JOB, Job),
    (codec.EVENT, Event),
    (codec.DATASET_VERSION, DatasetVersion),
    (codec.MODEL_VERSION, ModelVersion),
    (codec.ENDPOINT, Endpoint),
    (codec.POOL, Pool),
    (codec.NODE, Node),
    (codec.QUEUE, Queue),
    (codec.KEY, Key),
    (codec.PROGRESS, AttemptProgress),
    (codec.RUNNER, Runner),
    (codec.TENANT, Tenant),
    (codec.MODEL, Model),
]

# NaN is not equal to itself; infinities are kept.
_FLOATS = st.floats(allow_nan=False)


@pytest.mark.parametrize(("kind", "values"), CODECS, ids=lambda each: getattr(each, "name", ""))
def test_every_value_comes_back_as_it_was(kind: codec.Codec[Any], values: Any) -> None:
    st.register_type_strategy(float, _FLOATS)

    @given(st.from_type(values))
    @settings(max_examples=25, deadline=None, derandomize=True)
    def round_trip(value: Any) -> None:
        back = kind.load(kind.dump(value))
        assert back == value
        assert type(back) is type(value)
        assert kind.dump(back) == kind.dump(value)

    round_trip()


def _stored() -> dict[str, Any]:
    return json.loads(codec.JOB.dump(running(job("job-a"), allocation(["n1"], pool=pool()))))


def test_a_row_of_an_older_release_takes_the_defaults_of_what_it_lacks() -> None:
    old = _stored()
    del old["retries"], old["spec"]["grace_s"], old["attempts"][0]["code_digest"]
    assert codec.JOB.load(json.dumps(old)) == running(job("job-a"), allocation(["n1"], pool=pool()))


def test_a_row_that_lacks_what_has_no_default_is_refused() -> None:
    old = _stored()
    del old["spec"]["queue"]
    with pytest.raises(ConfigurationError, match=r"spec\.queue"):
        codec.JOB.load(json.dumps(old))


@pytest.mark.parametrize("where", [(), ("spec",), ("spec", "entry"), ("attempts", 0, "allocation", "placements", 0)])
def test_a_field_of_a_newer_release_is_refused_at_every_depth(where: tuple[str | int, ...]) -> None:
    newer = _stored()
    inner: Any = newer
    for step in where:
        inner = inner[step]
    inner["from_the_future"] = 1
    with pytest.raises(ConfigurationError, match="from_the_future"):
        codec.JOB.load(json.dumps(newer))


@pytest.mark.parametrize("wrong", [{"seq": "2"}, {"retries": True}, {"id": 7}, {"state": "asleep"}])
def test_a_stored_value_of_a_wrong_type_is_refused_not_converted(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        codec.JOB.load(json.dumps(_stored() | wrong))


def test_a_kind_of_event_of_a_newer_release_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="Event"):
        codec.EVENT.load('{"at": 1, "type": "Teleported"}')


def test_an_entry_says_its_type() -> None:
    assert _stored()["spec"]["entry"] == {"argv": ["true"], "bundle": None, "type": "CommandEntry"}


@pytest.mark.parametrize("wrong", [{"seq": "1"}, {"state": "queued"}, {"attempts": []}, {"submitted_at": 1.5}])
def test_a_value_that_its_annotation_does_not_allow_is_not_stored(wrong: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="Job"):
        codec.JOB.dump(dataclasses.replace(job("job-a"), **wrong))
