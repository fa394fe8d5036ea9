"""Running a job's entry: function, command, algorithm, service or ingest."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, assert_never

from factory.algorithms.contract import Algorithm, Servable, TrainedModel
from factory.domain.algorithms import AlgorithmManifest
from factory.domain.ids import Digest
from factory.domain.jobs import (
    AlgorithmEntry,
    CommandEntry,
    EndReason,
    FunctionEntry,
    IngestEntry,
    Operation,
    Outcome,
    ServiceEntry,
)
from factory.errors import ConfigurationError, InvalidRequestError, UnavailableError
from factory.schemas.attempt import ModelReply, RegisterModelRequest
from factory.worker.attempt import local_path
from factory.worker.code import fetch_code, unpack
from factory.worker.context import JobContext, JobServices, log_line
from factory.worker.folders import NodeFolder
from factory.worker.ingest import ingest
from factory.worker.orders import threads_of
from factory.worker.outcomes import exit_outcome

__all__ = ["run_entry"]

Begin = Callable[[str], None]  # called with the code's digest, directly before user code runs

RESULT_LIMIT_BYTES = 1 << 20
_TAIL_BYTES = 4_000


def run_entry(services: JobServices, node: NodeFolder, begin: Begin) -> Outcome:
    """Run the entry to its end. What it raises is the outcome too (`outcome_of`)."""
    entry = services.order.work.spec.entry
    match entry:
        case FunctionEntry():
            return _function(entry, services, node, begin)
        case CommandEntry():
            return _command(entry, services, node, begin)
        case AlgorithmEntry():
            return _algorithm(entry, services, begin)
        case ServiceEntry():
            return _service(entry, services, begin)
        case IngestEntry():
            begin("")
            threads = threads_of(services.order.placement.resources.cpu_milli)
            return _completed(ingest(services.api, services.folder.work, threads=threads, log=log_line))
        case _:
            assert_never(entry)


# --- functions and commands -----------------------------------------------------------------------------------------


def _function(entry: FunctionEntry, services: JobServices, node: NodeFolder, begin: Begin) -> Outcome:
    arguments = json.loads(entry.arguments_json)
    args, kwargs = list(arguments.get("args", [])), dict(arguments.get("kwargs", {}))
    if entry.pickled is not None:
        content = fetch_code(services.api, node, entry.pickled).read_bytes()
        begin(entry.pickled)
        import cloudpickle  # the only place that opens a pickle: inside the job's own process

        function = cloudpickle.loads(content)
    else:
        if entry.bundle is not None:
            unpack(fetch_code(services.api, node, entry.bundle), services.folder.code)
            sys.path.insert(0, str(services.folder.code))
            importlib.invalidate_caches()
        begin(entry.bundle or "")
        function = _resolve(entry.module, entry.qualname)
    function = _undecorated(function)
    context = JobContext(services, params=kwargs)
    if _takes_context(function):
        kwargs["ctx"] = context
    return _completed(function(*args, **kwargs))


def _resolve(module: str, qualname: str) -> Any:
    found: Any = importlib.import_module(module)
    for part in qualname.split("."):
        if not hasattr(found, part):
            raise InvalidRequestError(f"there is no '{qualname}' in module '{module}'", hint="was it renamed?")
        found = getattr(found, part)
    return found


def _undecorated(function: Any) -> Callable[..., Any]:
    """Return the plain function behind `@factory.job`."""
    from factory.sdk.decorators import FactoryFunction

    while isinstance(function, FactoryFunction):
        function = function.function
    if not callable(function):
        raise InvalidRequestError(f"{function!r} cannot be called")
    return function


def _takes_context(function: Callable[..., Any]) -> bool:
    try:
        return "ctx" in inspect.signature(function).parameters
    except (TypeError, ValueError):  # some built-ins have no signature
        return False


def _completed(result: Any) -> Outcome:
    try:
        text = json.dumps(result, allow_nan=False, ensure_ascii=False, default=_plain)
    except (TypeError, ValueError) as exc:
        raise InvalidRequestError(
            f"the function returned a {type(result).__name__} that is no JSON value: {exc}",
            hint="return numbers, texts, lists and dicts; write tables as a dataset (ctx.write)",
        ) from exc
    size = len(text.encode())
    if size > RESULT_LIMIT_BYTES:
        raise InvalidRequestError(
            f"the function returned {size / 1e6:.1f} MB of JSON; at most {RESULT_LIMIT_BYTES / 1e6:.1f} MB are kept",
            hint="write a dataset (ctx.write) and return its name",
        )
    return Outcome(EndReason.COMPLETED, result_json=text)


def _plain(value: Any) -> Any:
    """numpy's scalars and arrays are JSON values to their users."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is no JSON value")


