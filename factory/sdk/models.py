"""Algorithms, models and endpoints from Python."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from factory import errors
from factory.domain.endpoints import EndpointState
from factory.schemas.datasets import LineageView
from factory.schemas.models import (
    AlgorithmView,
    DeployRequest,
    EndpointView,
    ModelVersionView,
    ModelView,
    PromotionView,
)
from factory.sdk.transport import Transport

__all__ = ["Algorithms", "Endpoints", "Models"]


class Algorithms:
    """`client.algorithms`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> list[AlgorithmView]:
        """The catalogue."""
        return list(self._transport.pages(AlgorithmView, "/algorithms"))

    def get(self, name: str, version: str | None = None) -> AlgorithmView:
        """One algorithm. Raises: NotFoundError."""
        return self._transport.get(AlgorithmView, f"/algorithms/{name}", version=version)


class Models:
    """`client.models`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> list[ModelView]:
        """Every model of the tenant."""
        return list(self._transport.pages(ModelView, "/models"))

    def get(self, name: str) -> ModelView:
        """One model with its versions. Raises: NotFoundError."""
        return self._transport.get(ModelView, f"/models/{name}")

    def version(self, name: str, number: int) -> ModelVersionView:
        """One version. Raises: NotFoundError."""
        return self._transport.get(ModelVersionView, f"/models/{name}/versions/{number}")

    def promote(self, name: str, number: int) -> PromotionView:
        """Make it champion if the gate lets it.

        Raises: PromotionRefusedError: `facts["checks"]` names each rule with its numbers.
        """
        return self._transport.send(PromotionView, "POST", f"/models/{name}/versions/{number}:promote", idempotent=True)

    def lineage(self, name: str, number: int) -> LineageView:
        """What it came from and what came of it."""
        return self._transport.get(LineageView, f"/models/{name}/versions/{number}/lineage")


class Endpoints:
    """`client.endpoints`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def deploy(self, name: str, model: str, *, wait_s: float | None = 60.0, **options: Any) -> EndpointView:
        """Serve `model` ("name@champion" follows the alias). The same request again changes nothing.

        Raises: TimeoutError: not ready after `wait_s` (None = do not wait); the deployment goes on.
        """
        view = self._transport.send(EndpointView, "PUT", f"/endpoints/{name}", DeployRequest(model=model, **options))
        return view if wait_s is None else self.wait(name, wait_s)

    def wait(self, name: str, timeout_s: float = 60.0) -> EndpointView:
        """Block until the wanted revision answers. Raises: TimeoutError with the reason."""
        import time

        deadline = time.monotonic() + timeout_s
        while True:
            view = self.get(name)
            wanted = view.revisions[-1]
            ready = sum(1 for b in view.backends if b.revision == wanted.number)
            if view.state is EndpointState.READY and ready >= min(1, wanted.replicas) and view.url:
                return view
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"endpoint {name} is {view.state.value} after {timeout_s:g} s; see: factory jobs list"
                )
            time.sleep(0.2)

    def list(self) -> list[EndpointView]:
        """Every endpoint of the tenant."""
        return list(self._transport.pages(EndpointView, "/endpoints"))

    def get(self, name: str) -> EndpointView:
        """One endpoint. Raises: NotFoundError."""
        return self._transport.get(EndpointView, f"/endpoints/{name}")

    def delete(self, name: str) -> None:
        """Stop it; replicas finish what they have."""
        self._transport.request("DELETE", f"/endpoints/{name}")

    def predict(self, name: str, inputs: Mapping[str, Any], *, timeout_s: float = 30.0) -> dict[str, Any]:
        """Ask an endpoint in Open Inference Protocol V2; return output name -> nested lists.

        `inputs`: name -> nested lists (or anything with `.tolist()`) of numbers, texts or booleans.
        Raises: NotFoundError: no such endpoint; UnavailableError: no replica answers; InvalidRequestError: the model
        refused the input.
        """
        view = self.get(name)
        if not view.url:
            raise errors.UnavailableError(
                f"endpoint {name} has no address yet", hint="is a runner joined? factory status"
            )
        model = view.revisions[-1].model.partition("@")[0]
        body = {"inputs": [_tensor(key, value) for key, value in inputs.items()]}
        answer = self._transport.request(
            "POST", f"{view.url}/v2/models/{model}/infer", json=body, timeout_s=timeout_s, idempotent=True
        ).json()
        return {out["name"]: _nest(out["data"], out["shape"]) for out in answer["outputs"]}


def _tensor(name: str, value: Any) -> dict[str, Any]:
    if hasattr(value, "tolist"):
        value = value.tolist()
    shape: list[int] = []
    probe = value
    while isinstance(probe, list | tuple):
        shape.append(len(probe))
        probe = probe[0] if probe else None
    flat = _flatten(value) if shape else [value]
    if all(isinstance(x, bool) for x in flat):
        datatype = "BOOL"
    elif any(isinstance(x, str) for x in flat):
        datatype = "BYTES"
    elif all(isinstance(x, int) for x in flat):
        datatype = "INT64"
    else:
        datatype = "FP32"
        flat = [None if x is not None and x != x else x for x in flat]  # NaN is no JSON; null says missing
    return {"name": name, "shape": shape or [1], "datatype": datatype, "data": flat}


def _flatten(value: Any) -> list[Any]:
    if isinstance(value, list | tuple):
        return [leaf for part in value for leaf in _flatten(part)]
    return [value]


def _nest(data: list[Any], shape: list[int]) -> Any:
    if data and isinstance(data[0], list):
        return data
    for size in reversed(shape[1:]):
        data = [data[i : i + size] for i in range(0, len(data), size)]
    return data
