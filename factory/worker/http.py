"""HTTP to the control plane, from workers and agents: patient, typed, silent about tokens.

The control plane may restart at any time: calls are repeated with back-off until their deadline. Every route of ours is
idempotent, so a repeat after a lost answer is safe.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from factory.errors import (
    ConflictError,
    FactoryError,
    ForbiddenError,
    InvalidRequestError,
    PayloadTooLargeError,
    UnauthenticatedError,
    UnavailableError,
)

__all__ = ["PATIENCE_S", "Http", "StaleRunnerError"]

PATIENCE_S = 120.0  # how long a call is repeated while the control plane does not answer
_RETRIED = frozenset({429, 502, 503, 504})
_CHUNK = 1 << 18


class StaleRunnerError(ConflictError):
    """A newer incarnation of this runner has joined; this one must end."""

    code = "stale_runner"


_BY_STATUS: dict[int, type[FactoryError]] = {
    401: UnauthenticatedError,
    403: ForbiddenError,
    409: ConflictError,
    413: PayloadTooLargeError,
}


class Http:
    """A client with a bearer token. Threads may share it."""

    def __init__(self, base: str, token: str, *, patience_s: float = PATIENCE_S) -> None:
        self._base = base.rstrip("/")
        self._patience_s = patience_s
        self._closed = threading.Event()
        self._client = httpx.Client(
            headers={"authorization": f"Bearer {token}"},
            timeout=httpx.Timeout(30, connect=5),
            limits=httpx.Limits(max_keepalive_connections=4, keepalive_expiry=30),
            trust_env=False,  # a proxy of the environment is for the world outside, and would see the token
        )

    def close(self) -> None:
        """Give up calls that wait for a repeat, and close connections."""
        self._closed.set()
        self._client.close()

    def call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        json: Any = None,
        body: str | bytes | None = None,
        file: Path | None = None,
        patience_s: float | None = None,
        timeout_s: float | None = None,
    ) -> httpx.Response:
        """Return the answer of a successful call.

        Args:
            json: a JSON value; `body` is JSON text or raw bytes; `file` is streamed.
            patience_s: how long to repeat while nobody answers; None = the client's.
            timeout_s: of one try; None = 30 s.
        Raises:
            UnavailableError: nobody answered in time.
            UnauthenticatedError, ForbiddenError, ConflictError, PayloadTooLargeError, InvalidRequestError: it said no.
        """
        headers = {"content-type": "application/json"} if isinstance(body, str) else {}

        def attempt() -> httpx.Response:
            return self._client.request(
                method,
                self._base + path,
                params=params,
                json=json,
                content=_chunks(file) if file is not None else body,
                headers=headers,
                timeout=httpx.USE_CLIENT_DEFAULT if timeout_s is None else httpx.Timeout(timeout_s, connect=5),
            )

        return self._patiently(attempt, f"{method} {path}", patience_s)

    def download(self, path: str, target: Path, *, patience_s: float | None = None) -> None:
        """Stream a body into a file; raises as `call`."""

        def attempt() -> httpx.Response:
            with self._client.stream("GET", self._base + path) as response:
                if response.is_success:
                    with target.open("wb") as file:
                        for chunk in response.iter_bytes(_CHUNK):
                            file.write(chunk)
                else:
                    response.read()
                return response

        self._patiently(attempt, f"GET {path}", patience_s)

    def _patiently(self, attempt: Any, what: str, patience_s: float | None) -> httpx.Response:
        deadline = time.monotonic() + (self._patience_s if patience_s is None else patience_s)
        wait = 0.05
        while True:
            try:
                response: httpx.Response = attempt()
                if response.is_success:
                    return response
                if response.status_code not in _RETRIED:
                    raise _refusal(response, what)
                trouble = f"status {response.status_code}"
            except httpx.TransportError as exc:
                trouble = type(exc).__name__  # its text may hold the URL, and never says more than its name
            except RuntimeError as exc:
                if not self._closed.is_set():
                    raise
                trouble = type(exc).__name__  # closed while the call was made
            if self._closed.is_set() or time.monotonic() + wait > deadline:
                raise UnavailableError(
                    f"the control plane did not answer {what}: {trouble}", hint="it is repeated when it is back"
                )
            self._closed.wait(wait * (0.5 + random.random()))
            wait = min(wait * 2, 2.0)


def _refusal(response: httpx.Response, what: str) -> FactoryError:
    try:
        problem = response.json()
        detail, code = str(problem["detail"]), str(problem["code"])
        hint, facts = str(problem.get("hint", "")), dict(problem.get("facts") or {})
    except (ValueError, KeyError, TypeError):
        detail, code, hint, facts = f"{what} answered status {response.status_code}", "", "", {}
    if response.status_code >= 500:
        return UnavailableError(detail, hint=hint, facts=facts)
    kind = StaleRunnerError if code == StaleRunnerError.code else _BY_STATUS.get(response.status_code)
    return (kind or InvalidRequestError)(detail, hint=hint, facts=facts)


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk
