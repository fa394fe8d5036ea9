"""Problems become typed errors, whatever the server sends."""

from __future__ import annotations

import json

import pytest

from factory import errors
from factory.sdk.jobs import job_spec
from factory.sdk.transport import error_from


def _problem(code: str, status: int) -> bytes:
    return json.dumps(
        {"title": "t", "status": status, "code": code, "detail": "what", "hint": "do", "facts": {"pool": "h10"}}
    ).encode()


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("unknown_pool", 422, errors.UnknownPoolError),
        ("not_found", 404, errors.NotFoundError),
        ("dataset_gate_failed", 409, errors.DatasetGateError),
        ("idempotency_conflict", 422, errors.IdempotencyConflictError),
        ("a_code_of_tomorrow", 422, errors.InvalidRequestError),
        ("a_code_of_tomorrow", 401, errors.UnauthenticatedError),
    ],
)
def test_the_code_decides_the_class_and_the_status_is_the_fallback(
    code: str, status: int, kind: type[errors.FactoryError]
) -> None:
    error = error_from(status, _problem(code, status))
    assert isinstance(error, kind)
    assert (error.message, error.hint, error.facts["pool"]) == ("what", "do", "h10")


def test_an_answer_that_is_no_problem_is_shown_as_it_is() -> None:
    assert "502" in str(error_from(502, b"<html>bad gateway</html>"))


def test_an_unknown_field_of_a_spec_is_named_with_the_one_that_was_meant() -> None:
    with pytest.raises(errors.InvalidRequestError, match=r"replica.*did you mean 'replicas'"):
        job_spec(name="a", command={"argv": ["true"]}, replica=2)


def test_a_spec_without_anything_to_run_is_refused() -> None:
    with pytest.raises(errors.InvalidRequestError, match="exactly one of function, command, algorithm"):
        job_spec(name="a")
