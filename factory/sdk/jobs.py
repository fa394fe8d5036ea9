"""Jobs from Python: submit, watch, read the result."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from factory import errors
from factory.domain.jobs import TERMINAL_STATES, EndReason, JobState, PriorityClass
from factory.schemas.datasets import LineageView
from factory.schemas.jobs import (
    BatchItem,
    BatchReply,
    BatchRequest,
    EventView,
    ExplanationView,
    JobPatch,
    JobSpec,
    JobView,
    PlanView,
)
from factory.sdk.transport import Transport, validated

__all__ = ["JobHandle", "Jobs", "LogLine"]

_POLL_S = 25.0  # one long poll; the server answers as soon as something changes


@dataclass(frozen=True, slots=True)
class LogLine:
    """A piece of a log as it arrived; `text` may hold several lines or part of one."""

    attempt: str
    rank: int
    stream: str  # "stdout" or "stderr"
    offset: int  # bytes before this piece
    text: str


class JobHandle:
    """One job. `view` is what the factory said last; `refresh()` asks again."""

    def __init__(self, transport: Transport, view: JobView) -> None:
        self._transport = transport
        self.view = view

    def __repr__(self) -> str:
        return f"<Job {self.view.name} {self.id} {self.state.value}>"

    @property
    def id(self) -> str:
        """The job's id."""
        return self.view.id

    @property
    def state(self) -> JobState:
        """The state as last seen."""
        return self.view.state

    @property
    def is_done(self) -> bool:
        """True if it had ended when last seen."""
        return self.view.state in TERMINAL_STATES

    def refresh(self) -> JobView:
        """Ask the factory and return the present view."""
        self.view = self._transport.get(JobView, f"/jobs/{self.id}")
        return self.view

    def wait(self, timeout_s: float | None = None, on_change: Callable[[JobView], None] | None = None) -> JobView:
        """Block until the job ends; call `on_change` at each change of state or progress.

        Raises: TimeoutError: it has not ended after `timeout_s`; the job goes on.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not self.is_done:
            left = _POLL_S if deadline is None else min(_POLL_S, deadline - time.monotonic())
            if left <= 0:
                raise TimeoutError(f"job {self.id} has not ended after {timeout_s:g} s; it is {self.state.value}")
            seen = (self.view.seq, self.view.progress.at if self.view.progress else 0)
            answer = self._transport.request(
                "GET",
                f"/jobs/{self.id}/wait",
                params={"timeout_s": max(left, 0.05), "after": seen[0], "progress_at": seen[1]},
                timeout_s=left + 30,
            )
            self.view = JobView.model_validate_json(answer.content)
            if on_change and seen != (self.view.seq, self.view.progress.at if self.view.progress else 0):
                on_change(self.view)
        return self.refresh()

    def result(self, timeout_s: float | None = None) -> Any:
        """Wait, and return what the function returned (None for other kinds).

        Raises: JobFailedError (JobCancelledError): with the reason, whose fault it was, and the traceback's tail.
        """
        view = self.wait(timeout_s)
        if view.state is JobState.SUCCEEDED:
            return view.result
        outcome = view.outcome
        if view.state is JobState.CANCELLED or outcome is None:
            message = outcome.message if outcome else view.state.value
            raise errors.JobCancelledError(self.id, EndReason.CANCELLED.value, "user", message or "cancelled")
        raise errors.JobFailedError(
            self.id, outcome.reason.value, outcome.fault_domain.value, outcome.message, outcome.tail
        )

    def cancel(self) -> JobView:
        """Cancel; once this returns it is final."""
        self.view = self._transport.send(JobView, "POST", f"/jobs/{self.id}:cancel", idempotent=True)
        return self.view

    def suspend(self) -> JobView:
        """Hold the job; a running attempt is stopped and its slots are given back."""
        self.view = self._transport.send(JobView, "POST", f"/jobs/{self.id}:suspend", idempotent=True)
        return self.view

    def resume(self) -> JobView:
        """Let a suspended job go on."""
        self.view = self._transport.send(JobView, "POST", f"/jobs/{self.id}:resume", idempotent=True)
        return self.view

    def set_priority(self, priority: PriorityClass | str) -> JobView:
        """Move it to another priority class while it waits. Raises: ConflictError: it runs or has ended."""
        try:
            body = JobPatch(priority=PriorityClass(priority))
        except ValueError as exc:
            raise errors.InvalidRequestError(
                f"there is no priority '{priority}'{errors.did_you_mean(priority, PriorityClass)}",
                hint=f"priorities: {', '.join(PriorityClass)}",
            ) from exc
        self.view = self._transport.send(JobView, "PATCH", f"/jobs/{self.id}", body, idempotent=True)
        return self.view

    def explain(self) -> ExplanationView:
        """Why it is where it is, with numbers."""
        return self._transport.get(ExplanationView, f"/jobs/{self.id}/explain")

    def events(self) -> list[EventView]:
        """Everything that happened to it."""
        return list(self._transport.pages(EventView, f"/jobs/{self.id}/events"))

    def lineage(self) -> LineageView:
        """What it read and what came of it."""
        return self._transport.get(LineageView, f"/jobs/{self.id}/lineage")

    def log_text(self, attempt: str | None = None, stream: str | None = None) -> str:
        """The whole log so far as one text."""
        answer = self._transport.request(
            "GET", f"/jobs/{self.id}/logs", params={"attempt": attempt, "stream": stream, "follow": "false"}
        )
        return answer.content.decode(errors="replace")

    def logs(self, follow: bool = False, attempt: str | None = None) -> Iterator[LogLine]:
        """Yield the log piece by piece; with `follow` until the job ends, over broken connections."""
        if not follow:
            yield LogLine(attempt or "", 0, "stdout", 0, self.log_text(attempt))
            return
        import httpx

        last_id: str | None = None
        while True:
            try:
                headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last_id} if last_id else {})
                with self._transport.stream(
                    "GET", f"/jobs/{self.id}/logs", params={"follow": "true", "attempt": attempt}, headers=headers
                ) as response:
                    for event, event_id, data in _sse(response.iter_lines()):
                        last_id = event_id or last_id
                        if event == "end":
                            return
                        if event == "log":
                            yield LogLine(**json.loads(data))
            except (httpx.TransportError, errors.UnavailableError):
                time.sleep(0.5)  # the control plane restarts; go on where we were


def _sse(lines: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """Yield (event, id, data) of a server-sent event stream (WHATWG HTML, section 9.2)."""
    event, event_id, data = "message", "", []
    for line in lines:
        if not line:
            if data:
                yield event, event_id, "\n".join(data)
            event, data = "message", []
        elif not line.startswith(":"):
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if field == "event":
                event = value
            elif field == "id":
                event_id = value
            elif field == "data":
                data.append(value)


class Jobs:
    """`client.jobs`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def submit(self, spec: JobSpec | None = None, /, *, idempotency_key: str | None = None, **fields: Any) -> JobHandle:
        """Submit a job; give a `JobSpec` or its fields. Returns once the job is durable.

        Without a key a fresh one is made, so that a repeated request after a lost answer gives one job.
        Raises: InvalidRequestError and its kin: nothing was stored.
        """
        spec = spec if spec is not None else job_spec(**fields)
        key = idempotency_key or str(uuid.uuid4())
        view = self._transport.send(JobView, "POST", "/jobs", spec, headers={"Idempotency-Key": key})
        return JobHandle(self._transport, view)

    def plan(self, spec: JobSpec | None = None, /, **fields: Any) -> PlanView:
        """Say what would come of a job if it were submitted now: nothing is stored, and code need not be uploaded.

        Raises: InvalidRequestError and its kin, as `submit`; what can never run is an answer (`feasible` False).
        """
        spec = spec if spec is not None else job_spec(**fields)
        return self._transport.send(PlanView, "POST", "/jobs:plan", spec, idempotent=True)

    def submit_many(self, specs: Sequence[JobSpec], *, idempotency_key: str | None = None) -> list[JobHandle]:
        """Submit up to 1,000 jobs in one transaction: all or none."""
        prefix = idempotency_key or str(uuid.uuid4())
        items = tuple(BatchItem(key=f"{prefix}-{i}", spec=spec) for i, spec in enumerate(specs))
        reply = self._transport.send(BatchReply, "POST", "/jobs:batch", BatchRequest(items=items), idempotent=True)
        return [JobHandle(self._transport, view) for view in reply.jobs]

    def get(self, job_id: str) -> JobHandle:
        """Return a handle. Raises: NotFoundError."""
        return JobHandle(self._transport, self._transport.get(JobView, f"/jobs/{job_id}"))

    def list(
        self, *, state: str | None = None, queue: str | None = None, name: str | None = None, limit: int = 50
    ) -> list[JobView]:
        """Return the newest jobs first, at most `limit`."""
        found: list[JobView] = []
        for view in self._transport.pages(JobView, "/jobs", state=state, queue=queue, name=name, limit=min(limit, 200)):
            found.append(view)
            if len(found) == limit:
                break
        return found

    def upload_bundle(self, digest: str, content: bytes) -> None:
        """Store code under its digest unless it is there."""
        try:
            self._transport.request("HEAD", f"/bundles/{digest}")
        except errors.NotFoundError:
            self._transport.request("PUT", f"/bundles/{digest}", content=content, timeout_s=300)


def job_spec(**fields: Any) -> JobSpec:
    """Make a JobSpec; a wrong field is an InvalidRequestError that names it, as the server would say it."""
    return validated(JobSpec, fields, hint="see: factory jobs submit --help")
