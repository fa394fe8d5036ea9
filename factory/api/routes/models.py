"""/algorithms, /models and /endpoints."""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response, StreamingResponse

from factory.api.auth import needs
from factory.api.bodies import JsonRoute, opened
from factory.api.lineage import model_lineage
from factory.api.paging import Cursor, Limit, page_of
from factory.api.problems import problem_responses
from factory.api.routes.datasets import BYTES
from factory.api.serving import plane_of, serving_of
from factory.domain.algorithms import AlgorithmManifest, TensorSpec
from factory.domain.ids import EndpointName, ModelName
from factory.domain.tenancy import Principal, Role
from factory.schemas.common import API, Number, Page
from factory.schemas.datasets import LineageView
from factory.schemas.models import (
    AlgorithmView,
    DeployRequest,
    EndpointView,
    ModelVersionView,
    ModelView,
    PromotionView,
)

__all__ = ["router"]

router = APIRouter(tags=["models"], route_class=JsonRoute, responses=problem_responses(401, 403, 404, 422))
Viewer = Annotated[Principal, Depends(needs(Role.VIEWER))]
Operator = Annotated[Principal, Depends(needs(Role.OPERATOR))]


@router.get("/algorithms")
def list_algorithms(
    request: Request, _principal: Viewer, limit: Limit = 50, cursor: Cursor = None
) -> Page[AlgorithmView]:
    """The catalogue: the same for every tenant."""
    views = [_algorithm(m) for m in plane_of(request).catalogue.list()]
    return page_of(views, lambda v: f"{v.name}@{v.version}", cursor=cursor, limit=limit)


@router.get("/algorithms/{name}")
def get_algorithm(request: Request, name: str, _principal: Viewer, version: str | None = None) -> AlgorithmView:
    """One algorithm; without `version` the newest."""
    return _algorithm(plane_of(request).catalogue.get(name, version))


@router.get("/models")
def list_models(request: Request, principal: Viewer, limit: Limit = 50, cursor: Cursor = None) -> Page[ModelView]:
    """The tenant's models."""
    return plane_of(request).models.list(principal, cursor=cursor, limit=limit)


@router.get("/models/{name}")
def get_model(request: Request, name: str, principal: Viewer) -> ModelView:
    """One model and its versions."""
    return plane_of(request).models.get(principal, ModelName(name))


@router.get("/models/{name}/versions/{number}")
def get_model_version(request: Request, name: str, number: Number, principal: Viewer) -> ModelVersionView:
    """One version with its metrics and lineage."""
    return plane_of(request).models.version(principal, ModelName(name), number)


@router.post("/models/{name}/versions/{number}:promote", responses=problem_responses(409))
def promote(request: Request, name: str, number: Number, principal: Operator) -> PromotionView:
    """Move `champion` to it if the gate says yes; 409 `promotion_refused` holds each rule with its numbers."""
    plane = plane_of(request)
    done = plane.models.promote(principal, ModelName(name), number, now=plane.clock.now())
    serving_of(request).projection_bell.ring()
    return done


@router.get("/models/{name}/versions/{number}/lineage")
def lineage(request: Request, name: str, number: Number, principal: Viewer) -> LineageView:
    """What it came from and what came of it."""
    return model_lineage(plane_of(request), principal, ModelName(name), number)


@router.get(
    "/models/{name}/versions/{number}/file",
    response_class=StreamingResponse,
    responses={200: {"content": {BYTES: {}}, "description": "The model file."}},
)
def model_file(request: Request, name: str, number: Number, principal: Viewer) -> StreamingResponse:
    """The model file's bytes."""
    chunks = plane_of(request).models.open_file(principal, ModelName(name), number)
    return StreamingResponse(opened(chunks), media_type=BYTES)


@router.put(
    "/endpoints/{name}",
    responses=problem_responses(409) | {201: {"model": EndpointView, "description": "It is new."}},
)
def deploy(request: Request, response: Response, name: str, body: DeployRequest, principal: Operator) -> EndpointView:
    """Let `name` serve a model. The same request again changes nothing."""
    plane = plane_of(request)
    done = plane.endpoints.deploy(principal, EndpointName(name), body, now=plane.clock.now())
    if done.created:
        response.status_code = 201
        response.headers["Location"] = f"{API}/endpoints/{name}"
    return done.view


@router.get("/endpoints")
def list_endpoints(request: Request, principal: Viewer, limit: Limit = 50, cursor: Cursor = None) -> Page[EndpointView]:
    """The tenant's endpoints."""
    return plane_of(request).endpoints.list(principal, cursor=cursor, limit=limit)


@router.get("/endpoints/{name}")
def get_endpoint(request: Request, name: str, principal: Viewer) -> EndpointView:
    """One endpoint: where it answers, and what stands behind it."""
    return plane_of(request).endpoints.get(principal, EndpointName(name))


@router.delete("/endpoints/{name}", status_code=202)
def delete_endpoint(request: Request, name: str, principal: Operator) -> EndpointView:
    """Begin to delete it: its replicas are stopped, then the name is free."""
    plane = plane_of(request)
    return plane.endpoints.delete(principal, EndpointName(name), now=plane.clock.now())


def _algorithm(m: AlgorithmManifest) -> AlgorithmView:
    inputs: tuple[dict[str, Any], ...] = tuple(
        {"name": i.name, "description": i.description, "series": i.series} for i in m.inputs
    )
    metrics: tuple[dict[str, Any], ...] = tuple(
        {"name": x.name, "direction": x.direction, "unit": x.unit, "primary": x.primary} for x in m.metrics
    )
    return AlgorithmView(
        name=m.name,
        version=m.version,
        title=m.title,
        description=m.description,
        task=m.task,
        owner=m.owner,
        licence=m.licence,
        params_schema=json.loads(m.params_schema_json),
        defaults=json.loads(m.defaults_json),
        inputs=inputs,
        metrics=metrics,
        model_format=m.model_format,
        code_digest=m.code_digest,
        request=tuple(_tensor(t) for t in m.request),
        response=tuple(_tensor(t) for t in m.response),
    )


def _tensor(t: TensorSpec) -> dict[str, Any]:
    return {"name": t.name, "datatype": t.datatype, "shape": list(t.shape), "description": t.description}
