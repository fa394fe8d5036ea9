"""`factory jobs …`."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from factory import errors
from factory.cli.commands import submitting
from factory.cli.output import (
    age,
    console,
    emit_json,
    exit_code_of,
    is_json,
    show_explained,
    show_table,
    span,
    stamp,
    state_text,
    until,
)

if TYPE_CHECKING:
    from factory.schemas.jobs import ExplanationView, JobView
    from factory.sdk.client import Client

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Submit, plan, list, explain, follow and cancel jobs."
)
app.command("submit")(submitting.submit)
app.command("plan")(submitting.plan)
JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="Job id, or its beginning.")]


def _client() -> Client:
    from factory.sdk.client import Client

    return Client()


@app.command("list")
def list_jobs(
    state: Annotated[str | None, typer.Option(help="Only jobs in this state.")] = None,
    queue: Annotated[str | None, typer.Option(help="Only jobs of this queue.")] = None,
    name: Annotated[str | None, typer.Option(help="Only jobs of this name.")] = None,
    limit: Annotated[int, typer.Option(help="How many, newest first.")] = 20,
) -> None:
    """List jobs, newest first."""
    views = _client().jobs.list(state=state, queue=queue, name=name, limit=limit)
    if is_json():
        emit_json(views)
        return
    now = int(time.time() * 1000)
    show_table(
        ("JOB", "NAME*", "STATE", "AGE>", "WHY*"),
        [(v.id, v.name, state_text(v.state.value), age(v.submitted_at, now), _why(v)) for v in views],
        empty="no jobs",
    )


def _why(view: JobView) -> str:
    if view.outcome is not None and view.outcome.reason.value != "Completed":
        return view.outcome.reason.value
    if view.waiting is not None:
        return view.waiting.reason.value
    return ""


def _find(client: Client, job: str) -> Any:
    try:
        return client.jobs.get(job)
    except errors.NotFoundError:
        matches = [v for v in client.jobs.list(limit=200) if v.id.startswith(job) or v.name == job]
        if not matches or not job:
            raise
        if len(matches) > 1 and len({v.name for v in matches}) > 1:
            raise errors.InvalidRequestError(
                f"'{job}' fits {len(matches)} jobs: {', '.join(v.id for v in matches[:3])}"
            ) from None
        return client.jobs.get(matches[0].id)


@app.command()
def show(job: JobArgument) -> None:
    """Show a job with its attempts."""
    from factory.cli.watching import outcome_lines, progress_text

    view: JobView = _find(_client(), job).refresh()
    if is_json():
        emit_json(view)
        return
    waiting = view.waiting
    show_explained(
        [
            ("job", view.id),
            ("name", f"{view.name}  ({view.kind})"),
            ("state", state_text(view.state.value)),
            ("waits", f"{waiting.reason.value}: {waiting.message}" if waiting else ""),
            ("queue", f"{view.queue}, priority {view.priority.value}"),
            ("asks", _asks(view)),
            ("submitted", f"{stamp(view.submitted_at)} by {view.submitted_by}"),
            ("ended", stamp(view.ended_at)),
            ("progress", progress_text(view)),
            ("reads", ", ".join(f"{k}={v}" for k, v in view.inputs.items())),
            ("wrote", ", ".join(view.datasets)),
            ("models", ", ".join(view.models)),
            ("result", json.dumps(view.result, ensure_ascii=False) if view.has_result else ""),
        ]
    )
    for line in outcome_lines(view):
        console.print(line, soft_wrap=True)
    if view.attempts:
        console.print()
        show_table(
            ("ATTEMPT>", "STATE", "POOL", "SLOTS>", "NODES*", "RAN", "END*"),
            [
                (
                    a.ordinal,
                    state_text(a.state.value),
                    a.pool,
                    f"{a.slots:g}",
                    ",".join(sorted({p.node for p in a.placements})),
                    _span(a.running_at, a.ended_at),
                    a.outcome.reason.value if a.outcome else (f"stopping: {a.stopping.value}" if a.stopping else ""),
                )
                for a in view.attempts
            ],
            empty="",
        )
        for a in view.attempts:
            if a.preempted_for:
                console.print(f"attempt {a.ordinal} made room for {a.preempted_for}", soft_wrap=True)


def _asks(view: JobView) -> str:
    """Return what it said to the scheduler; "" if nothing."""
    least = f", at least {view.min_replicas}" if view.min_replicas is not None else ""
    said = [
        f"{view.replicas} replicas{least}" if view.replicas > 1 else "",
        view.topology.value if view.topology.value != "any" else "",
        f"flavor {', '.join(view.flavors)}" if view.flavors else "",
        f"GPU {' or '.join(view.gpu_models)}" if view.gpu_models else "",
        f"about {span(view.estimate_s * 1000)}" if view.estimate_s is not None else "",
    ]
    return "; ".join(part for part in said if part)


def _span(start: int | None, end: int | None) -> str:
    if start is None:
        return "-"
    return age(start, end if end is not None else int(time.time() * 1000))


@app.command()
def explain(job: JobArgument) -> None:
    """Say why a job is where it is, with numbers, when it is expected to start, and what would help."""
    handle = _find(_client(), job)
    view = handle.explain()
    if is_json():
        emit_json(view)
        return
    now = int(time.time() * 1000)
    shown: JobView = handle.view
    waiting = view.waiting
    since = f" for {age(shown.state_since, now)}" if waiting else ""
    nominal = "" if view.nominal_slots is None else f" of {view.nominal_slots:g} nominal"
    show_explained(
        [
            ("job", f"{view.job_id}  ({shown.name}, priority {shown.priority.value})"),
            ("state", Text.assemble(state_text(view.state.value), since)),
            ("reason", Text(waiting.reason.value, style="yellow") if waiting else ""),
            ("because", _sentence(waiting.message) if waiting else view.message),
            ("helps", [f"- {text}" for text in _helps(view)]),
            ("position", f"{view.position} of {view.queue_length} in queue {view.queue}" if view.position else ""),
            ("share", f"queue {view.queue} holds {view.used_slots:g}{nominal} slots{_above(view)}" if waiting else ""),
            ("start", f"expected {until(view.expected_start, now)}" if view.expected_start else _unknown(view)),
        ]
    )


def _helps(view: ExplanationView) -> list[str]:
    """Return what would help: the reason's hint first, nothing twice."""
    said = [view.waiting.hint] if view.waiting is not None and view.waiting.hint else []
    return list(dict.fromkeys([*said, *view.helps]))


