"""One MLflow call: find its rule, prove that it stays in the tenant, pass on only what was read, clean the answer.

Missing and foreign things take the same path and answer the same body (rule 9). MLflow clients want
`{"error_code", "message"}`: our problems carry both.
"""

from __future__ import annotations

import json
import logging
import re
import urllib.parse
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from factory.api.bodies import check_json, limited
from factory.api.mlflow_proxy.names import narrow, own_only, prefix, strip_names, walk
from factory.api.mlflow_proxy.owners import Owners
from factory.api.mlflow_proxy.routes import Owner, Route, find
from factory.api.problems import problem_response, request_id_of
from factory.domain.tenancy import Principal, Role
from factory.errors import FactoryError, ForbiddenError, InvalidRequestError, NotFoundError, UnavailableError

__all__ = ["MLFLOW_ERROR_CODES", "MlflowProxy", "mlflow_problem"]

_log = logging.getLogger(__name__)
MLFLOW_ERROR_CODES = {
    400: "INVALID_PARAMETER_VALUE", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "RESOURCE_DOES_NOT_EXIST",
    409: "RESOURCE_ALREADY_EXISTS", 413: "INVALID_PARAMETER_VALUE", 422: "INVALID_PARAMETER_VALUE",
    503: "TEMPORARILY_UNAVAILABLE",
}  # fmt: skip
_WRITERS = (Role.OPERATOR, Role.ADMIN, Role.PLATFORM)
_HINT = "name an experiment of yours first, e.g. mlflow.set_experiment('…'); MLflow's default experiment is nobody's"
_KEY = re.compile(r"[a-z][a-z0-9_]*")
# answers are data: no browser shall run what a job wrote
_SAFE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "sandbox; default-src 'none'",
    "Cache-Control": "no-store",
}


