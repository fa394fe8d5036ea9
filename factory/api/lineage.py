"""What came from what: the graph around a job, a dataset version or a model version, from the rows.

Edges follow the flow of data: dataset → job → dataset or model → endpoint; algorithm → job. The walk is bounded; it
stays inside the caller's scope, so that a graph never shows another tenant's things.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from factory.bootstrap import ControlPlane
from factory.domain.datasets import DatasetVersion
from factory.domain.endpoints import Endpoint
from factory.domain.ids import DatasetName, JobId, ModelName, VersionId
from factory.domain.jobs import AlgorithmEntry, Job, ServiceEntry
from factory.domain.models import ModelVersion
from factory.domain.tenancy import Principal, Scope
from factory.errors import NotFoundError
from factory.schemas.datasets import LineageEdge, LineageNode, LineageView

__all__ = ["dataset_lineage", "job_lineage", "model_lineage"]

MAX_NODES = 300


def job_lineage(plane: ControlPlane, principal: Principal, job_id: JobId) -> LineageView:
    """Raises: NotFoundError."""
    return plane.store.read(lambda tx: _Walk(tx, principal.scope).around_job(job_id))


def dataset_lineage(plane: ControlPlane, principal: Principal, name: DatasetName, number: int) -> LineageView:
    """Raises: NotFoundError."""

    def look(tx: Any) -> LineageView:
        found = tx.version_by_number(principal.scope, principal.acting_tenant(), name, number)
        if found is None:
            raise NotFoundError("dataset version", f"{name}@{number}", hint="see: factory datasets list")
        return _Walk(tx, principal.scope).around_version(found)

    return plane.store.read(look)


def model_lineage(plane: ControlPlane, principal: Principal, name: ModelName, number: int) -> LineageView:
    """Raises: NotFoundError."""

    def look(tx: Any) -> LineageView:
        found = tx.model_version(principal.scope, principal.acting_tenant(), name, number)
        if found is None:
            raise NotFoundError("model version", f"{name}@{number}", hint="see: factory models list")
        return _Walk(tx, principal.scope).around_model(found)

    return plane.store.read(look)


@dataclass(slots=True)
class _Walk:
    """One walk on one consistent state. `tx` is a store's reader."""

    tx: Any  # the union of every reader port; what is used of it is used with typed values only
    scope: Scope
    nodes: dict[str, LineageNode] = field(default_factory=dict[str, LineageNode])
    edges: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    todo: deque[Job | DatasetVersion | ModelVersion] = field(default_factory=deque)
    endpoints: tuple[Endpoint, ...] | None = None

    def around_job(self, job_id: JobId) -> LineageView:
        job: Job | None = self.tx.job(self.scope, job_id)
        if job is None:
            raise NotFoundError("job", job_id, hint="see: factory jobs list")
        self.scope = Scope(job.tenant)  # names mean something only inside one tenant
        return self._walk(self._job(job))

    def around_version(self, version: DatasetVersion) -> LineageView:
        return self._walk(self._version(version))

    def around_model(self, version: ModelVersion) -> LineageView:
        return self._walk(self._model(version))

    def _walk(self, focus: str) -> LineageView:
        while self.todo and len(self.nodes) < MAX_NODES:
            match self.todo.popleft():
                case Job() as job:
                    self._expand_job(job)
                case DatasetVersion() as version:
                    self._expand_version(version)
                case ModelVersion() as model:
                    self._expand_model(model)
        edges = sorted(e for e in self.edges if e[0] in self.nodes and e[1] in self.nodes)
        order = _roots_first(sorted(self.nodes), edges)
        return LineageView(
            focus=focus,
            nodes=tuple(self.nodes[i] for i in order),
            edges=tuple(LineageEdge(source=s, target=t) for s, t in edges),
        )

    # -- nodes ----------------------------------------------------------------------------------------------------

    def _add(self, ident: str, kind: str, label: str, state: str, thing: Any = None) -> str:
        if ident not in self.nodes:
            self.nodes[ident] = LineageNode(id=ident, kind=kind, label=label, state=state)
            if thing is not None:
                self.todo.append(thing)
        return ident

    def _job(self, job: Job) -> str:
        return self._add(f"job:{job.id}", "job", job.spec.name, job.state.value, job)

    def _version(self, version: DatasetVersion) -> str:
        name = f"{version.dataset}@{version.number}"
        return self._add(f"dataset:{name}", "dataset", name, version.state.value, version)

    def _model(self, version: ModelVersion) -> str:
        name = f"{version.model}@{version.number}"
        row = self.tx.model(self.scope, version.tenant, version.model)
        aliases = [a for a in ("champion", "previous") if row is not None and getattr(row, a) == version.number]
        return self._add(f"model:{name}", "model", name, ", ".join(aliases), version)

    # -- edges ----------------------------------------------------------------------------------------------------

    def _expand_job(self, job: Job) -> None:
        me = f"job:{job.id}"
        for given in job.spec.inputs:
            version = self.tx.version(self.scope, given.version_id)
            if version is not None:
                self.edges.add((self._version(version), me))
        entry = job.spec.entry
        if isinstance(entry, AlgorithmEntry):
            name = f"{entry.algorithm}@{entry.version}"
            self.edges.add((self._add(f"algorithm:{name}", "algorithm", name, ""), me))
        if isinstance(entry, AlgorithmEntry | ServiceEntry) and entry.model is not None:
            model = self.tx.model_version(self.scope, job.tenant, entry.model.model, entry.model.version)
            if model is not None:
                self.edges.add((self._model(model), me))
        for version in self.tx.versions_of_job(self.scope, job.id):
            self.edges.add((me, self._version(version)))
        for model in self.tx.models_of_job(self.scope, job.id):
            self.edges.add((me, self._model(model)))

    def _expand_version(self, version: DatasetVersion) -> None:
        me = f"dataset:{version.dataset}@{version.number}"
        maker = self.tx.job(self.scope, version.job) if version.job is not None else None
        if maker is not None:
            self.edges.add((self._job(maker), me))
        for parent_id in version.parents:
            parent = self.tx.version(self.scope, VersionId(parent_id))
            if parent is not None and maker is None:
                self.edges.add((self._version(parent), me))
        for child in self.tx.versions_from(self.scope, version.id):
            self._version(child)  # its own expansion joins it through the job that made it
        for model in self.tx.models_from(self.scope, version.id):
            self._model(model)

    def _expand_model(self, version: ModelVersion) -> None:
        me = f"model:{version.model}@{version.number}"
        maker = self.tx.job(self.scope, version.lineage.job)
        if maker is not None:
            self.edges.add((self._job(maker), me))
        if self.endpoints is None:
            self.endpoints = tuple(self.tx.endpoints(self.scope))
        for endpoint in self.endpoints:
            wanted = endpoint.revisions[-1] if endpoint.revisions else None
            serves = wanted is not None and (wanted.model, wanted.model_version) == (version.model, version.number)
            if endpoint.tenant == version.tenant and serves:
                name = str(endpoint.name)
                self.edges.add((me, self._add(f"endpoint:{name}", "endpoint", name, endpoint.state.value)))


def _roots_first(nodes: list[str], edges: list[tuple[str, str]]) -> list[str]:
    """Return the nodes so that each comes after what it came from; by name where that is free (Kahn)."""
    waits = {n: sum(1 for _, t in edges if t == n) for n in nodes}
    order: list[str] = []
    ready = [n for n in nodes if waits[n] == 0]
    while ready:
        node = ready.pop(0)
        order.append(node)
        for source, target in edges:
            if source == node:
                waits[target] -= 1
                if waits[target] == 0:
                    ready.append(target)
    return order + [n for n in nodes if n not in order]
