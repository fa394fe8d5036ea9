"""HTTP to the factory: one connection pool, retries where they are safe, problems as typed errors.

httpx is imported at the first call, so that importing the SDK stays cheap.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from factory import errors
from factory.schemas.common import API, Problem, WireModel
from factory.sdk.profile import Profile

if TYPE_CHECKING:
    import httpx

__all__ = ["Transport", "error_from", "validated"]

M = TypeVar("M", bound=WireModel)
_RETRY_STATUS = frozenset({502, 503, 504})
_PATIENCE_S = 30.0  # a restart of the control plane takes a few seconds


def _error_classes() -> dict[str, type[errors.FactoryError]]:
    found: dict[str, type[errors.FactoryError]] = {}
    todo: list[type[errors.FactoryError]] = [errors.FactoryError]
    while todo:
        cls = todo.pop()
        found.setdefault(cls.code, cls)
        todo.extend(cls.__subclasses__())
    return found


def error_from(status: int, body: bytes) -> errors.FactoryError:
    """Return the typed error that a problem body stands for."""
    if status == 404 and not body:  # HEAD
        return errors.NotFoundError("object", "asked for")
    try:
        problem = Problem.model_validate_json(body)
    except ValueError:
        text = body[:200].decode(errors="replace").strip()
        return errors.FactoryError(f"the factory answered {status}: {text or 'no body'}")
    by_status = {401: errors.UnauthenticatedError, 403: errors.ForbiddenError, 503: errors.UnavailableError}
    fallback: type[errors.FactoryError] = by_status.get(
        status, errors.InvalidRequestError if 400 <= status < 500 else errors.FactoryError
    )
    cls = _error_classes().get(problem.code, fallback)
    error = cls.__new__(cls)  # subclasses take their own facts; here the message is already made
    errors.FactoryError.__init__(error, problem.detail or problem.title, hint=problem.hint, facts=problem.facts)
    error.facts.setdefault("code", problem.code)
    if problem.request_id:
        error.facts["request_id"] = problem.request_id
    return error


def validated(model: type[M], fields: Mapping[str, Any], *, hint: str) -> M:
    """Return the model of what a person gave. Raises: InvalidRequestError: it names the field, as the server would."""
    from pydantic import ValidationError

    try:
        return model.model_validate(fields)
    except ValidationError as exc:
        first = exc.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "spec"
        known = model.model_fields if first["type"] == "extra_forbidden" and len(first["loc"]) == 1 else ()
        message = first["msg"].removeprefix("Value error, ")
        raise errors.InvalidRequestError(f"{where}: {message}{errors.did_you_mean(where, known)}", hint=hint) from exc


class Transport:
    """Requests below `/api/v1`, and full URLs for endpoints. Thread-safe."""

    def __init__(self, profile: Profile, *, timeout_s: float = 30.0) -> None:
        self.profile = profile
        self._timeout_s = timeout_s
        self._http: httpx.Client | None = None

    @property
    def http(self) -> httpx.Client:
        """The connection pool, made at the first use."""
        if self._http is None:
            import httpx

            from factory import __version__

            headers = {"Authorization": f"Bearer {self.profile.key}", "User-Agent": f"ai-factory/{__version__}"}
            if self.profile.tenant:
                headers["X-Factory-Tenant"] = self.profile.tenant
            # trust_env off: a proxy meant for the internet must not see the factory's key
            self._http = httpx.Client(timeout=self._timeout_s, headers=headers, trust_env=False)
        return self._http

    def url(self, path: str) -> str:
        """Return the full URL of an API path; full URLs pass."""
        return path if path.startswith("http") else f"{self.profile.url}{API}{path}"

    def request(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        content: bytes | Iterable[bytes] | None = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
        idempotent: bool | None = None,
    ) -> httpx.Response:
        """Send; retry while the factory is away if the call may be repeated.

        `idempotent` None: GET, HEAD, PUT and DELETE may be repeated, and POST with an Idempotency-Key.
        Raises: FactoryError of the problem's code; UnavailableError: not reachable.
        """
        import httpx

        repeat = (
            idempotent
            if idempotent is not None
            else (method in {"GET", "HEAD", "PUT", "DELETE"} or "Idempotency-Key" in (headers or {}))
        ) and (content is None or isinstance(content, bytes))
        deadline = time.monotonic() + _PATIENCE_S
        pause = 0.1
        given = {k: v for k, v in (params or {}).items() if v is not None}
        while True:
            try:
                response = self.http.request(
                    method,
                    self.url(path),
                    json=json,
                    content=content,
                    params=given,
                    headers=headers,
                    timeout=self._timeout_s if timeout_s is None else timeout_s,
                )
            except (httpx.TransportError, OSError) as exc:
                sent_nothing = isinstance(exc, httpx.ConnectError)
                if not (repeat or (sent_nothing and (content is None or isinstance(content, bytes)))) or (
                    time.monotonic() > deadline
                ):
                    raise errors.UnavailableError(
                        f"the factory at {self.profile.url} does not answer ({type(exc).__name__})",
                        hint="is it running? start it with `factory up`, or check FACTORY_URL",
                    ) from exc
            else:
                if response.status_code < 400:
                    return response
                if not (repeat and response.status_code in _RETRY_STATUS and time.monotonic() < deadline):
                    raise error_from(response.status_code, response.content)
            time.sleep(pause * (0.5 + random.random()))
            pause = min(pause * 2, 2.0)

    def get(self, model: type[M], path: str, **params: Any) -> M:
        """GET one model."""
        return model.model_validate_json(self.request("GET", path, params=params).content)

    def send(self, model: type[M], method: str, path: str, body: WireModel | None = None, **options: Any) -> M:
        """Send a model, receive a model."""
        payload = body.model_dump_json(exclude_defaults=True).encode() if body is not None else None
        headers = dict(options.pop("headers", None) or {}) | {"Content-Type": "application/json"}
        return model.model_validate_json(
            self.request(method, path, content=payload, headers=headers, **options).content
        )

    def pages(self, model: type[M], path: str, **params: Any) -> Iterator[M]:
        """Yield every item of a paged list."""
        cursor: str | None = None
        while True:
            page = self.request("GET", path, params={**params, "cursor": cursor}).json()
            for item in page["items"]:
                yield model.model_validate(item)
            cursor = page.get("next_cursor")
            if cursor is None:
                return

    @contextmanager
    def stream(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[httpx.Response]:
        """Stream an answer's body. Raises as `request`, without retries."""
        import httpx

        given = {k: v for k, v in (params or {}).items() if v is not None}
        timeout = httpx.Timeout(self._timeout_s, read=None)
        with self.http.stream(method, self.url(path), params=given, headers=headers, timeout=timeout) as response:
            if response.status_code >= 400:
                raise error_from(response.status_code, response.read())
            yield response

    def close(self) -> None:
        """Close the connections."""
        if self._http is not None:
            self._http.close()
            self._http = None
