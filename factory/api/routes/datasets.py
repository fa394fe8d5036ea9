"""/bundles, /uploads and /datasets: code and data in, versions with their verdicts out."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response, StreamingResponse

from factory.api.auth import needs
from factory.api.bodies import JsonRoute, blocking_chunks, limited, opened
from factory.api.lineage import dataset_lineage
from factory.api.paging import Cursor, Limit
from factory.api.problems import problem_responses
from factory.api.serving import plane_of, serving_of
from factory.domain.ids import DatasetName
from factory.domain.jobs import Purpose
from factory.domain.tenancy import Principal, Role
from factory.errors import NotFoundError
from factory.schemas.common import API, Number, Page
from factory.schemas.datasets import (
    DatasetView,
    FindUploadRequest,
    LineageView,
    RegisterRequest,
    UploadView,
    VersionView,
)

__all__ = ["BYTES", "RAW_BODY", "router"]

router = APIRouter(tags=["data"], route_class=JsonRoute, responses=problem_responses(401, 403, 404, 422))
Viewer = Annotated[Principal, Depends(needs(Role.VIEWER))]
Operator = Annotated[Principal, Depends(needs(Role.OPERATOR))]
BYTES = "application/octet-stream"
RAW_BODY = {"requestBody": {"required": True, "content": {BYTES: {"schema": {"type": "string", "format": "binary"}}}}}


@router.head("/bundles/{digest}", status_code=204, response_class=Response)
def has_bundle(request: Request, digest: str, principal: Operator) -> Response:
    """204 if this code has been uploaded by the tenant, else 404."""
    if not plane_of(request).bundles.has(principal.acting_tenant(), [digest]):
        raise NotFoundError("bundle", digest)
    return Response(status_code=204)


@router.put("/bundles/{digest}", status_code=201, openapi_extra=RAW_BODY, responses=problem_responses(413))
async def put_bundle(request: Request, digest: str, principal: Operator) -> dict[str, str]:
    """Store code under its digest."""
    plane = plane_of(request)
    chunks = limited(request, plane.settings.bundle_limit_bytes, "code bundles")
    tenant = principal.acting_tenant()
    await serving_of(request).uploads.run(tenant, lambda: plane.bundles.put(tenant, digest, blocking_chunks(chunks)))
    return {"digest": digest}


@router.post("/uploads", status_code=201, openapi_extra=RAW_BODY, responses=problem_responses(413))
async def upload(
    request: Request,
    principal: Operator,
    filename: Annotated[str, Query(min_length=1, max_length=255)],
    format: Annotated[Literal["csv", "parquet", "arrow"], Query()],
) -> UploadView:
    """Stream a file to staging; register it as a dataset version next."""
    plane = plane_of(request)
    limit = plane.settings.upload_limit_bytes
    chunks = limited(request, limit, "uploads")
    now = plane.clock.now()
    return await serving_of(request).uploads.run(
        principal.acting_tenant(),
        lambda: plane.datasets.upload(principal, filename, format, blocking_chunks(chunks), limit_bytes=limit, now=now),
    )


@router.post("/uploads:find", responses=problem_responses(413))
def find_upload(request: Request, body: FindUploadRequest, principal: Operator) -> UploadView:
    """The tenant's upload of these bytes, if it has sent them before. 404: upload them."""
    return plane_of(request).datasets.find_upload(principal, body)


@router.get("/datasets")
def list_datasets(request: Request, principal: Viewer, limit: Limit = 50, cursor: Cursor = None) -> Page[DatasetView]:
    """The tenant's datasets."""
    return plane_of(request).datasets.list(principal, cursor=cursor, limit=limit)


@router.get("/datasets/{name}")
def get_dataset(request: Request, name: str, principal: Viewer) -> DatasetView:
    """One dataset and its versions."""
    return plane_of(request).datasets.get(principal, DatasetName(name))


@router.post(
    "/datasets/{name}/versions",
    status_code=201,
    responses=problem_responses(410, 413)
    | {200: {"model": VersionView, "description": "An equal request had made it."}},
)
def register(
    request: Request, response: Response, name: str, body: RegisterRequest, principal: Operator
) -> VersionView:
    """Make a version of an upload; a platform job ingests and checks it. The same request gives the same version."""
    plane = plane_of(request)
    done = plane.datasets.register(principal, DatasetName(name), body, now=plane.clock.now())
    response.status_code = 200 if done.replayed else 201
    response.headers["Location"] = f"{API}/datasets/{name}/versions/{done.version.number}"
    return plane.datasets.view(done.version)


@router.get("/datasets/{name}/versions/{number}")
def get_version(request: Request, name: str, number: Number, principal: Viewer) -> VersionView:
    """One version with its checks."""
    return plane_of(request).datasets.version(principal, DatasetName(name), number)


@router.get(
    "/datasets/{name}/versions/{number}/files/{path:path}",
    response_class=StreamingResponse,
    responses=problem_responses(409) | {200: {"content": {BYTES: {}}, "description": "The file."}},
)
def get_file(
    request: Request, name: str, number: Number, path: str, principal: Viewer, purpose: Purpose = Purpose.ANALYSE
) -> StreamingResponse:
    """One file of a version; of a quarantined one only for the purpose `repair`."""
    chunks = plane_of(request).datasets.open_file(principal, DatasetName(name), number, path, purpose=purpose)
    return StreamingResponse(opened(chunks), media_type=BYTES)


@router.get("/datasets/{name}/versions/{number}/lineage")
def version_lineage(request: Request, name: str, number: Number, principal: Viewer) -> LineageView:
    """What it came from and what came of it."""
    return dataset_lineage(plane_of(request), principal, DatasetName(name), number)


@router.post("/datasets/{name}/versions/{number}:deprecate", responses=problem_responses(409))
def deprecate(request: Request, name: str, number: Number, principal: Operator) -> VersionView:
    """Withdraw it: no new jobs read it."""
    plane = plane_of(request)
    return plane.datasets.deprecate(principal, DatasetName(name), number, now=plane.clock.now())