class MlflowProxy:
    """MLflow at `base_url` behind our rules. Needs a running event loop; `aclose` at the end."""

    def __init__(
        self,
        base_url: str,
        *,
        json_limit_bytes: int,
        artifact_limit_bytes: int,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._json_limit = json_limit_bytes
        self._artifact_limit = artifact_limit_bytes
        self._http = httpx.AsyncClient(
            timeout=httpx.Timeout(60.0, connect=2.0), trust_env=False, transport=transport, follow_redirects=False
        )
        self._owners = Owners(self._lookup)
        self.seen_up: bool | None = None  # whether MLflow answered when it was last asked; None = never asked

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def is_up(self) -> bool:
        """True if MLflow answers; remembered in `seen_up`."""
        try:
            self.seen_up = (await self._http.get(f"{self._base_url}/health", timeout=2.0)).status_code == 200
        except httpx.HTTPError:
            self.seen_up = False
        return self.seen_up

    async def handle(self, request: Request, principal: Principal, path: str) -> Response:
        """Answer one call below /mlflow; `principal.tenant` is the tenant it acts in.

        Raises: FactoryError and its kin: say it with `mlflow_problem`.
        """
        found = find(request.method, path)
        # a dot segment would be resolved on the way to MLflow: to a call that is on no list of ours
        if found is None or any(part in (".", "..") for part in path.split("/")):
            raise NotFoundError("route", f"{request.method} {path}", hint="see docs: which MLflow calls are served")
        route, params = found
        if route.least is Role.OPERATOR and principal.role not in _WRITERS:
            raise ForbiddenError(
                f"a key of role {principal.role.value} may only read", hint="use a key of role operator or admin"
            )
        if route.owner is Owner.NOBODY:
            return JSONResponse({})
        tenant = principal.acting_tenant()
        if route.owner is Owner.ARTIFACT:
            return await self._artifact(request, route, tenant, params.get("artifact"))
        fields = await self._fields(request, route)
        nothing = await self._own(route, tenant, params, fields)
        if nothing is not None:
            return JSONResponse(nothing)
        return await self._forward(route, tenant, path, fields)

    # -- what came ------------------------------------------------------------------------------------------------

    async def _fields(self, request: Request, route: Route) -> dict[str, Any]:
        """Return the call's fields, every one of them named by the route."""
        if route.method == "GET":
            fields: dict[str, Any] = {}
            for key in request.query_params:
                values = request.query_params.getlist(key)
                fields[key] = values if key == "stages" else values[0]
                if len(values) > 1 and key != "stages":
                    raise InvalidRequestError(f"'{key}' is given more than once")
        else:
            raw = b"".join([chunk async for chunk in limited(request, self._json_limit, "MLflow calls")])
            check_json(raw)
            fields = json.loads(raw) if raw else {}
            if not isinstance(fields, dict):
                raise InvalidRequestError("the body must be a JSON object")
        given = {k: v for k, v in fields.items() if v not in (None, "")}
        for key in given:
            if key not in route.fields:
                raise InvalidRequestError(
                    f"'{key}' cannot be set here", hint=f"fields: {', '.join(route.fields) or 'none'}"
                )
        _refuse_other_spellings(given)
        if "run_uuid" in given and given.setdefault("run_id", given["run_uuid"]) != given["run_uuid"]:
            raise InvalidRequestError("run_id and run_uuid differ")
        for name in ("path", "artifact_directory_path"):
            if name in given:
                _checked_path(str(given[name]), may_be_empty=True)
        return given

    async def _own(
        self, route: Route, tenant: str, params: Mapping[str, str], fields: dict[str, Any]
    ) -> dict[str, Any] | None:
        """Apply the tenant rule to `fields`; a returned value is the whole answer.

        Raises: NotFoundError: not the tenant's, or not there.
        """
        match route.owner:
            case Owner.NAMES:
                name = fields.get(route.prefixed)
                if not isinstance(name, str):
                    raise InvalidRequestError(f"'{route.prefixed}' is missing")
                fields[route.prefixed] = prefix(tenant) + name
            case Owner.EXPERIMENT:
                await self._check(tenant, "experiment", fields.get("experiment_id"))
            case Owner.RUN:
                await self._check(tenant, "run", fields.get("run_id"))
            case Owner.LOGGED_MODEL:
                for name, value in params.items():  # MLflow reads some of them from the body
                    if fields.get(name, value) != value:
                        raise InvalidRequestError(f"'{name}' differs from the path's")
                    if name in route.fields:
                        fields[name] = value
                await self._check(tenant, "logged model", params["model_id"])
            case Owner.SEARCH_EXPERIMENTS | Owner.SEARCH_REGISTRY:
                fields["filter"] = narrow(tenant, str(fields.get("filter", "")))
            case Owner.SEARCH_IN_EXPERIMENTS:
                asked = fields.get("experiment_ids", [])
                if not isinstance(asked, list):
                    raise InvalidRequestError("'experiment_ids' must be a list")
                own = [i for i in map(str, asked) if await self._owners.owns_experiment(tenant, i)]
                if not own:
                    return {}
                fields["experiment_ids"] = own
            case Owner.ARTIFACT | Owner.NOBODY:
                raise AssertionError("handled before")
        for place in route.also:
            *steps, last = place.split(".")
            for holder in walk(fields, steps):
                if holder.get(last):
                    await self._check(tenant, "run" if "run" in last else "logged model", holder[last])
        return None

    async def _check(self, tenant: str, kind: str, value: object) -> None:
        checks = {
            "experiment": self._owners.owns_experiment,
            "run": self._owners.owns_run,
            "logged model": self._owners.owns_logged_model,
        }
        if (
            not isinstance(value, str | int)
            or isinstance(value, bool)
            or not re.fullmatch(r"[\w.-]{1,128}", str(value))
        ):
            raise NotFoundError(kind, str(value)[:128], hint=_HINT)
        if not await checks[kind](tenant, str(value)):
            raise NotFoundError(kind, str(value), hint=_HINT)

    # -- to MLflow and back ---------------------------------------------------------------------------------------

    async def _forward(self, route: Route, tenant: str, path: str, fields: dict[str, Any]) -> Response:
        content = None if route.method == "GET" else json.dumps(fields).encode()
        answer = await self._send(route.method, path, query=fields if route.method == "GET" else None, content=content)
        if answer.status_code >= 400:
            return Response(answer.content, answer.status_code, media_type="application/json", headers=_SAFE_HEADERS)
        body = answer.json()
        if not isinstance(body, dict):
            raise UnavailableError("MLflow answered something that is no object")
        if route.owner in (Owner.SEARCH_EXPERIMENTS, Owner.SEARCH_REGISTRY):
            own_only(tenant, body)
        strip_names(tenant, body, route.strip)
        return JSONResponse(body, answer.status_code, headers=_SAFE_HEADERS)

    async def _lookup(self, path: str, query: Mapping[str, str]) -> dict[str, Any] | None:
        answer = await self._send("GET", path, query=query)
        if answer.status_code in (400, 404):  # "not a valid id" says no more than "not there"
            return None
        if answer.status_code != 200:
            raise UnavailableError("MLflow could not say whose this is", hint="retry")
        return answer.json()

    async def _send(
        self, method: str, path: str, *, query: Mapping[str, Any] | None = None, content: bytes | None = None
    ) -> httpx.Response:
        headers = {"Content-Type": "application/json"} if content is not None else {}
        try:
            answer = await self._http.request(
                method, self._base_url + urllib.parse.quote(path), params=query, content=content, headers=headers
            )
        except httpx.HTTPError as exc:
            raise _down(exc) from exc
        if answer.status_code >= 500:
            _log.error("MLflow failed", extra={"event": "mlflow.failed", "status": answer.status_code, "path": path})
            raise UnavailableError(f"MLflow failed ({answer.status_code})", hint="retry; if it stays, see MLflow's log")
        return answer

    # -- artifacts ------------------------------------------------------------------------------------------------

    async def _artifact(self, request: Request, route: Route, tenant: str, artifact: str | None) -> Response:
        """List, download or upload below `<experiment id>/…`."""
        url = self._base_url + "/api/2.0/mlflow-artifacts/artifacts"
        if artifact is None:
            fields = await self._fields(request, route)
            folder = _checked_path(str(fields.get("path", "")))
            await self._check_artifact(tenant, folder)
            return await self._forward(route, tenant, "/api/2.0/mlflow-artifacts/artifacts", fields)
        path = _checked_path(artifact)
        await self._check_artifact(tenant, path)
        target = f"{url}/{urllib.parse.quote(path)}"
        if route.raw:
            return await self._upload(request, target)
        return await self._download(target, path)

    async def _check_artifact(self, tenant: str, path: str) -> None:
        experiment = path.partition("/")[0]
        if not re.fullmatch(r"\d{1,30}", experiment) or not await self._owners.owns_experiment(tenant, experiment):
            raise NotFoundError("artifact", path)

    async def _upload(self, request: Request, target: str) -> Response:
        chunks = limited(request, self._artifact_limit, "artifacts")
        refused: list[FactoryError] = []

        async def guarded() -> AsyncIterator[bytes]:
            try:
                async for chunk in chunks:
                    yield chunk
            except FactoryError as exc:  # httpx must see the upload break, so that MLflow keeps nothing of it
                refused.append(exc)
                raise httpx.WriteError("refused") from exc

        try:
            kind = request.headers.get("content-type", "application/octet-stream")
            answer = await self._http.put(target, content=guarded(), headers={"Content-Type": kind})
        except httpx.HTTPError as exc:
            raise refused[0] if refused else _down(exc) from exc
        if answer.status_code >= 500:
            raise UnavailableError(f"MLflow failed ({answer.status_code})", hint="retry")
        return Response(answer.content, answer.status_code, media_type="application/json", headers=_SAFE_HEADERS)

    async def _download(self, target: str, path: str) -> Response:
        try:
            answer = await self._http.send(self._http.build_request("GET", target), stream=True)
        except httpx.HTTPError as exc:
            raise _down(exc) from exc
        if answer.status_code != 200:
            await answer.aclose()
            if answer.status_code >= 500 and answer.status_code != 500:  # it says 500 for a missing file
                raise UnavailableError(f"MLflow failed ({answer.status_code})", hint="retry")
            raise NotFoundError("artifact", path)

        async def body() -> AsyncIterator[bytes]:
            try:
                async for chunk in answer.aiter_bytes():
                    yield chunk
            finally:
                await answer.aclose()

        name = urllib.parse.quote(path.rpartition("/")[2])
        headers = _SAFE_HEADERS | {"Content-Disposition": f"attachment; filename*=UTF-8''{name}"}
        return StreamingResponse(body(), media_type="application/octet-stream", headers=headers)


def _down(exc: Exception) -> UnavailableError:
    return UnavailableError(
        f"MLflow does not answer ({type(exc).__name__})", hint="jobs go on without it; retry, or see: factory status"
    )


def _checked_path(path: str, *, may_be_empty: bool = False) -> str:
    """Return an artifact path that no decoding can lead elsewhere. Raises: InvalidRequestError."""
    if path == "" and may_be_empty:
        return path
    parts = path.removesuffix("/").split("/")
    if any(p in ("", ".", "..") for p in parts) or re.search(r"[\\%\x00-\x1f#?]", path) or len(path) > 1000:
        raise InvalidRequestError("the artifact path is not one that we take", hint="use plain relative names")
    return "/".join(parts)


def _refuse_other_spellings(value: object) -> None:
    # protobuf's JSON form also takes camelCase: `modelId` would pass where we look at `model_id`
    if isinstance(value, dict):
        for key, below in value.items():
            if not _KEY.fullmatch(str(key)):
                raise InvalidRequestError(f"'{key}' is not a field", hint="fields are spelled in snake_case")
            _refuse_other_spellings(below)
    elif isinstance(value, list):
        for below in value:
            _refuse_other_spellings(below)


def mlflow_problem(request: Request, exc: FactoryError) -> Response:
    """Return the error as a problem that MLflow's clients understand too."""
    answer = problem_response(
        exc.status, exc.code, exc.message, hint=exc.hint, facts=exc.facts, request_id=request_id_of(request)
    )
    body = json.loads(bytes(answer.body))
    body["error_code"] = MLFLOW_ERROR_CODES.get(exc.status, "INTERNAL_ERROR")
    body["message"] = str(exc)
    headers = {k: v for k, v in answer.headers.items() if k not in ("content-length", "content-type")}
    return Response(json.dumps(body).encode(), exc.status, headers=headers, media_type=answer.media_type)
