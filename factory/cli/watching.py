"""Watching a job in the terminal: state, why it waits, progress, metrics and log lines as they come."""

from __future__ import annotations

import threading
from contextlib import nullcontext

from rich.status import Status
from rich.text import Text

from factory import errors
from factory.cli.output import console, state_text
from factory.domain.jobs import TERMINAL_STATES, JobState
from factory.schemas.jobs import JobView
from factory.sdk.jobs import JobHandle

__all__ = ["outcome_lines", "progress_text", "watch"]

_STREAM = {"stdout": "default", "stderr": "dim"}


def watch(handle: JobHandle, *, timeout_s: float | None = None) -> JobView:
    """Print until the job ends; return its last view. Ctrl-C stops watching, not the job.

    Raises: TimeoutError.
    """
    follower = threading.Thread(target=_print_log, args=(handle.id, handle), daemon=True)
    follower.start()
    last_state: JobState | None = None
    live = console.status(_line(handle.view)) if console.is_terminal else nullcontext()

    def on_change(view: JobView) -> None:
        nonlocal last_state
        if view.state is not last_state:
            last_state = view.state
            console.print(Text.assemble((f"{view.name} ", "bold"), state_text(view.state.value), _why(view)))
        if isinstance(live, Status):
            live.update(_line(view))

    with live:
        on_change(handle.view)
        explained = False
        while not handle.is_done:
            try:
                handle.wait(2.0 if not explained else timeout_s, on_change)
            except TimeoutError:
                if explained:
                    raise
                explained = True
                if handle.state in {JobState.QUEUED, JobState.PENDING}:
                    console.print(Text(f"  waits: {handle.explain().message}", style="yellow"))
        follower.join(5.0)
    return handle.view


def _print_log(job_id: str, handle: JobHandle) -> None:
    rest: dict[tuple[str, int, str], str] = {}
    try:
        for piece in handle.logs(follow=True):
            source = (piece.attempt, piece.rank, piece.stream)
            *lines, rest[source] = (rest.get(source, "") + piece.text).split("\n")
            for line in lines:
                shown = line.rsplit("\r", 1)[-1]  # of a progress bar the last state
                console.print(Text(f"  | {shown}", style=_STREAM[piece.stream]), soft_wrap=True)
    except errors.FactoryError as exc:
        console.print(Text(f"  (the log of {job_id} cannot be followed: {exc.message})", style="yellow"))
    for line in rest.values():
        if line:
            console.print(Text(f"  | {line}"), soft_wrap=True)


def _why(view: JobView) -> str:
    if view.waiting is not None and view.state not in TERMINAL_STATES:
        return f"  {view.waiting.message}"
    if view.outcome is not None and view.state is not JobState.SUCCEEDED:
        return f"  {view.outcome.reason.value}: {view.outcome.message}"
    return ""


def _line(view: JobView) -> Text:
    return Text.assemble((view.name, "bold"), " ", state_text(view.state.value), " ", progress_text(view))


def progress_text(view: JobView) -> str:
    """Return "42 %  epoch 3  loss 0.21" of the running attempt, "" if it reported nothing."""
    progress = view.progress
    if progress is None:
        return ""
    metrics = "  ".join(f"{name} {value['value']:.4g}" for name, value in sorted(progress.metrics.items())[:4])
    return "  ".join(part for part in (f"{progress.fraction:.0%}", progress.message, metrics) if part)


def outcome_lines(view: JobView) -> list[Text]:
    """Return what to say about how a job ended: cause, whose fault, the traceback's tail, and what to do."""
    lines: list[Text] = []
    outcome = view.outcome
    if outcome is None or view.state is JobState.SUCCEEDED:
        return lines
    lines.append(Text(f"{outcome.reason.value} ({outcome.fault_domain.value}): {outcome.message}", style="red"))
    if outcome.tail:
        lines += [Text(f"  {line}") for line in outcome.tail.rstrip().splitlines()]
    if outcome.hint:
        lines.append(Text(f"hint: {outcome.hint}"))
    return lines
