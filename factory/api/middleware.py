"""The outermost layer: request ids, one log line and two metrics per request, and no stack trace to anybody.

Plain ASGI, so that streams pass untouched.
"""

from __future__ import annotations

import logging
import re
import secrets
import time

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from factory.api.problems import problem_response
from factory.api.serving import Serving
from factory.telemetry.logs import begin_request

__all__ = ["RequestMiddleware"]

_log = logging.getLogger("factory.api.access")
_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")
_UNTIMED = ("wait", "desired", "logs")  # long polls and streams: their time says nothing
_QUIET = ("/livez", "/readyz", "/metrics")


class RequestMiddleware:
    """Wraps the application."""

    def __init__(self, app: ASGIApp, *, serving: Serving) -> None:
        self._app = app
        self._serving = serving
        self._metrics = serving.plane.metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = next((v.decode("latin-1") for k, v in scope["headers"] if k == b"x-request-id"), "")
        request_id = given if _ID.fullmatch(given) else secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        begin_request(request_id=request_id)
        started = time.perf_counter()
        status = 0

        async def tagged(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], (b"x-request-id", request_id.encode())]}
                self._observe(scope, status, time.perf_counter() - started)
            await send(message)

        self._serving.in_flight += 1
        try:
            if self._serving.draining and scope["path"] not in _QUIET:
                await _draining(request_id)(scope, receive, tagged)
                return
            await self._app(scope, receive, tagged)
        except Exception:
            _log.exception("request raised", extra={"event": "request.raised", "path": scope["path"]})
            if status:
                raise  # the answer has begun: all that is left is to break it off
            answer = problem_response(
                500,
                "internal_error",
                "something went wrong inside the factory; the request may or may not have been done",
                hint="quote the request id to whoever runs the factory",
                request_id=request_id,
            )
            await answer(scope, receive, tagged)
        finally:
            self._serving.in_flight -= 1
            level = logging.DEBUG if scope["path"] in _QUIET else logging.INFO
            taken = round((time.perf_counter() - started) * 1000, 1)
            facts = {
                "event": "request",
                "method": scope["method"],
                "path": scope["path"],
                "status": status,
                "ms": taken,
            }
            _log.log(level, "request", extra=facts)

    def _observe(self, scope: Scope, status: int, seconds: float) -> None:
        route = _template(scope)
        self._metrics.requests.labels(scope["method"], route, str(status)).inc()
        if not route.endswith(_UNTIMED):
            self._metrics.request_seconds.labels(scope["method"], route).observe(seconds)


def _draining(request_id: str) -> Response:
    return problem_response(
        503,
        "draining",
        "this server is ending; nothing was done",
        hint="repeat the call",
        request_id=request_id,
        headers={"Connection": "close"},
    )


def _template(scope: Scope) -> str:
    """Return the route's path with its parameters unfilled: ids must not become labels."""
    route = scope.get("route")
    path = getattr(route, "path_format", "") or getattr(route, "path", "")
    if not path:
        return "unknown"
    root = scope["path"].startswith("/api/v1") and not path.startswith("/api/v1")
    return f"/api/v1{path}" if root else path
