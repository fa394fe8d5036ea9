"""One replica of an endpoint: uvicorn in the replica's own process, Open Inference Protocol V2 over HTTP/JSON.

It listens on its node's address and answers only the ingress (a secret header that the ingress sets). Inference runs in
one thread of its own, with a bounded queue: a full one answers 503 so that the ingress's other replicas get the work.
When told to stop it takes nothing new and finishes what it has.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import math
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from factory.errors import FactoryError, InvalidRequestError
from factory.worker.tensors import decode_inputs, encode_outputs

if TYPE_CHECKING:
    from factory.algorithms.contract import Servable

__all__ = ["INGRESS_HEADER", "ModelServer", "serve"]

INGRESS_HEADER = "x-factory-ingress"
_BODY_LIMIT = 64 << 20  # bytes of a request
_QUEUE = 64  # requests that may wait for the inference thread


class ModelServer:
    """The routes of one model version."""

    def __init__(self, servable: Servable, *, model: str, number: int, secret: str, log: Callable[[str], None]) -> None:
        self._servable = servable
        self._model = model
        self._version = str(number)
        self._secret = secret.encode()
        self._log = log
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="factory-inference")
        self._waiting = 0
        self.is_draining = False

    def app(self) -> Starlette:
        """Return the ASGI application."""
        routes: list[Route] = [
            Route("/v2", self._guarded(self._server)),
            Route("/v2/health/live", self._guarded(self._live)),
            Route("/v2/health/ready", self._guarded(self._ready)),
        ]
        for prefix in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            routes += [
                Route(prefix, self._guarded(self._metadata)),
                Route(f"{prefix}/ready", self._guarded(self._ready)),
                Route(f"{prefix}/infer", self._guarded(self._infer), methods=["POST"]),
            ]
        return Starlette(routes=routes)

    def _guarded(self, handler: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def guarded(request: Request) -> Response:
            given = request.headers.get(INGRESS_HEADER, "").encode()
            if not hmac.compare_digest(given, self._secret):
                return _json({"error": "this replica answers the ingress only"}, 403)
            model = request.path_params.get("model", self._model)
            version = request.path_params.get("version", self._version)
            if model != self._model or version != self._version:
                known = f"{self._model} version {self._version}"
                return _json({"error": f"there is no model {model} version {version} here; there is {known}"}, 404)
            return await handler(request)

        return guarded

    async def _server(self, _request: Request) -> Response:
        return _json({"name": "ai-factory", "version": "2", "extensions": []})

    async def _live(self, _request: Request) -> Response:
        return _json({"live": True})

    async def _ready(self, _request: Request) -> Response:
        return _json({"ready": not self.is_draining}, 503 if self.is_draining else 200)

    async def _metadata(self, _request: Request) -> Response:
        signature: Mapping[str, Any] = self._servable.metadata.get("signature") or {}
        return _json(
            {
                "name": self._model,
                "versions": [self._version],
                "platform": str(self._servable.metadata.get("format", "")),
                "inputs": _tensors(signature.get("request", ())),
                "outputs": _tensors(signature.get("response", ())),
            }
        )

    async def _infer(self, request: Request) -> Response:
        if self._waiting >= _QUEUE:
            return _json({"error": "too many requests wait here; try again"}, 503, {"retry-after": "1"})
        try:
            body = await _body(request)
        except InvalidRequestError as exc:
            return _json({"error": exc.message}, 413)
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            return _json(await loop.run_in_executor(self._executor, self._answer, body))
        except FactoryError as exc:
            return _json({"error": str(exc)}, 400 if isinstance(exc, InvalidRequestError) else 500)
        except Exception as exc:  # the model's own code: its error is this request's, not the server's
            self._log(f"inference failed: {type(exc).__name__}: {exc}")
            return _json({"error": f"the model failed: {type(exc).__name__}"}, 500)
        finally:
            self._waiting -= 1

    def _answer(self, body: bytes) -> dict[str, Any]:
        try:
            request = json.loads(body, parse_constant=_no_constant)
        except RecursionError as exc:
            raise InvalidRequestError("the body is nested too deep") from exc
        except ValueError as exc:
            raise InvalidRequestError(f"the body is no JSON: {exc}") from exc
        outputs = self._servable.infer(decode_inputs(request))
        answer: dict[str, Any] = {"model_name": self._model, "model_version": self._version}
        if "id" in request:
            answer["id"] = str(request["id"])
        return answer | {"outputs": encode_outputs(outputs, request.get("outputs"))}


def serve(
    server: ModelServer,
    *,
    host: str,
    grace_s: int,
    on_ready: Callable[[str, int], None],
    on_stop: Callable[[Callable[[], None]], None],
) -> None:
    """Listen until told to stop; then finish what is in flight, for at most `grace_s`.

    Args:
        on_ready: called with host and port once it listens.
        on_stop: registers what ends the server.
    """
    listener = socket.create_server((host, 0), backlog=1024)
    port = int(listener.getsockname()[1])
    config = uvicorn.Config(
        server.app(),
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="off",
        timeout_keep_alive=75,  # longer than the ingress keeps idle connections: it closes first
        timeout_graceful_shutdown=max(1, grace_s - 1),
    )
    web = _Server(config, lambda: on_ready(host, port))

    def stop() -> None:
        server.is_draining = True
        web.should_exit = True

    on_stop(stop)
    web.run(sockets=[listener])


class _Server(uvicorn.Server):
    """Leaves signals alone (the replica's process belongs to Ray and the agent) and says when it listens."""

    def __init__(self, config: uvicorn.Config, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = on_started

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # in a thread: the control plane may be away for a while, and the loop must answer meanwhile
        self._told = asyncio.get_running_loop().run_in_executor(None, self._on_started)


def _json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    content = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return Response(content, status, headers, "application/json")


def _tensors(specs: Any) -> list[dict[str, Any]]:
    return [{"name": s["name"], "datatype": s["datatype"], "shape": list(s["shape"])} for s in specs]


def _no_constant(text: str) -> float:
    if text == "NaN":
        return math.nan
    raise ValueError(f"{text} is no JSON")


async def _body(request: Request) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > _BODY_LIMIT:
            raise InvalidRequestError(f"the body is over {_BODY_LIMIT >> 20} MiB")
        parts.append(part)
    return b"".join(parts)
