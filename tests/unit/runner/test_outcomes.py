"""What the end of an entry means."""

from __future__ import annotations

import pytest

from factory.domain.jobs import EndReason, FaultDomain
from factory.errors import InvalidRequestError, UnauthenticatedError, UnavailableError
from factory.worker.outcomes import exit_outcome, outcome_of


@pytest.mark.parametrize(
    ("exc", "began", "reason", "fault"),
    [
        (ValueError("x"), True, EndReason.USER_ERROR, None),
        (KeyboardInterrupt(), True, EndReason.USER_ERROR, None),
        (SystemExit(0), True, EndReason.COMPLETED, None),
        (SystemExit(3), True, EndReason.USER_ERROR, None),
        (MemoryError(), True, EndReason.OUT_OF_MEMORY, None),
        (ModuleNotFoundError("no", name="no"), True, EndReason.ENVIRONMENT_FAILED, FaultDomain.USER),
        (InvalidRequestError("broken bundle"), False, EndReason.ENVIRONMENT_FAILED, FaultDomain.USER),
        (InvalidRequestError("bad rows"), True, EndReason.USER_ERROR, None),
        (UnavailableError("nobody answers"), True, EndReason.ENVIRONMENT_FAILED, None),
        (UnauthenticatedError("revoked"), True, EndReason.WORKER_LOST, None),
        (OSError("disk"), False, EndReason.ENVIRONMENT_FAILED, None),
    ],
)
def test_every_exception_has_its_reason_and_fault(
    exc: BaseException, began: bool, reason: EndReason, fault: FaultDomain | None
) -> None:
    outcome = outcome_of(exc, began=began)

    assert (outcome.reason, outcome.fault) == (reason, fault)


def test_the_tail_ends_with_the_error_and_holds_no_frame_of_the_factory() -> None:
    def user_code() -> None:
        raise ValueError("no such street")

    try:
        try:
            user_code()
        except ValueError as exc:
            raise RuntimeError("could not prepare") from exc
    except RuntimeError as exc:
        tail = outcome_of(exc, began=True).tail

    assert tail.endswith("RuntimeError: could not prepare")
    assert "no such street" in tail
    assert "factory/worker" not in tail


def test_a_long_traceback_keeps_its_end() -> None:
    def deep(n: int) -> None:
        if not n:
            raise ValueError("x" * 20_000)
        deep(n - 1)

    try:
        deep(50)
    except ValueError as exc:
        tail = outcome_of(exc, began=True).tail

    assert len(tail) <= 8_000
    assert len(tail.splitlines()) <= 30
    assert tail.endswith("xxx")


@pytest.mark.parametrize(
    ("code", "reason"),
    [(0, EndReason.COMPLETED), (7, EndReason.USER_ERROR), (-11, EndReason.USER_ERROR), (-9, EndReason.WORKER_LOST)],
)
def test_an_exit_code_has_its_reason(code: int, reason: EndReason) -> None:
    outcome = exit_outcome(code, "last words")

    assert outcome.reason is reason
    assert (outcome.exit_code, outcome.signal) == ((code, None) if code >= 0 else (None, -code))
