"""Bodies: JSON that is small, finite and flat enough; raw bytes that stream with a limit.

JSON is checked before a model sees it: bytes are counted as they arrive (chunked or not), nesting is bounded, NaN and
Infinity are refused, so that no canonical form and no comparison downstream meets them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import anyio.from_thread
from fastapi import Request
from fastapi.routing import APIRoute
from pydantic_core import from_json
from starlette.responses import Response

from factory.errors import InvalidRequestError, PayloadTooLargeError

__all__ = ["JsonRoute", "MalformedError", "blocking_chunks", "check_json", "limited", "opened"]

MAX_DEPTH = 64


class MalformedError(InvalidRequestError):
    """The body is no JSON that we take."""

    code = "malformed_json"
    status = 400


class JsonRoute(APIRoute):
    """The route class of every router: models are read from checked JSON."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        original = super().get_route_handler()
        takes_model = self.body_field is not None

        async def handle(request: Request) -> Response:
            if takes_model:
                limit: int = request.app.state.serving.plane.settings.json_limit_bytes
                raw = b"".join([chunk async for chunk in limited(request, limit, "JSON bodies")])
                check_json(raw)
                request._body = raw  # where Starlette keeps a body that was read
            return await original(request)

        return handle


def check_json(raw: bytes) -> None:
    """Refuse what is not plain JSON.

    Raises: MalformedError: no JSON, deeper than 64 levels, or a number that is not finite.
    """
    if not raw:
        return
    try:
        root: object = from_json(raw, allow_inf_nan=False)
    except ValueError as exc:
        raise MalformedError(f"the body is not JSON that we take: {exc}", hint="send one JSON object") from exc
    level: list[object] = [root]
    depth = 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise MalformedError(f"the body is nested deeper than {MAX_DEPTH} levels", hint="flatten it")
        below: list[object] = []
        for value in level:
            if isinstance(value, dict):
                below.extend(value.values())
            elif isinstance(value, list):
                below.extend(value)
            elif isinstance(value, float) and not math.isfinite(value):  # 1e400
                raise MalformedError("the body holds a number that is not finite", hint="send null instead")
        level = [v for v in below if isinstance(v, dict | list | float)]


async def limited(request: Request, limit_bytes: int, what: str) -> AsyncIterator[bytes]:
    """Yield the body as it arrives.

    Raises: PayloadTooLargeError: over `limit_bytes`, by what the header says or by count.
    """
    error = PayloadTooLargeError(
        f"{what} may hold {limit_bytes} bytes; this one is larger",
        hint="send less, or upload data as a file" if what.startswith("JSON") else "raise the limit in the settings",
        facts={"limit_bytes": limit_bytes},
    )
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit_bytes:
        raise error
    seen = 0
    async for chunk in request.stream():
        seen += len(chunk)
        if seen > limit_bytes:
            raise error
        if chunk:
            yield chunk


def opened(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Read the first chunk now, so that what is refused is refused before the answer begins."""
    first = next(chunks, None)
    return iter(()) if first is None else itertools.chain((first,), chunks)


def blocking_chunks(chunks: AsyncIterator[bytes]) -> Iterator[bytes]:
    """Iterate an asynchronous body from a worker thread, chunk by chunk: back-pressure reaches the client.

    Only inside `anyio.to_thread.run_sync`.
    """

    async def following() -> bytes | None:
        return await anext(chunks, None)

    while True:
        chunk = anyio.from_thread.run(following)
        if chunk is None:
            return
        yield chunk
