"""Whose an experiment, a run or a logged model is: asked of MLflow once, then known.

Only what cannot change is cached: ids are never given again, and nobody but us can rename an experiment (no allowed
route does). What was not found is asked again next time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Protocol

__all__ = ["Ask", "Owners"]

_LIMIT = 20_000
_API = "/api/2.0/mlflow"


class Ask(Protocol):
    """GET on MLflow: the decoded answer, None for 404 and for ids that MLflow calls malformed."""

    async def __call__(self, path: str, query: Mapping[str, str]) -> dict[str, Any] | None: ...


class Owners:
    """Answers "is it this tenant's?" without telling missing from foreign."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._experiment_of: OrderedDict[tuple[str, str], str] = OrderedDict()  # (kind, id) -> experiment id
        self._tenant_of: OrderedDict[str, str] = OrderedDict()  # experiment id -> tenant, "" = nobody's

    async def owns_experiment(self, tenant: str, experiment_id: str) -> bool:
        """True if the experiment exists and its name says that it is the tenant's."""
        found = self._tenant_of.get(experiment_id)
        if found is None:
            answer = await self._ask(f"{_API}/experiments/get", {"experiment_id": experiment_id})
            if answer is None:
                return False
            name = str(answer["experiment"]["name"])
            found = name.partition(".")[0] if "." in name else ""
            _remember(self._tenant_of, str(answer["experiment"]["experiment_id"]), found)
        return found == tenant

    async def owns_run(self, tenant: str, run_id: str) -> bool:
        """The same of the run's experiment."""
        return await self._owns_in("run", tenant, run_id)

    async def owns_logged_model(self, tenant: str, model_id: str) -> bool:
        """The same of the logged model's experiment."""
        return await self._owns_in("model", tenant, model_id)

    async def _owns_in(self, kind: str, tenant: str, thing: str) -> bool:
        experiment = self._experiment_of.get((kind, thing))
        if experiment is None:
            if kind == "run":
                answer = await self._ask(f"{_API}/runs/get", {"run_id": thing, "run_uuid": thing})
                info = answer and answer["run"]["info"]
            else:
                answer = await self._ask(f"{_API}/logged-models/{thing}", {})
                info = answer and answer["model"]["info"]
            if not info:
                return False
            experiment = str(info["experiment_id"])
            _remember(self._experiment_of, (kind, thing), experiment)
        return await self.owns_experiment(tenant, experiment)


def _remember(cache: OrderedDict[Any, str], key: Any, value: str) -> None:
    cache[key] = value
    while len(cache) > _LIMIT:
        cache.popitem(last=False)