def _above(view: ExplanationView) -> str:
    """Return how far its queue is above quota: of several, the least goes first."""
    if not view.fair_share:
        return ""
    if view.fair_share > 1000:
        return ", above its quota with weight 0: after all others"
    return f", {view.fair_share:.1%} of a pool above its quota (per weight)"


def _unknown(view: ExplanationView) -> str:
    return "not known: nothing tells how long those before it will run" if view.position else ""


def _sentence(text: str) -> str:
    return text if text.endswith((".", "?", "!")) else f"{text}."


@app.command()
def logs(
    job: JobArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until it ends; exit code = outcome.")] = False,
    attempt: Annotated[str | None, typer.Option(help="Only this attempt.")] = None,
) -> None:
    """Print a job's log: all attempts, or follow it live. --json: one object per piece and line."""
    handle = _find(_client(), job)
    for piece in handle.logs(follow=follow, attempt=attempt):
        sys.stdout.write(json.dumps(asdict(piece), ensure_ascii=False) + "\n" if is_json() else piece.text)
        sys.stdout.flush()
    if follow:
        raise typer.Exit(exit_code_of(handle.wait().state))


@app.command()
def wait(job: JobArgument, timeout: Annotated[float | None, typer.Option(help="Seconds at most.")] = None) -> None:
    """Wait for a job; the exit code is its outcome."""
    view = _find(_client(), job).wait(timeout)
    if is_json():
        emit_json(view)
    else:
        console.print(Text.assemble(view.id, " ", state_text(view.state.value)))
    raise typer.Exit(exit_code_of(view.state))


@app.command()
def cancel(job: JobArgument) -> None:
    """Cancel a job; once this returns it is final."""
    view = _find(_client(), job).cancel()
    if is_json():
        emit_json(view)
    else:
        console.print(Text.assemble(view.id, " ", state_text(view.state.value)))


@app.command()
def priority(
    job: JobArgument, to: Annotated[str, typer.Argument(metavar="PRIORITY", help="high, normal or low.")]
) -> None:
    """Move a job that waits to another priority class."""
    view = _find(_client(), job).set_priority(to)
    if is_json():
        emit_json(view)
    else:
        console.print(Text.assemble(view.id, " ", state_text(view.state.value), f", priority {view.priority.value}"))


@app.command()
def events(job: JobArgument) -> None:
    """Everything that happened to a job."""
    found = _find(_client(), job).events()
    if is_json():
        emit_json(found)
        return
    show_table(("SEQ>", "AT", "EVENT"), [(e.seq, stamp(e.at), e.type) for e in found], empty="no events")
