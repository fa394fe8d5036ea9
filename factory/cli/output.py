"""What the commands print: tables that fit 80 columns, JSON with --json, errors with their hint, exit codes.

Exit codes: 0 done or the job succeeded; 1 the job failed, or the factory could not; 2 the request was wrong;
124 the job timed out; 130 the job was cancelled.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import typer
from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text

from factory import errors
from factory.domain.jobs import JobState
from factory.schemas.common import WireModel

__all__ = [
    "age",
    "console",
    "emit_json",
    "exit_code_of",
    "fail",
    "is_json",
    "progress",
    "set_json",
    "show_explained",
    "show_folded",
    "show_pairs",
    "show_table",
    "size",
    "span",
    "stamp",
    "state_text",
    "tenths",
    "until",
]

console = Console(highlight=False, soft_wrap=False)
_errors = Console(stderr=True, highlight=False)
_json = False

_STYLES = {
    "succeeded": "green", "published": "green", "ready": "green", "ok": "green", "running": "cyan",
    "failed": "red", "quarantined": "red", "lost": "red", "down": "red", "timed_out": "red",
    "cancelled": "yellow", "cancelling": "yellow", "draining": "yellow", "preempting": "yellow", "queued": "yellow",
    "pending": "yellow", "suspended": "yellow", "deprecated": "yellow",
}  # fmt: skip
_EXIT = {JobState.SUCCEEDED: 0, JobState.FAILED: 1, JobState.TIMED_OUT: 124, JobState.CANCELLED: 130}


def set_json(on: bool) -> None:
    """Print JSON from now on (--json)."""
    global _json
    _json = on


def is_json() -> bool:
    """True under --json."""
    return _json


def emit_json(value: Any) -> None:
    """Print models or plain values as JSON."""
    sys.stdout.write(json.dumps(_plain(value), indent=2, ensure_ascii=False) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, WireModel):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value


def show_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, empty: str) -> None:
    """Print a table; a column name that ends in '>' is right-aligned, one with '*' gives way when space is short."""
    cells = [[cell if isinstance(cell, Text) else Text(str(cell)) for cell in row] for row in rows]
    if not cells:
        console.print(empty, style="dim")
        return
    names = [name.rstrip(">*") for name in columns]
    widths = [max(len(name), *(row[i].cell_len for row in cells)) for i, name in enumerate(names)]
    soft = [i for i, name in enumerate(columns) if "*" in name]
    while sum(widths) + 2 * len(widths) > console.width and (wide := [i for i in soft if widths[i] > 8]):
        widths[max(wide, key=lambda i: widths[i])] -= 1
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", show_edge=False)
    for name, column, width in zip(names, columns, widths, strict=True):
        table.add_column(
            name, justify="right" if ">" in column else "left", no_wrap=True, overflow="ellipsis", width=width
        )
    for row in cells:
        table.add_row(*row)
    console.print(table)


def show_pairs(pairs: Iterable[tuple[str, Any]]) -> None:
    """Print `name  value` lines; pairs with an empty value are left out."""
    kept = [(name, value) for name, value in pairs if value not in (None, "")]
    width = max((len(name) for name, _ in kept), default=0)
    for name, value in kept:
        line = Text(f"{name:<{width}}  ", style="bold")
        line.append_text(value if isinstance(value, Text) else Text(str(value), style="default"))
        console.print(line)


def show_explained(pairs: Iterable[tuple[str, Any]]) -> None:
    """Print `name  value`, long values folded beside their name, a list line by line; empty ones are left out."""
    kept = [(name, value) for name, value in pairs if value not in (None, "", [])]
    width = max((len(name) for name, _ in kept), default=0)
    for name, value in kept:
        for number, part in enumerate(value if isinstance(value, list) else [value]):
            text = part if isinstance(part, Text) else Text(str(part))
            show_folded(text, Text(f"{'' if number else name:<{width}}  ", style="bold"))


def show_folded(text: Text, head: Text) -> None:
    """Print `text` behind `head`, folded so that every line begins where the first does."""
    lines = text.wrap(console, max(20, console.width - head.cell_len))
    for number, line in enumerate(lines):
        line.rstrip()
        console.print(Text.assemble(" " * head.cell_len if number else head, line))


def progress(text: str) -> Status:
    """Show that something is going on, on the error stream and only in a terminal: `with progress("…"):`."""
    return _errors.status(text)


def state_text(state: str) -> Text:
    """Return a state in its colour."""
    return Text(state, style=_STYLES.get(state, "default"))


def stamp(at: int | None) -> str:
    """Return an Instant as local time, "" for None."""
    return "" if at is None else datetime.fromtimestamp(at / 1000, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def age(at: int | None, now_ms: int) -> str:
    """Return how long ago, short: "3m", "2d"."""
    if at is None:
        return ""
    seconds = max(0, now_ms - at) // 1000
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def until(at: int | None, now_ms: int) -> str:
    """Return a time to come for people: "14:20 (in 12m)", with the date where it is not today; "" for None."""
    if at is None:
        return ""
    if at <= now_ms:
        return "now"
    day, clock = stamp(at).split()
    shown = clock[:5] if stamp(now_ms).startswith(day) else f"{day} {clock[:5]}"
    return f"{shown} (in {age(now_ms, at)})"


def tenths(amount: float) -> str:
    """Return an amount with at most one decimal.

    >>> tenths(4.444), tenths(4.0)
    ('4.4', '4')
    """
    return f"{amount:.1f}".removesuffix(".0")


def span(ms: int) -> str:
    """Return a duration for people: two units at most.

    >>> span(0), span(90_000), span(93_600_000)
    ('0s', '1m 30s', '26h')
    """
    seconds = round(ms / 1000)
    hours, minutes = seconds // 3600, seconds // 60 % 60
    if hours:
        return f"{hours}h {minutes}m" if minutes else f"{hours}h"
    if minutes:
        return f"{minutes}m {seconds % 60}s" if seconds % 60 else f"{minutes}m"
    return f"{seconds}s"


def size(count: float) -> str:
    """Return bytes for people: "1.5 GiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def exit_code_of(state: JobState) -> int:
    """Return the exit code that stands for how a job ended; 1 while it has not."""
    return _EXIT.get(state, 1)


def fail(error: BaseException) -> typer.Exit:
    """Print an error for a person (or as JSON) and return the exit to raise."""
    if isinstance(error, errors.FactoryError):
        code, message, hint = error.code, error.message, error.hint
        exit_code = 2 if isinstance(error, errors.InvalidRequestError | errors.NotFoundError) else 1
        if isinstance(error, errors.JobCancelledError):
            exit_code = 130
    else:
        code, message, hint, exit_code = "timeout", str(error), "", 124
    if _json:
        emit_json({"error": {"code": code, "detail": message, "hint": hint}})
    else:
        _errors.print(Text.assemble(("error: ", "bold red"), message))
        for check in _checks(error):
            _errors.print(Text(f"  - {check}"))
        if hint:
            _errors.print(Text.assemble(("  hint: ", "bold"), hint))
    if os.environ.get("FACTORY_TRACE"):  # for the factory's own engineers
        raise error
    return typer.Exit(exit_code)


def _checks(error: BaseException) -> list[str]:
    found = error.facts.get("checks") if isinstance(error, errors.FactoryError) else None
    if not isinstance(found, list):
        return []
    lines = [check.get("message") if isinstance(check, dict) else str(check) for check in found]
    return [line for line in lines if line]
