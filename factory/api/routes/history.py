"""/history: what was asked of the factory in a period, for replaying it with other settings (platform role)."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request

from factory.api.auth import Reach, needs
from factory.api.bodies import JsonRoute
from factory.api.paging import Cursor, Limit
from factory.api.problems import problem_responses
from factory.api.serving import plane_of
from factory.domain.ids import JobId
from factory.domain.tenancy import Principal, Role
from factory.schemas.history import HistoryFleet, HistoryPage

__all__ = ["router"]

router = APIRouter(tags=["history"], route_class=JsonRoute, responses=problem_responses(401, 403, 422))
Platform = Annotated[Principal, Depends(needs(Role.PLATFORM, Reach.ALL))]


@router.get("/history/jobs")
def history_jobs(
    request: Request,
    principal: Platform,
    since: Annotated[int, Query(ge=0, lt=2**53, description="Beginning of the period, ms since the epoch.")],
    until: Annotated[int, Query(ge=0, lt=2**53, description="Its end.")],
    limit: Limit = 200,
    cursor: Cursor = None,
) -> HistoryPage:
    """The jobs of every tenant that waited or ran in the period, newest first, with how long they held their slots.

    A page may hold fewer than `limit`, even none, while there are more: go on while there is a cursor.
    """
    plane = plane_of(request)
    before = JobId(cursor) if cursor else None
    return plane.history.jobs(principal, since=since, until=until, before=before, limit=limit, now=plane.clock.now())


@router.get("/history/fleet")
def history_fleet(request: Request, principal: Platform) -> HistoryFleet:
    """Pools, nodes and queues as they are now, in the integers that the scheduler decides with."""
    return plane_of(request).history.fleet(principal)
