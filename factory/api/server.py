"""The server process: `run(settings)` opens everything, serves until SIGTERM or SIGINT, and ends in order.

Order at the start: address check, folder lock (SQLite), migrations, first keys, threads, listening socket. At the end:
/readyz says 503 and new calls are refused, calls in flight finish, threads end, the lease is given up, the lock falls.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from types import FrameType

import anyio.to_thread
import uvicorn
from fastapi import FastAPI

from factory.api.app import create_app
from factory.api.logbook import LogBook
from factory.api.mlflow_proxy.proxy import MlflowProxy
from factory.api.serving import Serving
from factory.api.threads import Threads
from factory.api.wakes import Bell, Hub
from factory.bootstrap import ControlPlane, assemble, first_steps, tune_collector
from factory.errors import ConfigurationError
from factory.settings import Settings, check_bind
from factory.storage.folder import FolderLock, folders_to_lock, private_folder
from factory.storage.hooks import CommitHooks
from factory.telemetry.logs import configure_logs

__all__ = ["run", "serving_for"]

_log = logging.getLogger(__name__)
_FOREIGN_NAP_S = 1.0  # with other control planes on the database a waiter looks by itself this often
_MLFLOW_PROBE_S = 10.0


def run(settings: Settings) -> None:
    """Serve until told to end. Blocks; returns after an orderly end.

    Raises: ConfigurationError: another server has this folder, the port is taken, the address is refused, …
    """
    check_bind(settings)
    configure_logs(settings.log_format, settings.log_level)
    started = time.monotonic()
    bell = Bell()
    with ExitStack() as stack:
        if settings.is_sqlite:
            private_folder(settings.data.absolute())
            for folder in folders_to_lock(settings.data, settings.store_url):
                stack.enter_context(FolderLock(folder))
        listener = stack.enter_context(_listen(settings))
        plane = assemble(settings, hooks=CommitHooks(after_commit=bell.ring))
        stack.callback(plane.close)
        first_steps(plane)
        serving = serving_for(plane, port=listener.getsockname()[1])
        app = create_app(serving, lifespan=_lifespan(serving, Threads(serving, commit_bell=bell)))
        _write_address(serving)
        tune_collector()
        took = round(time.monotonic() - started, 2)
        _log.info("serving", extra={"event": "server.started", "url": serving.url, "seconds": took})
        _Server(_uvicorn_config(app, settings), serving).run(sockets=[listener])
        _log.info("ended", extra={"event": "server.ended"})


def serving_for(plane: ControlPlane, *, port: int) -> Serving:
    """Return what a server process has beside its control plane."""
    settings = plane.settings
    proxy = None
    if settings.mlflow_url:
        proxy = MlflowProxy(
            settings.mlflow_url,
            json_limit_bytes=settings.json_limit_bytes,
            artifact_limit_bytes=settings.mlflow_artifact_limit_bytes,
        )
    alone = settings.is_sqlite
    return Serving(
        plane=plane,
        hub=Hub(nap_s=settings.poll_s if alone else _FOREIGN_NAP_S),
        logs=LogBook(plane.objects, quota_bytes=settings.log_quota_bytes, is_only_writer=alone),
        mlflow=proxy,
        port=port,
    )


def _lifespan(serving: Serving, threads: Threads) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = serving.plane.settings.worker_threads
        serving.hub.bind(asyncio.get_running_loop())
        threads.start()
        probe = asyncio.create_task(_probe_mlflow(serving.mlflow)) if serving.mlflow is not None else None
        try:
            yield
        finally:
            if probe is not None:
                probe.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await probe
            await anyio.to_thread.run_sync(threads.stop)
            if serving.mlflow is not None:
                await serving.mlflow.aclose()

    return lifespan


async def _probe_mlflow(proxy: MlflowProxy) -> None:
    while True:  # noqa: ASYNC110  # MLflow tells nobody when it comes and goes
        await asyncio.sleep(_MLFLOW_PROBE_S if await proxy.is_up() else 1.0)


class _Server(uvicorn.Server):
    """Uvicorn that drains before it stops to listen, and whose signals end in a return, not in a death by signal."""

    def __init__(self, config: uvicorn.Config, serving: Serving) -> None:
        super().__init__(config)
        self._serving = serving

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain; a second Ctrl-C ends at once (a second SIGTERM is a supervisor that repeats itself)."""
        if self._serving.draining:
            if sig == signal.SIGINT:
                self.should_exit = self.force_exit = True
            return
        _log.info("draining", extra={"event": "server.draining", "signal": sig})
        self._serving.draining = True
        self._serving.hub.close()  # long polls and streams answer what there is
        threading.Thread(target=self._drain, name="drain", daemon=True).start()

    def _drain(self) -> None:
        deadline = time.monotonic() + self._serving.plane.settings.drain_s
        while self._serving.in_flight and time.monotonic() < deadline:
            time.sleep(0.02)
        self.should_exit = True


def _uvicorn_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=True,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=1,  # calls in flight had their time in `_drain`
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
        proxy_headers=False,
    )


def _listen(settings: Settings) -> socket.socket:
    """Return the listening socket. Raises: ConfigurationError: the port is taken."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as exc:
        listener.close()
        raise ConfigurationError(
            f"{settings.host}:{settings.port} cannot be listened on: {exc.strerror}",
            hint="another program has it? choose another with FACTORY_PORT",
        ) from exc
    listener.set_inheritable(False)
    return listener


def _write_address(serving: Serving) -> None:
    path = serving.plane.settings.run / "server.json"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps({"url": serving.url, "pid": os.getpid(), "mlflow_uri": serving.mlflow_uri}))
    temporary.replace(path)
