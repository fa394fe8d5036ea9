"""/attempt: what a running attempt may ask and say, with its own token (schemas/attempt.py).

Every call names its attempt by the token alone; an attempt that is over is answered 401 `attempt_ended` and changes
nothing, also when it ends while the call runs.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from factory.api.auth import Worker, ended, is_let_in
from factory.api.bodies import JsonRoute, blocking_chunks, limited, opened
from factory.api.problems import problem_responses
from factory.api.routes.datasets import BYTES, RAW_BODY
from factory.api.serving import plane_of, serving_of
from factory.api.wakes import job_topic
from factory.domain.ids import VersionId
from factory.domain.jobs import AlgorithmEntry, CommandEntry, FunctionEntry, Job
from factory.errors import NotFoundError, UnauthenticatedError
from factory.schemas.attempt import (
    InputReply,
    MeasuredRequest,
    ModelFileReply,
    ModelReply,
    ProgressRequest,
    PublishedRequest,
    ReadyRequest,
    RegisteredModel,
    RegisterModelRequest,
    StageReply,
    StageRequest,
    UploadReply,
    VerdictReply,
    WorkOrder,
)
from factory.schemas.datasets import VersionView

__all__ = ["router"]


class _AttemptRoute(JsonRoute):
    """Says `attempt_ended` also where a service finds the attempt over in its own transaction."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        original = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await original(request)
            except UnauthenticatedError as exc:
                # it was let in, so it was live when the call began
                raise ended(exc) if is_let_in(request) else exc from None

        return handle


router = APIRouter(tags=["attempt"], route_class=_AttemptRoute, responses=problem_responses(401, 403, 404, 409, 422))
_FILE: dict[int | str, dict[str, Any]] = {200: {"content": {BYTES: {}}, "description": "The bytes."}}


@router.get("/attempt")
def work_order(request: Request, worker: Worker) -> WorkOrder:
    """What the attempt shall do."""
    serving = serving_of(request)
    job, attempt = worker.job, worker.attempt
    return WorkOrder(
        attempt=attempt.id,
        job=job.id,
        tenant=job.tenant,
        ordinal=attempt.ordinal,
        spec=job.spec,
        api_url=serving.url,
        mlflow_uri=serving.mlflow_uri,
        mlflow_experiment=_experiment(job),
    )


@router.get("/attempt/code/{digest}", response_class=StreamingResponse, responses=_FILE)
def code(request: Request, digest: str, worker: Worker) -> StreamingResponse:
    """The job's code bundle, or its pickled function: no other code of the tenant."""
    entry = worker.job.spec.entry
    match entry:
        case FunctionEntry():
            own = {entry.bundle, entry.pickled}
        case CommandEntry():
            own = {entry.bundle}
        case _:
            own = set[str | None]()
    if digest not in own:
        raise NotFoundError("code", digest, hint="an attempt reads the code of its own job only")
    return _stream(plane_of(request).bundles.open(worker.job.tenant, digest))


@router.get("/attempt/upload")
def upload(request: Request, worker: Worker) -> UploadReply:
    """The staged upload of an ingest job."""
    plane = plane_of(request)
    found = plane.datasets.upload_of(worker.attempt.id)
    return UploadReply(
        filename=found.filename,
        format=found.format,
        size_bytes=found.size_bytes,
        sha256=found.sha256,
        location=_uri(plane.objects.local_path(found.object_key) if plane.settings.shared_files else None),
    )


@router.get("/attempt/upload/content", response_class=StreamingResponse, responses=_FILE)
def upload_content(request: Request, worker: Worker) -> StreamingResponse:
    """Its bytes."""
    return _stream(plane_of(request).datasets.open_upload(worker.attempt.id))


@router.get("/attempt/inputs/{name}")
def input_files(request: Request, name: str, worker: Worker) -> InputReply:
    """Which files an input has, and where."""
    plane = plane_of(request)
    reply = plane.datasets.input(worker.attempt.id, name)
    return reply if plane.settings.shared_files else reply.model_copy(update={"location": None})


