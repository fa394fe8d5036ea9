"""Is it there, is it ready, how is it: /livez, /readyz, /metrics, and GET /status."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import JSONResponse, Response

from factory.api.auth import Reach, needs
from factory.api.bodies import JsonRoute
from factory.api.problems import problem_responses
from factory.api.serving import plane_of, serving_of
from factory.api.status import health_of, status_view
from factory.domain.tenancy import Principal, Role
from factory.schemas.platform import StatusView
from factory.telemetry.metrics import CONTENT_TYPE

__all__ = ["open_router", "router"]

open_router = APIRouter(tags=["health"], route_class=JsonRoute)
router = APIRouter(tags=["platform"], route_class=JsonRoute)


@open_router.get("/livez")
async def livez() -> dict[str, str]:
    """200 while the process serves."""
    return {"status": "ok"}


@open_router.get("/readyz", responses={503: {"description": "Not ready; the body says which part."}})
def readyz(request: Request) -> Response:
    """200 when the database answers, and this process leads and its loop turns, or follows.

    Runners and MLflow are shown and decide nothing: without them the factory still takes and keeps jobs.
    """
    health = health_of(serving_of(request))
    return JSONResponse(health.body(), 200 if health.is_ready else 503)


@open_router.get("/metrics", response_class=Response, responses=problem_responses(401, 403))
def metrics(request: Request, _principal: Annotated[Principal, Depends(needs(Role.METRICS))]) -> Response:
    """Prometheus text."""
    return Response(plane_of(request).metrics.render(), headers={"Content-Type": CONTENT_TYPE})


@router.get("/status")
def status(request: Request, principal: Annotated[Principal, Depends(needs(Role.VIEWER, Reach.ALL))]) -> StatusView:
    """What the factory is made of and how each part is."""
    return status_view(serving_of(request), principal)
