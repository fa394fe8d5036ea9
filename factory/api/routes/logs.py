"""GET /jobs/{id}/logs: the log so far as text, or followed as server-sent events that resume where a client stopped.

The event id is the whole position: `<attempt ordinal>.<rank>.<o|e>=<bytes>` for each stream, comma-separated.
"""

from __future__ import annotations

import codecs
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Literal

from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Header, Query, Request
from starlette.responses import Response, StreamingResponse

from factory.api.auth import Reach, needs
from factory.api.bodies import JsonRoute
from factory.api.logbook import LogBook, StreamId
from factory.api.problems import problem_responses
from factory.api.serving import Serving, plane_of, serving_of
from factory.api.wakes import job_topic, logs_topic
from factory.domain.ids import JobId
from factory.domain.jobs import Attempt, Job
from factory.domain.tenancy import Principal, Role
from factory.errors import InvalidRequestError, NotFoundError

__all__ = ["router"]

router = APIRouter(tags=["jobs"], route_class=JsonRoute, responses=problem_responses(401, 403, 404, 422))
ById = Annotated[Principal, Depends(needs(Role.VIEWER, Reach.ALL))]

_utf8 = codecs.getincrementaldecoder("utf-8")
_PIECE = 64 * 1024  # bytes of one event
_KEEPALIVE_S = 15.0
_QUIET_S = 0.5  # after the job's end: how long no byte may come before the log counts as whole
_LATE_S = 10.0  # an end longer ago than this needs no such wait
_POSITION = re.compile(r"(\d{1,6})\.(\d{1,6})\.([oe])=(\d{1,18})")

_Wanted = Callable[[Job], list[Attempt]]
_Chosen = Callable[[StreamId], bool]
Position = dict[tuple[int, StreamId], int]  # (attempt ordinal, stream) -> bytes that the client has


@router.get(
    "/jobs/{job_id}/logs",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}, "text/event-stream": {}}, "description": "The log."}},
)
async def logs(
    request: Request,
    job_id: str,
    principal: ById,
    attempt: Annotated[str | None, Query(description="An attempt's id; by default all, in order.")] = None,
    rank: Annotated[int | None, Query(ge=0)] = None,
    stream: Literal["stdout", "stderr"] | None = None,
    follow: bool = False,
    last_event_id: Annotated[str | None, Header(max_length=100_000)] = None,
) -> Response:
    """The log; with `follow` as server-sent events `log`, and `end` with the job's state."""
    serving, plane = serving_of(request), plane_of(request)
    ident = JobId(job_id)
    job = await run_sync(lambda: plane.jobs.get(principal, ident))
    if attempt is not None and all(a.id != attempt for a in job.attempts):
        raise NotFoundError("attempt", attempt, [a.id for a in job.attempts])

    def wanted(of: Job) -> list[Attempt]:
        return [a for a in of.attempts if attempt in (None, a.id)]

    def chosen(ident: StreamId) -> bool:
        return rank in (None, ident[0]) and stream in (None, ident[1])

    if not follow:
        text = await run_sync(lambda: _text(serving.logs, wanted(job), chosen))
        return StreamingResponse(text, media_type="text/plain; charset=utf-8")
    position = _parse(last_event_id)

    async def events() -> AsyncIterator[bytes]:
        async for event in _follow(serving, principal, ident, wanted, chosen, position):
            yield event

    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(events(), media_type="text/event-stream", headers=headers)


def _text(book: LogBook, attempts: list[Attempt], chosen: _Chosen) -> Iterator[bytes]:
    parts = [(a, s) for a in attempts for s in book.streams(a.id) if chosen(s)]
    many = len({(a.id, s[0]) for a, s in parts}) > 1
    for attempt, ident in parts:
        if many:
            yield f"==> attempt {attempt.ordinal}, rank {ident[0]}, {ident[1]} <==\n".encode()
        yield from book.read(attempt.id, ident)


async def _follow(
    serving: Serving, principal: Principal, ident: JobId, wanted: _Wanted, chosen: _Chosen, position: Position
) -> AsyncIterator[bytes]:
    plane, hub, book = serving.plane, serving.hub, serving.logs
    spoke_at = time.monotonic()
    with hub.subscribe(job_topic(ident)) as news:
        while True:
            job = await run_sync(lambda: plane.jobs.get(principal, ident))
            is_over = job.is_terminal
            for attempt in wanted(job):
                news.watch(logs_topic(attempt.id))
            got_any = False
            for attempt in wanted(job):
                for stream in [s for s in await run_sync(lambda a=attempt: book.streams(a.id)) if chosen(s)]:
                    key = (attempt.ordinal, stream)
                    at = position.get(key, 0)
                    pieces = _Pieces(book, attempt.id, stream, at)
                    decoder = _utf8("replace")
                    while piece := await run_sync(pieces.next):
                        text = decoder.decode(piece)
                        at += len(piece)
                        if not text:
                            continue  # only part of a character so far
                        got_any = True
                        data = {"attempt": attempt.id, "rank": stream[0], "stream": stream[1]}
                        data |= {"offset": position.get(key, 0), "text": text}
                        # a character that is not whole yet is not counted: it is read again with its rest
                        position[key] = at - len(decoder.getstate()[0])
                        yield _event("log", data, _format(position))
                        spoke_at = time.monotonic()
            if got_any:
                continue
            if is_over:
                is_recent = plane.clock.now() - (job.ended_at or 0) < _LATE_S * 1000
                if not (is_recent and await news.wait(_QUIET_S)):
                    yield _event("end", {"state": job.state.value}, _format(position))
                    return
                continue
            if hub.is_closed:
                return  # the server drains: the client resumes elsewhere
            woken = await news.wait(min(_KEEPALIVE_S, hub.nap_s))
            if not woken and time.monotonic() - spoke_at >= _KEEPALIVE_S:
                spoke_at = time.monotonic()
                yield b": still here\n\n"


class _Pieces:
    """Bytes of one stream in pieces of at most `_PIECE`; b"" at the end of what is stored."""

    def __init__(self, book: LogBook, attempt: str, stream: StreamId, start: int) -> None:
        self._chunks = book.read(attempt, stream, start)
        self._left = b""

    def next(self) -> bytes:
        if not self._left:
            self._left = next(self._chunks, b"")
        piece, self._left = self._left[:_PIECE], self._left[_PIECE:]
        return piece


def _event(name: str, data: dict[str, object], ident: str) -> bytes:
    return f"id: {ident}\nevent: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


def _format(position: Position) -> str:
    return ",".join(f"{o}.{s[0]}.{s[1][3]}={n}" for (o, s), n in sorted(position.items()))


def _parse(text: str | None) -> Position:
    found: Position = {}
    for part in (text or "").split(","):
        if not part:
            continue
        match = _POSITION.fullmatch(part)
        if match is None:
            raise InvalidRequestError("Last-Event-ID is not a position of this log", hint="begin without it")
        name = "stdout" if match[3] == "o" else "stderr"
        found[int(match[1]), (int(match[2]), name)] = int(match[4])
    return found
