"""The allow-list, as data: which MLflow calls pass, with which fields, for whom, and what makes them the caller's own.

Source: MLflow 3.17.2's protos (`service.proto`, `model_registry.proto`) and the calls that `mlflow-skinny` makes. Only
named fields pass, spelled as here: what we did not read, MLflow does not see (camelCase spellings, doubled keys, the
client's `artifact_location` and `source`). Registry writes are missing on purpose: our database is the truth and writes
them itself. A call that is not here is 404, whatever MLflow has behind it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from factory.domain.tenancy import Role

__all__ = ["ROUTES", "Owner", "Route", "find"]


class Owner(StrEnum):
    """The tenant rule: what proves that a call stays inside the caller's tenant."""

    NAMES = "names"  # makes or finds by name: the name is prefixed on the way in, stripped on the way out
    EXPERIMENT = "experiment"  # `experiment_id` belongs to the tenant
    RUN = "run"  # `run_id`'s experiment does
    LOGGED_MODEL = "logged_model"  # `model_id`'s experiment does
    ARTIFACT = "artifact"  # the path's first segment is an experiment of the tenant
    SEARCH_EXPERIMENTS = "search_experiments"  # the filter is narrowed to the tenant's names
    SEARCH_REGISTRY = "search_registry"  # the same for registered models and their versions
    SEARCH_IN_EXPERIMENTS = "search_in_experiments"  # `experiment_ids` are cut to the tenant's own
    NOBODY = "nobody"  # says nothing about anybody; answered by the proxy itself


@dataclass(frozen=True, slots=True)
class Route:
    """One allowed call."""

    method: str
    path: str  # below /mlflow; {name} is one segment, {name:path} the rest
    owner: Owner
    fields: tuple[str, ...] = ()  # of the query (GET) or the body (others), besides those in the path
    least: Role = Role.VIEWER
    prefixed: str = ""  # NAMES: the field that holds a name
    strip: tuple[str, ...] = ()  # where names are in the answer: "experiment.name", "experiments[].name"
    also: tuple[str, ...] = ()  # further fields that hold ids: "model_id", "metrics[].model_id", "source_run_id"
    raw: bool = False  # the body is bytes

    @property
    def regex(self) -> re.Pattern[str]:
        """The pattern of the whole path."""
        text = re.sub(r"\{(\w+):path\}", r"(?P<\1>.+)", self.path)
        return re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", text))


_API = "/api/2.0/mlflow"
_FILES = "/api/2.0/mlflow-artifacts/artifacts"
_RUN = ("run_id", "run_uuid")
_PAGE = ("max_results", "page_token")
_VERSIONS = ("model_versions[].name",)
_MODEL = ("registered_model.name", "registered_model.latest_versions[].name")
_MODELS = ("registered_models[].name", "registered_models[].latest_versions[].name")


def _reads() -> tuple[Route, ...]:
    return (
        Route("GET", f"{_API}/experiments/get", Owner.EXPERIMENT, ("experiment_id",), strip=("experiment.name",)),
        Route(
            "GET",
            f"{_API}/experiments/get-by-name",
            Owner.NAMES,
            ("experiment_name",),
            prefixed="experiment_name",
            strip=("experiment.name",),
        ),
        *(
            Route(
                m,
                f"{_API}/experiments/search",
                Owner.SEARCH_EXPERIMENTS,
                ("filter", "order_by", "view_type", *_PAGE),
                strip=("experiments[].name",),
            )
            for m in ("GET", "POST")
        ),
        Route("GET", f"{_API}/runs/get", Owner.RUN, _RUN),
        Route(
            "POST",
            f"{_API}/runs/search",
            Owner.SEARCH_IN_EXPERIMENTS,
            ("experiment_ids", "filter", "run_view_type", "order_by", *_PAGE),
        ),
        Route("GET", f"{_API}/metrics/get-history", Owner.RUN, (*_RUN, "metric_key", *_PAGE)),
        Route("GET", f"{_API}/artifacts/list", Owner.RUN, (*_RUN, "path", "page_token")),
        Route("GET", f"{_API}/logged-models/{{model_id}}", Owner.LOGGED_MODEL),
        Route(
            "GET",
            f"{_API}/logged-models/{{model_id}}/artifacts/directories",
            Owner.LOGGED_MODEL,
            ("artifact_directory_path", "page_token"),
        ),
        Route(
            "POST",
            f"{_API}/logged-models/search",
            Owner.SEARCH_IN_EXPERIMENTS,
            ("experiment_ids", "filter", "datasets", "order_by", *_PAGE),
        ),
        Route("GET", f"{_API}/registered-models/get", Owner.NAMES, ("name",), prefixed="name", strip=_MODEL),
        Route(
            "GET",
            f"{_API}/registered-models/search",
            Owner.SEARCH_REGISTRY,
            ("filter", "order_by", *_PAGE),
            strip=_MODELS,
        ),
        *(
            Route(
                m,
                f"{_API}/registered-models/get-latest-versions",
                Owner.NAMES,
                ("name", "stages"),
                prefixed="name",
                strip=_VERSIONS,
            )
            for m in ("GET", "POST")
        ),
        Route(
            "GET",
            f"{_API}/registered-models/alias",
            Owner.NAMES,
            ("name", "alias"),
            prefixed="name",
            strip=("model_version.name",),
        ),
        Route(
            "GET",
            f"{_API}/model-versions/get",
            Owner.NAMES,
            ("name", "version"),
            prefixed="name",
            strip=("model_version.name",),
        ),
        Route(
            "GET",
            f"{_API}/model-versions/search",
            Owner.SEARCH_REGISTRY,
            ("filter", "order_by", *_PAGE),
            strip=_VERSIONS,
        ),
        Route("GET", _FILES, Owner.ARTIFACT, ("path", "page_token")),
        Route("GET", f"{_FILES}/{{artifact:path}}", Owner.ARTIFACT),
        Route("GET", "/api/3.0/mlflow/server-info", Owner.NOBODY),
    )


