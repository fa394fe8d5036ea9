"""/mlflow/…: MLflow's REST API as far as the allow-list goes (api/mlflow_proxy)."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from factory.api.auth import mlflow_caller
from factory.api.mlflow_proxy.proxy import mlflow_problem
from factory.api.serving import serving_of
from factory.domain.tenancy import Principal
from factory.errors import FactoryError, UnavailableError

__all__ = ["router"]

router = APIRouter(tags=["mlflow"], include_in_schema=False)


@router.api_route("/mlflow/{path:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"])
async def mlflow(request: Request, path: str, principal: Annotated[Principal, Depends(mlflow_caller())]) -> Response:
    """Pass an allowed call on."""
    proxy = serving_of(request).mlflow
    try:
        if proxy is None:
            raise UnavailableError("this factory runs without MLflow", hint="start it with one: FACTORY_MLFLOW_URL")
        return await proxy.handle(request, principal, "/" + path)
    except FactoryError as exc:
        return mlflow_problem(request, exc)
