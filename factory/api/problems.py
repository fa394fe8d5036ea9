"""Every error as `application/problem+json` (RFC 9457): code, detail, hint, request id; never a stack trace.

A `FactoryError` says its own status and code; the framework's errors (no such route, wrong method, a body that does not
fit its model) are said in the same words.
"""

from __future__ import annotations

import json
import logging
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response

from factory.errors import FactoryError, InvalidRequestError, did_you_mean
from factory.schemas.common import Problem

__all__ = ["PROBLEM_TYPE", "install", "problem_response", "validation_error"]

PROBLEM_TYPE = "application/problem+json"
RETRY_AFTER_S = 2
_log = logging.getLogger(__name__)
_TITLES = {
    400: "Bad request", 401: "Not authenticated", 403: "Forbidden", 404: "Not found", 405: "Method not allowed",
    409: "Conflict", 410: "Gone", 413: "Too large", 415: "Unsupported media type", 422: "Invalid request",
    429: "Too many requests",
    500: "Internal error", 502: "Bad gateway", 503: "Unavailable", 507: "Out of storage",
}  # fmt: skip


def problem_response(
    status: int,
    code: str,
    detail: str,
    *,
    hint: str = "",
    facts: Mapping[str, object] | None = None,
    request_id: str = "",
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return a problem as an answer."""
    title = _TITLES.get(status, "Error")
    problem = {"type": "about:blank", "title": title, "status": status, "code": code, "detail": detail, "hint": hint}
    problem |= {"request_id": request_id, "facts": dict(facts or {})}
    body = json.dumps(problem, ensure_ascii=False, default=str).encode()
    extra = dict(headers or {})
    if status == 401:
        extra.setdefault("WWW-Authenticate", "Bearer")
    if status == 503:
        extra.setdefault("Retry-After", str(RETRY_AFTER_S))
    if status == 413:
        extra.setdefault("Connection", "close")  # the rest of the body is not read
    return Response(body, status, headers=extra, media_type=PROBLEM_TYPE)


def install(app: FastAPI) -> None:
    """Answer every error of `app` as a problem."""
    app.add_exception_handler(FactoryError, _on_factory_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)


def request_id_of(request: Request) -> str:
    """Return the request's id, "" outside the middleware."""
    return str(request.scope.get("state", {}).get("request_id", ""))


async def _on_factory_error(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, FactoryError)
    if exc.status >= 500 and exc.status != 503:
        _log.error("request failed", exc_info=exc, extra={"event": "request.failed", "code": exc.code})
    return problem_response(
        exc.status, exc.code, exc.message, hint=exc.hint, facts=exc.facts, request_id=request_id_of(request)
    )


async def _on_http(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    code = {400: "bad_request", 404: "not_found", 405: "method_not_allowed", 413: "payload_too_large"}
    detail, hint = str(exc.detail), ""
    if exc.status_code == 404:
        detail, hint = f"there is nothing at {request.url.path}", "see: /docs"
    elif exc.status_code == 405:
        detail = f"{request.method} is not allowed on {request.url.path}"
        hint = f"allowed: {exc.headers.get('Allow', '')}" if exc.headers else ""
    return problem_response(
        exc.status_code,
        code.get(exc.status_code, "http_error"),
        detail,
        hint=hint,
        request_id=request_id_of(request),
        headers=exc.headers,
    )


async def _on_invalid(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, RequestValidationError)
    route = request.scope.get("route")
    body_field = getattr(route, "body_field", None)
    model = getattr(getattr(body_field, "field_info", None), "annotation", None)
    return await _on_factory_error(request, validation_error(exc.errors(), model))


def validation_error(errors: Sequence[Mapping[str, Any]], model: object = None) -> InvalidRequestError:
    """Return what pydantic found as one error: the first in words, all of them as facts.

    Args:
        model: the body's model; with it an unknown field gets a "did you mean".
    """
    found: list[dict[str, str]] = []
    hint = ""
    for error in errors[:20]:
        loc = tuple(error["loc"])
        inside = loc[1:] if loc and loc[0] in ("body", "query", "path", "header") else loc
        path = ".".join(str(part) for part in inside) or str(loc[0] if loc else "body")
        message = str(error["msg"]).removeprefix("Value error, ")
        if error["type"] == "extra_forbidden":
            known = _fields_at(model, inside[:-1]) if loc[:1] == ("body",) else ()
            name = str(inside[-1]) if inside else path
            message = f"unknown field '{name}'{did_you_mean(name, known)}"
            if known and not hint:
                hint = f"fields here: {', '.join(sorted(known))}"
        found.append({"field": path, "message": message, "type": str(error["type"])})
    first = found[0] if found else {"field": "body", "message": "is not valid"}
    return InvalidRequestError(
        f"{first['field']}: {first['message']}" + (f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""),
        hint=hint or "see: /docs",
        facts={"errors": found},
    )


def _fields_at(model: object, path: Iterable[object]) -> tuple[str, ...]:
    """Return the field names of the model that `path` leads to from `model`, () where it leads to none."""
    at = _models_in(model)
    for part in path:
        fields = [m.model_fields[part].annotation for m in at if isinstance(part, str) and part in m.model_fields]
        # an index or a key of a mapping stays at the element's model, which `_models_in` has already unwrapped
        at = [found for f in fields for found in _models_in(f)] if fields else at
    return tuple(sorted({name for m in at for name in m.model_fields}))


def _models_in(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for arg in typing.get_args(annotation) for m in _models_in(arg)]


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI documentation of these problem answers."""
    return {
        s: {"model": Problem, "description": _TITLES.get(s, "Problem"), "content": {PROBLEM_TYPE: {}}} for s in statuses
    }