@router.get("/attempt/inputs/{name}/files/{path:path}", response_class=StreamingResponse, responses=_FILE)
def input_file(request: Request, name: str, path: str, worker: Worker) -> StreamingResponse:
    """One file of an input, by a path that its manifest lists."""
    return _stream(plane_of(request).datasets.open_input_file(worker.attempt.id, name, path))


@router.post("/attempt/versions")
def stage(request: Request, body: StageRequest, worker: Worker) -> StageReply:
    """Begin, or find again, the version that this job writes."""
    plane = plane_of(request)
    return plane.datasets.stage(worker.attempt.id, body, now=plane.clock.now())


@router.post("/attempt/versions/{version_id}/measured")
def measured(request: Request, version_id: str, body: MeasuredRequest, worker: Worker) -> VerdictReply:
    """What was written and measured; answers the verdict."""
    plane = plane_of(request)
    return plane.datasets.measured(worker.attempt.id, VersionId(version_id), body, now=plane.clock.now())


@router.post("/attempt/versions/{version_id}/published")
def published(request: Request, version_id: str, body: PublishedRequest, worker: Worker) -> VersionView:
    """The table's commit is made."""
    plane = plane_of(request)
    return plane.datasets.published(worker.attempt.id, VersionId(version_id), body, now=plane.clock.now())


@router.post("/attempt/progress", status_code=204, response_class=Response)
def progress(request: Request, body: ProgressRequest, worker: Worker) -> Response:
    """Live figures: overwritten, not events."""
    plane = plane_of(request)
    plane.jobs.put_progress(worker.attempt.id, body, now=plane.clock.now())
    serving_of(request).hub.publish([job_topic(worker.job.id)])
    return Response(status_code=204)


@router.put("/attempt/model-file", openapi_extra=RAW_BODY, responses=problem_responses(413))
async def put_model_file(request: Request, worker: Worker) -> ModelFileReply:
    """Store the trained model's file."""
    plane = plane_of(request)
    limit = plane.settings.model_limit_bytes
    chunks = limited(request, limit, "model files")
    return await serving_of(request).uploads.run(
        worker.job.tenant,
        lambda: plane.models.put_file(worker.attempt.id, blocking_chunks(chunks), limit_bytes=limit),
    )


@router.post("/attempt/models")
def register_model(request: Request, body: RegisterModelRequest, worker: Worker) -> RegisteredModel:
    """Register the trained model, once per job. 403 for a job that read data for repair."""
    plane = plane_of(request)
    made = plane.models.register(worker.attempt.id, body, now=plane.clock.now())
    serving_of(request).projection_bell.ring()
    return made


@router.get("/attempt/model")
def model(request: Request, worker: Worker) -> ModelReply:
    """The model that a predict or service job uses."""
    plane = plane_of(request)
    reply = plane.models.model_of(worker.attempt.id)
    return reply if plane.settings.shared_files else reply.model_copy(update={"location": None})


@router.get("/attempt/model/content", response_class=StreamingResponse, responses=_FILE)
def model_content(request: Request, worker: Worker) -> StreamingResponse:
    """Its bytes."""
    return _stream(plane_of(request).models.open_model(worker.attempt.id))


@router.post("/attempt/ready", status_code=204, response_class=Response)
def ready(request: Request, body: ReadyRequest, worker: Worker) -> Response:
    """A service replica listens."""
    plane = plane_of(request)
    plane.endpoints.ready(worker.attempt.id, body, now=plane.clock.now())
    return Response(status_code=204)


def _stream(chunks: Any) -> StreamingResponse:
    return StreamingResponse(opened(chunks), media_type=BYTES)


def _uri(path: Path | None) -> str | None:
    return None if path is None else path.absolute().as_uri()


def _experiment(job: Job) -> str:
    # one experiment per model that is trained, so that its runs compare; else per kind of job
    entry = job.spec.entry
    if isinstance(entry, AlgorithmEntry) and entry.register_model is not None:
        return entry.register_model
    return job.spec.name
