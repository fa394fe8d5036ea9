"""Every error that the factory raises on purpose, as one tree.

    FactoryError                      code, status, hint; facts as attributes
    ├── InvalidRequestError           the request itself is wrong (400/422)
    │   ├── UnknownPoolError          no such pool; says what it might have meant
    │   ├── UnknownQueueError         no such queue
    │   ├── InfeasibleError           more than the factory could ever give
    │   ├── DatasetGateError          a dataset version's gate does not let this job read it
    │   ├── IdempotencyConflictError  same key, other body
    │   ├── UnsupportedError          a feature that this release does not have
    │   └── PayloadTooLargeError      body over the limit (413)
    ├── UnauthenticatedError          no key, or a wrong one (401)
    ├── ForbiddenError                the key's role does not allow it (403)
    ├── NotFoundError                 not there, or not yours: the same answer (404)
    ├── ConflictError                 the thing changed, or its state forbids it (409)
    │   ├── StaleWriteError           optimistic guard failed: load again and retry
    │   ├── UploadGoneError           the staged bytes were removed: upload them again (410)
    │   ├── FeedPrunedError           the change feed no longer reaches back that far: build again from the rows
    │   ├── IllegalTransitionError    the lifecycle has no such transition
    │   └── PromotionRefusedError     the model gate said no
    ├── FencedError                   this leader's epoch is over; it may write nothing
    ├── UnavailableError              a part is down for now (503); retry later
    ├── JobFailedError                job.result() of a job that did not succeed (SDK)
    │   └── JobCancelledError         it was cancelled
    └── ConfigurationError            settings, files or environment of this process are wrong

`code` is stable and part of the API; messages may change. Each says what happened, where, and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import ClassVar

__all__ = [
    "ConfigurationError",
    "ConflictError",
    "DatasetGateError",
    "FactoryError",
    "FeedPrunedError",
    "FencedError",
    "ForbiddenError",
    "IdempotencyConflictError",
    "IllegalTransitionError",
    "InfeasibleError",
    "InvalidRequestError",
    "JobCancelledError",
    "JobFailedError",
    "NotFoundError",
    "PayloadTooLargeError",
    "PromotionRefusedError",
    "StaleWriteError",
    "UnauthenticatedError",
    "UnavailableError",
    "UnknownPoolError",
    "UnknownQueueError",
    "UnsupportedError",
    "UploadGoneError",
    "did_you_mean",
]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the closest known name, or "".

    >>> did_you_mean("h10", ["cpu", "h100"])
    "; did you mean 'h100'?"
    """
    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""


class FactoryError(Exception):
    """Base of all: a message for a person, a stable `code`, a `hint` for what to do next."""

    code: ClassVar[str] = "factory_error"
    status: ClassVar[int] = 500

    def __init__(self, message: str, *, hint: str = "", facts: Mapping[str, object] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.facts: dict[str, object] = dict(facts or {})

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class InvalidRequestError(FactoryError):
    """The request is wrong; nothing was stored."""

    code = "invalid_request"
    status = 422


class UnknownPoolError(InvalidRequestError):
    """No pool of that name."""

    code = "unknown_pool"

    def __init__(self, pool: str, known: Iterable[str]) -> None:
        names = tuple(sorted(known))
        super().__init__(
            f"there is no pool '{pool}'{did_you_mean(pool, names)}",
            hint="see: factory pools",
            facts={"pool": pool, "known": list(names)},
        )


class UnknownQueueError(InvalidRequestError):
    """No queue of that name that this tenant may submit to."""

    code = "unknown_queue"

    def __init__(self, queue: str, known: Iterable[str]) -> None:
        names = tuple(sorted(known))
        super().__init__(
            f"there is no queue '{queue}' that you may submit to{did_you_mean(queue, names)}",
            hint="see: factory queues",
            facts={"queue": queue, "known": list(names)},
        )


class InfeasibleError(InvalidRequestError):
    """More than the factory could give even when idle."""

    code = "infeasible"


class DatasetGateError(InvalidRequestError):
    """The dataset version's gate does not let this job read it; `facts["checks"]` lists the failing checks."""

    code = "dataset_gate_failed"
    status = 409


class IdempotencyConflictError(InvalidRequestError):
    """The idempotency key was used before with another body."""

    code = "idempotency_conflict"


class UnsupportedError(InvalidRequestError):
    """A feature that this release does not have yet."""

    code = "unsupported"


class PayloadTooLargeError(InvalidRequestError):
    """The body is over the limit."""

    code = "payload_too_large"
    status = 413


class UnauthenticatedError(FactoryError):
    """No key, or one that is unknown, expired or revoked."""

    code = "unauthenticated"
    status = 401


class ForbiddenError(FactoryError):
    """The key is valid; its role does not allow this."""

    code = "forbidden"
    status = 403


class NotFoundError(FactoryError):
    """It is not there or not the caller's: by design the same answer (rule 9)."""

    code = "not_found"
    status = 404

    def __init__(self, kind: str, name: str, known: Iterable[str] = (), *, hint: str = "") -> None:
        super().__init__(
            f"there is no {kind} '{name}'{did_you_mean(name, known)}", hint=hint, facts={"kind": kind, "name": name}
        )


class ConflictError(FactoryError):
    """The thing's present state forbids it."""

    code = "conflict"
    status = 409


class StaleWriteError(ConflictError):
    """The row changed since it was read; load again and decide again."""

    code = "stale_write"


class UploadGoneError(ConflictError):
    """The upload's staged bytes were removed: what was made of them is settled, or nobody registered them in time."""

    code = "upload_gone"
    status = 410


class FeedPrunedError(ConflictError):
    """Entries after the asked one are pruned: read all rows and `feed_head` in one transaction, go on from there."""

    code = "feed_pruned"


class IllegalTransitionError(ConflictError):
    """The lifecycle table has no such transition."""

    code = "illegal_transition"


class PromotionRefusedError(ConflictError):
    """The model gate refused; `facts["checks"]` holds each rule with its numbers."""

    code = "promotion_refused"


class FencedError(FactoryError):
    """The writer's leader epoch is not the current one: nothing was written (rule 5)."""

    code = "fenced"
    status = 503


class UnavailableError(FactoryError):
    """A part of the factory is down for now; the request changed nothing and may be retried."""

    code = "unavailable"
    status = 503


class JobFailedError(FactoryError):
    """`job.result()` of a job that ended without success."""

    code = "job_failed"

    def __init__(self, job_id: str, reason: str, fault_domain: str, message: str, tail: str = "") -> None:
        text = f"job {job_id} failed: {reason} ({fault_domain}): {message}"
        super().__init__(
            f"{text}\n{tail}" if tail else text,
            hint=f"see: factory jobs logs {job_id}",
            facts={"job": job_id, "reason": reason, "fault_domain": fault_domain},
        )
        self.job_id = job_id
        self.reason = reason
        self.fault_domain = fault_domain
        self.tail = tail


class JobCancelledError(JobFailedError):
    """The job was cancelled."""

    code = "job_cancelled"


class ConfigurationError(FactoryError):
    """This process cannot start or go on as it is configured."""

    code = "configuration"