def _writes() -> tuple[Route, ...]:
    def write(method: str, path: str, owner: Owner, fields: tuple[str, ...] = (), **more: object) -> Route:
        return Route(method, path, owner, fields, least=Role.OPERATOR, **more)  # pyright: ignore[reportArgumentType]  # named below

    metric = ("key", "value", "timestamp", "step", "model_id", "dataset_name", "dataset_digest")
    return (
        write("POST", f"{_API}/experiments/create", Owner.NAMES, ("name", "tags"), prefixed="name"),
        write("POST", f"{_API}/experiments/set-experiment-tag", Owner.EXPERIMENT, ("experiment_id", "key", "value")),
        write(
            "POST",
            f"{_API}/runs/create",
            Owner.EXPERIMENT,
            ("experiment_id", "user_id", "run_name", "start_time", "tags"),
        ),
        write("POST", f"{_API}/runs/update", Owner.RUN, (*_RUN, "status", "end_time", "run_name")),
        write("POST", f"{_API}/runs/delete", Owner.RUN, ("run_id",)),
        write("POST", f"{_API}/runs/restore", Owner.RUN, ("run_id",)),
        write("POST", f"{_API}/runs/log-metric", Owner.RUN, (*_RUN, *metric), also=("model_id",)),
        write("POST", f"{_API}/runs/log-parameter", Owner.RUN, (*_RUN, "key", "value")),
        write(
            "POST",
            f"{_API}/runs/log-batch",
            Owner.RUN,
            ("run_id", "metrics", "params", "tags"),
            also=("metrics[].model_id", "metrics[].run_id"),
        ),
        write("POST", f"{_API}/runs/set-tag", Owner.RUN, (*_RUN, "key", "value")),
        write("POST", f"{_API}/runs/delete-tag", Owner.RUN, ("run_id", "key")),
        write(
            "POST", f"{_API}/runs/log-inputs", Owner.RUN, ("run_id", "datasets", "models"), also=("models[].model_id",)
        ),
        write("POST", f"{_API}/runs/outputs", Owner.RUN, ("run_id", "models"), also=("models[].model_id",)),
        write("POST", f"{_API}/runs/log-model", Owner.RUN, ("run_id", "model_json")),
        write(
            "POST",
            f"{_API}/logged-models",
            Owner.EXPERIMENT,
            ("experiment_id", "name", "model_type", "source_run_id", "params", "tags"),
            also=("source_run_id",),
        ),
        write("PATCH", f"{_API}/logged-models/{{model_id}}", Owner.LOGGED_MODEL, ("model_id", "status")),
        write("POST", f"{_API}/logged-models/{{model_id}}/params", Owner.LOGGED_MODEL, ("model_id", "params")),
        write("PATCH", f"{_API}/logged-models/{{model_id}}/tags", Owner.LOGGED_MODEL, ("model_id", "tags")),
        write(
            "DELETE", f"{_API}/logged-models/{{model_id}}/tags/{{tag_key}}", Owner.LOGGED_MODEL, ("model_id", "tag_key")
        ),
        write("PUT", f"{_FILES}/{{artifact:path}}", Owner.ARTIFACT, raw=True),
    )


ROUTES: tuple[Route, ...] = _reads() + _writes()
_COMPILED = tuple((route, route.regex) for route in ROUTES)


def find(method: str, path: str) -> tuple[Route, dict[str, str]] | None:
    """Return the allowed route and its path parameters, None if there is none.

    >>> find("POST", "/api/2.0/mlflow/registered-models/create") is None
    True
    """
    for route, regex in _COMPILED:
        match = regex.fullmatch(path) if route.method == method else None
        # `logged-models/search` must not read as the model `search`
        if match and not (route.owner is Owner.LOGGED_MODEL and match["model_id"] == "search"):
            return route, match.groupdict()
    return None
