"""The application: routers, errors as problems, the outermost middleware. It starts nothing (see server.py)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from fastapi import FastAPI

from factory import __version__
from factory.api import problems
from factory.api.middleware import RequestMiddleware
from factory.api.routes import attempt, datasets, health, history, jobs, logs, mlflow, models, platform, runner
from factory.api.serving import Serving
from factory.schemas.common import API

__all__ = ["create_app"]

_ABOUT = """The AI Factory's REST API. Errors are `application/problem+json` with a stable `code`, a `detail`, a `hint`
and a `request_id`. Send `Authorization: Bearer <key>`. Times are milliseconds since the epoch, UTC."""


def create_app(
    serving: Serving, *, lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]] | None = None
) -> FastAPI:
    """Return the application over a control plane."""
    app = FastAPI(
        title="AI Factory",
        version=__version__,
        description=_ABOUT,
        lifespan=lifespan,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        generate_unique_id_function=lambda route: f"{route.tags[0] if route.tags else 'api'}_{route.name}",
        redirect_slashes=False,
    )
    app.state.serving = serving
    problems.install(app)
    app.include_router(health.open_router)
    for module in (jobs, logs, datasets, models, platform, history, runner, attempt):
        app.include_router(module.router, prefix=API)
    app.include_router(health.router, prefix=API)
    app.include_router(mlflow.router)
    app.add_middleware(RequestMiddleware, serving=serving)
    app.openapi = _documented(app)  # pyright: ignore[reportAttributeAccessIssue]  # FastAPI's own way to extend it
    return app


def _documented(app: FastAPI) -> Callable[[], dict[str, Any]]:
    """Return `app.openapi` with every error as a problem (FastAPI documents its own shape for 422)."""
    original = app.openapi

    def openapi() -> dict[str, Any]:
        schema = original()
        for path in schema["paths"].values():
            for operation in path.values():
                for status, answer in operation.get("responses", {}).items():
                    content = answer.get("content", {})
                    # FastAPI adds its own 422 wherever there is a parameter
                    if status[0] == "4" or problems.PROBLEM_TYPE in content:
                        ref = {"$ref": "#/components/schemas/Problem"}
                        answer["content"] = {problems.PROBLEM_TYPE: {"schema": ref}}
        for unused in ("HTTPValidationError", "ValidationError"):
            schema["components"]["schemas"].pop(unused, None)
        return schema

    return openapi
