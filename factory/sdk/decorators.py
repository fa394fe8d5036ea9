"""`@factory.job`: a plain function that can also be submitted.

Calling it runs it here; `.submit(…)` runs it on the factory and returns a handle; `.map(items)` submits a job per item.
"""

from __future__ import annotations

import functools
import hashlib
import json
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, ParamSpec, TypeVar, overload

from factory import errors
from factory.schemas.jobs import InputSpec, JobSpec, PlanView
from factory.sdk.bundles import bundle_folder, locate
from factory.sdk.client import Client
from factory.sdk.jobs import JobHandle, job_spec

__all__ = ["FactoryFunction", "JobList", "job"]

P = ParamSpec("P")
R = TypeVar("R")


class JobList(list[JobHandle]):
    """The handles of a `.map`, in the order of its items."""

    def results(self, timeout_s: float | None = None) -> list[Any]:
        """Return every result in order. Raises: JobFailedError of the first that failed."""
        return [handle.result(timeout_s) for handle in self]


class FactoryFunction(Generic[P, R]):
    """A function and the resources that it asks for."""

    def __init__(self, function: Callable[P, R], options: Mapping[str, Any]) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.options = dict(options)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)

    def with_options(self, **options: Any) -> FactoryFunction[P, R]:
        """Return a copy that asks for something else."""
        return FactoryFunction(self.function, self.options | options)

    def submit(self, *args: Any, **kwargs: Any) -> JobHandle:
        """Submit with these arguments (JSON values). Options as in the decorator, and `client`, `idempotency_key`."""
        client: Client = self.options.get("client") or Client.default()
        spec = self.spec(client, args, kwargs)
        return client.jobs.submit(spec, idempotency_key=self.options.get("idempotency_key"))

    def plan(self, *args: Any, **kwargs: Any) -> PlanView:
        """Say what would come of `submit` with these arguments: nothing is stored, the code stays here."""
        client: Client = self.options.get("client") or Client.default()
        return client.jobs.plan(self._spec(self._code(), args, kwargs))

    def map(self, items: Iterable[Any]) -> JobList:
        """Submit one job per item (its only argument), up to 1,000 in one transaction each; all share the code."""
        client: Client = self.options.get("client") or Client.default()
        upload = self._upload(client)
        group = self.options.get("idempotency_key") or str(uuid.uuid4())
        specs = [self._spec(upload, (item,), {}) for item in items]
        handles = JobList()
        for start in range(0, len(specs), 1000):
            handles += client.jobs.submit_many(specs[start : start + 1000], idempotency_key=f"{group}-{start}")
        return handles

    def spec(self, client: Client, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None) -> JobSpec:
        """Upload the code if need be and return the spec that `submit` would send."""
        return self._spec(self._upload(client), args, kwargs or {})

    def _spec(self, code: Mapping[str, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> JobSpec:
        try:
            json.dumps([args, kwargs], allow_nan=False)
        except (TypeError, ValueError) as exc:
            raise errors.InvalidRequestError(
                f"the arguments of {self.function.__qualname__} are not JSON values: {exc}",
                hint="pass numbers, texts, lists and dicts; pass data as a registered dataset (inputs=…)",
            ) from exc
        options = {k: v for k, v in self.options.items() if k not in {"client", "idempotency_key"}}
        options.setdefault("name", _job_name(self.function.__name__))
        options["inputs"] = {k: _input(v) for k, v in options.get("inputs", {}).items()}
        return job_spec(function={**code, "args": args, "kwargs": dict(kwargs)}, **options)

    def _upload(self, client: Client) -> dict[str, Any]:
        return self._code(client.jobs.upload_bundle)

    def _code(self, upload: Callable[[str, bytes], None] | None = None) -> dict[str, Any]:
        """Return what of the spec names the code, once it is uploaded."""
        ref = locate(self.function)
        if ref is None:
            return self._pickled(upload)
        if ref.root is None:
            return {"module": ref.module, "qualname": ref.qualname}
        bundle = bundle_folder(ref.root, ref.only)
        if upload is not None:
            upload(bundle.digest, bundle.content)
        return {"module": ref.module, "qualname": ref.qualname, "bundle": bundle.digest}

    def _pickled(self, upload: Callable[[str, bytes], None] | None) -> dict[str, Any]:
        try:
            import cloudpickle
        except ImportError as exc:
            raise errors.ConfigurationError(
                f"{self.function.__qualname__} has no source file, so it must be pickled, and cloudpickle is missing",
                hint="pip install cloudpickle, or put the function in a module",
            ) from exc
        content: bytes = cloudpickle.dumps(self.function)
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        if upload is not None:
            upload(digest, content)
        return {"pickled": digest}


def _input(value: Any) -> Any:
    """Accept "footfall", "footfall@3", a mapping or an InputSpec."""
    if not isinstance(value, str):
        return value
    dataset, _, version = value.partition("@")
    if version and not version.isdigit():
        raise errors.InvalidRequestError(f"'{value}' names no dataset version", hint="write name or name@number")
    return InputSpec(dataset=dataset, version=int(version) if version else None)


def _job_name(name: str) -> str:
    return name.strip("_").lower().replace("_", "-")[:63].strip("-") or "job"


@overload
def job(function: Callable[P, R], /) -> FactoryFunction[P, R]: ...


@overload
def job(**options: Any) -> Callable[[Callable[P, R]], FactoryFunction[P, R]]: ...


def job(function: Callable[P, R] | None = None, /, **options: Any) -> Any:
    """Make a function submittable: `@factory.job` or `@factory.job(cpu=2, memory="4GiB", retries=…)`.

    Options are the fields of `JobSpec` (cpu, memory, gpu, replicas, min_replicas, queue, pool, flavors, gpu_models,
    topology, estimate_s, priority, inputs, outputs, retry, timeout_s, …), and `client` and `idempotency_key`.
    """
    if function is not None:
        return FactoryFunction(function, options)
    return lambda wrapped: FactoryFunction(wrapped, options)
