"""MLflow's model registry over plain REST: the adapter of `RegistryProjection`, and the only code that writes there.

Names are "<tenant>.<model>"; MLflow allows the dot and our names have none, so that a name splits in one way. The
package mlflow is not imported (it costs seconds and imports cloudpickle, notes/registries.md §4).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any
from urllib.parse import quote

import httpx

from factory.domain.ids import ModelName, TenantId
from factory.errors import ConflictError, NotFoundError, UnavailableError
from factory.models.ports import RegistryVersion

__all__ = ["KEY_TAG", "MlflowRegistry", "registry_name"]

KEY_TAG = "factory.key"  # says which of our versions a version of MLflow is
_API = "/api/2.0/mlflow"
_PAGE = 200


def registry_name(tenant: TenantId, model: ModelName) -> str:
    """Return what a model is called in MLflow.

    >>> registry_name(TenantId("mobility"), ModelName("footfall-24h"))
    'mobility.footfall-24h'
    """
    return f"{tenant}.{model}"


class MlflowRegistry:
    """Speaks to one MLflow server on loopback; a context manager that closes its connections."""

    def __init__(self, url: str, *, timeout_s: float = 10.0) -> None:
        # trust_env off: a proxy from the environment has no business between us and loopback
        self._http = httpx.Client(base_url=url.rstrip("/"), timeout=timeout_s, trust_env=False)

    def __enter__(self) -> MlflowRegistry:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def ensure_model(self, name: str) -> None:
        try:
            self._call("POST", "/registered-models/create", {"name": name})
        except ConflictError:
            return  # it is there: what was asked for

    def ensure_version(self, name: str, *, key: str, source: str, run_id: str, tags: Mapping[str, str]) -> str:
        for version in self.versions(name):
            if (KEY_TAG, key) in version.tags:
                return version.version
        body: dict[str, Any] = {
            "name": name,
            "source": source,
            "tags": [{"key": k, "value": v} for k, v in sorted({**tags, KEY_TAG: key}.items())],
        }
        if run_id:
            body["run_id"] = run_id
        return str(self._call("POST", "/model-versions/create", body)["model_version"]["version"])

    def set_alias(self, name: str, alias: str, version: str) -> None:
        self._call("POST", "/registered-models/alias", {"name": name, "alias": alias, "version": version})

    def delete_alias(self, name: str, alias: str) -> None:
        try:
            self._call("DELETE", "/registered-models/alias", {"name": name, "alias": alias})
        except NotFoundError:
            return  # it is gone: what was asked for

    def versions(self, name: str) -> tuple[RegistryVersion, ...]:
        """Return a model's versions, oldest first. Raises: NotFoundError: no such model."""
        aliases: dict[str, list[str]] = {}
        # the search does not tell aliases; the model does
        model = self._call("GET", f"/registered-models/get?name={quote(name, safe='')}")["registered_model"]
        for entry in model.get("aliases", ()):
            aliases.setdefault(str(entry["version"]), []).append(str(entry["alias"]))
        found: list[RegistryVersion] = []
        token = ""
        while True:
            wanted = quote(f"name='{name}'", safe="")
            more = f"&page_token={quote(token, safe='')}" if token else ""
            page = self._call("GET", f"/model-versions/search?filter={wanted}&max_results={_PAGE}{more}")
            found.extend(_version(v, aliases) for v in page.get("model_versions", ()))
            token = page.get("next_page_token") or ""
            if not token:
                return tuple(sorted(found, key=lambda v: int(v.version)))

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        try:
            answer = self._http.request(method, _API + path, json=body)
        except httpx.TransportError as exc:
            raise UnavailableError(
                f"MLflow does not answer: {type(exc).__name__}", hint="it is tried again; see: factory status"
            ) from exc
        if answer.status_code < 400:
            return answer.json() if answer.content else {}
        code, message = _problem(answer)
        if code == "RESOURCE_ALREADY_EXISTS":
            raise ConflictError(f"MLflow: {message}")
        if code == "RESOURCE_DOES_NOT_EXIST" or answer.status_code == 404:
            raise NotFoundError("MLflow object", message)
        if answer.status_code >= 500 or answer.status_code == 429:
            raise UnavailableError(f"MLflow failed: {message}", hint="it is tried again")
        raise ConflictError(f"MLflow refused {method} {path.partition('?')[0]}: {code} {message}")


def _version(entry: Mapping[str, Any], aliases: Mapping[str, list[str]]) -> RegistryVersion:
    version = str(entry["version"])
    return RegistryVersion(
        name=str(entry["name"]),
        version=version,
        source=str(entry.get("source", "")),
        tags=tuple(sorted((str(t["key"]), str(t["value"])) for t in entry.get("tags", ()))),
        aliases=tuple(sorted(aliases.get(version, ()))),
    )


def _problem(answer: httpx.Response) -> tuple[str, str]:
    try:
        body = answer.json()
    except ValueError:
        return "", answer.text[:200]
    return str(body.get("error_code", "")), str(body.get("message", ""))[:500]