def _command(entry: CommandEntry, services: JobServices, node: NodeFolder, begin: Begin) -> Outcome:
    work = services.folder.work
    if entry.bundle is not None:
        unpack(fetch_code(services.api, node, entry.bundle), work)
    begin(entry.bundle or "")
    try:
        process = subprocess.Popen(entry.argv, cwd=work, stdin=subprocess.DEVNULL, process_group=0)
    except OSError as exc:
        raise InvalidRequestError(
            f"'{entry.argv[0]}' cannot be started: {exc.strerror}", hint="is it in the bundle or the image?"
        ) from exc
    services.stop.on_stop(lambda: _signal_group(process, signal.SIGTERM))
    code = process.wait()
    _signal_group(process, signal.SIGKILL)  # what its group left behind ends with it
    return exit_outcome(code, _last_lines(services.folder.stream("stderr")))


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _last_lines(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
        return file.read().decode("utf-8", "replace").strip()


# --- the catalogue --------------------------------------------------------------------------------------------------


def _algorithm(entry: AlgorithmEntry, services: JobServices, begin: Begin) -> Outcome:
    from factory.algorithms.catalogue import load_catalogue

    catalogue = load_catalogue()
    manifest = catalogue.get(entry.algorithm, entry.version)
    _check_code(manifest, entry.code_digest)
    given = json.loads(entry.params_json)
    begin(manifest.code_digest)
    algorithm = _load_algorithm(manifest)
    if entry.operation is Operation.TRAIN:
        context = JobContext(services, params=catalogue.parse_params(manifest, given))
        return _completed(_register(entry, manifest, services, context, algorithm.train(context)))
    reply, servable = _open_model(services, algorithm)
    context = JobContext(services, params=catalogue.parse_predict_params(manifest, given), model=servable)
    log_line(
        f"forecasting with {reply.model}@{reply.number}" if manifest.task == "forecast" else f"model {reply.model}"
    )
    table = algorithm.predict(context)
    outputs = [output.name for output in services.order.work.spec.outputs]
    if len(outputs) != 1:
        raise InvalidRequestError(f"a predict job writes one output; this one names {len(outputs)}")
    written = context.write(outputs[0], table)
    return _completed(
        {
            "rows": table.num_rows,
            "dataset": f"{written.dataset}@{written.number}",
            "state": written.state.value,
            "model": f"{reply.model}@{reply.number}",
        }
    )


def _check_code(manifest: AlgorithmManifest, wanted: Digest) -> None:
    if manifest.code_digest != wanted:
        raise ConfigurationError(
            f"{manifest.name}@{manifest.version} on this node is {manifest.code_digest[:19]}…, "
            f"the job asks for {wanted[:19]}…",
            hint="install the same factory release on control plane and workers",
        )


def _load_algorithm(manifest: AlgorithmManifest) -> Algorithm:
    module, _, name = manifest.entry.partition(":")
    return getattr(importlib.import_module(module), name)()


def _register(
    entry: AlgorithmEntry,
    manifest: AlgorithmManifest,
    services: JobServices,
    context: JobContext,
    trained: TrainedModel,
) -> dict[str, Any]:
    """Store the model's file, and register it if the job says under which name."""
    metrics = {name: float(value) for name, value in trained.metrics.items()}
    services.progress.metrics(0, metrics)
    services.tracker.metrics(0, {f"final_{name}": value for name, value in metrics.items()})
    result: dict[str, Any] = {"metrics": metrics}
    if entry.register_model is None:
        return result
    stored = services.api.model_file(trained.path)
    registered = services.api.register_model(
        RegisterModelRequest(
            model=entry.register_model,
            format=trained.format,
            object_key=stored.object_key,
            sha256=stored.sha256,
            signature=dict(trained.metadata.get("signature") or _signature(manifest)),
            metadata=dict(trained.metadata),
            metrics=metrics,
            evaluation=dict(trained.evaluation),
            code_digest=manifest.code_digest,
            mlflow_run_id=services.tracker.run_id(timeout_s=10),
        )
    )
    context.log(f"registered model {registered.model}@{registered.number}")
    return result | {"model": registered.model, "version": registered.number}


def _signature(manifest: AlgorithmManifest) -> dict[str, Any]:
    def tensors(specs: Any) -> list[dict[str, Any]]:
        return [{"name": s.name, "datatype": s.datatype, "shape": list(s.shape)} for s in specs]

    return {"request": tensors(manifest.request), "response": tensors(manifest.response)}


def _open_model(services: JobServices, algorithm: Algorithm) -> tuple[ModelReply, Servable]:
    """Return the job's model, opened; its bytes are checked against the registry's digest."""
    import hashlib

    reply = services.api.model()
    if reply.location is not None:
        path = local_path(reply.location)
    else:
        path = services.folder.path / "model"
        services.api.model_content(path)
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != reply.sha256.removeprefix("sha256:"):
        raise ConfigurationError(f"the file of {reply.model}@{reply.number} is not what the registry says")
    threads = threads_of(services.order.placement.resources.cpu_milli)
    return reply, algorithm.load(content, reply.metadata, threads=threads)


def _service(entry: ServiceEntry, services: JobServices, begin: Begin) -> Outcome:
    from factory.algorithms.catalogue import load_catalogue
    from factory.worker.serving import ModelServer, serve

    manifest = load_catalogue().get(entry.algorithm, entry.algorithm_version)
    reply, servable = _open_model(services, _load_algorithm(manifest))
    begin(manifest.code_digest)
    order = services.order
    server = ModelServer(servable, model=reply.model, number=reply.number, secret=order.ingress_secret, log=log_line)

    def ready(host: str, port: int) -> None:
        while not services.stop.is_set:
            try:
                services.api.ready(host, port)
                break
            except UnavailableError as exc:
                log_line(f"not announced yet: {exc.message}")  # no reason to give up a model that is loaded
        log_line(f"serving {reply.model}@{reply.number} at {host}:{port}")

    serve(server, host=order.host, grace_s=order.work.spec.grace_s, on_ready=ready, on_stop=services.stop.on_stop)
    if not services.stop.is_set:
        return Outcome(EndReason.WORKER_LOST, "the server ended by itself")
    return Outcome(services.stop.reason or EndReason.CANCELLED, "it finished what was in flight and stopped")
