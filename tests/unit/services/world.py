"""A factory of services on the store in memory: one pool, two tenants, attempts that can be brought to life."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factory.algorithms.catalogue import load_catalogue
from factory.datasets.service import DatasetService
from factory.datasets.settling import settle
from factory.datasets.tables import LocalTables
from factory.domain.datasets import Column, DatasetVersion, FileEntry, Measurement, VersionState
from factory.domain.events import Admitted, AttemptEnded, AttemptRunning
from factory.domain.ids import AttemptId, DatasetName, JobId, RunnerId, TenantId, VersionId
from factory.domain.jobs import Allocation, EndReason, Job, Outcome, Placement
from factory.domain.tenancy import PLATFORM, Principal, Role
from factory.jobs.bundles import Bundles
from factory.jobs.service import JobService
from factory.lifecycle.stepping import next_attempt_id, record
from factory.models.service import ModelService
from factory.pools.service import PoolService
from factory.schemas.attempt import MeasuredRequest, PublishedRequest, RegisterModelRequest, StageRequest
from factory.schemas.datasets import RegisterRequest
from factory.schemas.jobs import JobSpec
from factory.schemas.platform import TenantRequest
from factory.serving.service import EndpointService
from factory.tenants.service import TenantService
from factory.testing.builders import node, pool, runner
from factory.testing.memory import MemoryStore
from factory.testing.objects import MemoryObjectStore

__all__ = ["ANNA", "NOW", "PAUL", "ROOT", "SERIES", "VIEWER", "World", "command", "make_world", "measured", "training"]

NOW = 1_700_000_000_000
ROOT = Principal("root", Role.PLATFORM, None)
ANNA = Principal("anna", Role.OPERATOR, TenantId("mobility"))
PAUL = Principal("paul", Role.OPERATOR, TenantId("parks"))
VIEWER = Principal("vera", Role.VIEWER, TenantId("mobility"))
SERIES = {"series": {"time": "stamp"}, "checks": ["order", {"rows": {"min": 1}}]}


class Ids:
    """`IdSource` that counts."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    def new(self, kind: str) -> str:
        return f"{kind}-{next(self._numbers):04d}"


@dataclass
class World:
    """All services, joined as bootstrap joins them, and shortcuts to what happens elsewhere."""

    store: MemoryStore
    objects: MemoryObjectStore
    jobs: JobService
    tenants: TenantService
    pools: PoolService
    datasets: DatasetService
    models: ModelService
    endpoints: EndpointService
    tables: Path

    # --- what the control loop and a runner do ---

    def step(self, job_id: str, event: Callable[[Job], Any]) -> Job:
        def work(tx: Any) -> Job:
            job = tx.job(PLATFORM, JobId(job_id))
            moved, recorded, _ = record(job, event(job))
            tx.update_job(moved, (recorded,), expected_seq=job.seq)
            if moved.is_terminal:
                settle(tx, moved, NOW, jobs=self.jobs)
            return moved

        return self.store.transact(work)

    def start(self, job_id: str) -> AttemptId:
        """Let a queued job run; return its attempt."""

        def admitted(job: Job) -> Admitted:
            place = Placement(0, node("n1").id, job.spec.resources)
            held = Allocation(pool().name, 1000, (place,))
            return Admitted(NOW, next_attempt_id(job), RunnerId("runner-1"), held, 1)

        attempt = self.step(job_id, admitted).attempts[-1].id
        self.step(job_id, lambda _: AttemptRunning(NOW, attempt))
        return attempt

    def end(self, attempt: AttemptId, reason: EndReason = EndReason.COMPLETED, message: str = "") -> Job:
        outcome = Outcome(reason, message)
        job_id = attempt.rpartition(".")[0]
        return self.step(job_id, lambda _: AttemptEnded(NOW, attempt, outcome, "report"))

    # --- what people and workers do ---

    def upload(self, body: bytes = b"a,b\n1,2\n", who: Principal = ANNA) -> str:
        return self.datasets.upload(who, "f.csv", "csv", (body,), limit_bytes=1000, now=NOW).id

    def register(
        self, name: str = "footfall", contract: dict[str, Any] | None = None, body: bytes = b"a\n1\n"
    ) -> DatasetVersion:
        request = RegisterRequest(upload=self.upload(body), contract=SERIES if contract is None else contract)
        return self.datasets.register(ANNA, DatasetName(name), request, now=NOW).version

    def judge(self, attempt: AttemptId, output: str = "", *, backward: int = 0) -> VersionId:
        """Stage and measure what an attempt writes."""
        version = VersionId(self.datasets.stage(attempt, StageRequest(output=output), now=NOW).version_id)
        self.datasets.measured(attempt, version, measured(version, backward=backward), now=NOW)
        return version

    def publish(self, attempt: AttemptId, version: VersionId, delta_version: int = 0) -> None:
        self.datasets.published(attempt, version, PublishedRequest(delta_version=delta_version), now=NOW)

    def write(self, attempt: AttemptId, output: str = "", *, backward: int = 0) -> VersionId:
        """Stage and measure what an attempt writes; publish it if the verdict is pass."""
        version = self.judge(attempt, output, backward=backward)
        if self.version_of(version).state is VersionState.VALIDATED:
            self.publish(attempt, version)
        return version

    def ingest(self, name: str = "footfall", *, backward: int = 0, contract: dict[str, Any] | None = None) -> str:
        """Register a dataset and bring its ingest job to its end; return the version's id."""
        version = self.register(name, contract, body=f"{name},{backward},{contract}".encode())
        assert version.job is not None
        attempt = self.start(version.job)
        self.write(attempt, backward=backward)
        self.end(attempt)
        return version.id

    def train(
        self, *, mae: float = 50.0, model: str = "m", data: str = "footfall", **fields: Any
    ) -> tuple[AttemptId, int]:
        """Train a model on a published dataset and register it; return the attempt and the version's number."""
        spec = training(model=model, data=data, **fields)
        job = self.jobs.submit(ANNA, spec, now=NOW).job
        attempt = self.start(job.id)
        return attempt, self.models.register(attempt, self.model_request(attempt, mae, model), now=NOW).number

    def model_request(
        self, attempt: AttemptId, mae: float = 50.0, model: str = "m", **changes: Any
    ) -> RegisterModelRequest:
        job = self.jobs.live_attempt(attempt).job
        body = f"weights of {attempt}".encode()
        stored = self.models.put_file(attempt, (body,), limit_bytes=1000)
        fields: dict[str, Any] = {
            "model": model,
            "format": "safetensors",
            "object_key": stored.object_key,
            "sha256": hashlib.sha256(body).hexdigest(),
            "metrics": {"mae": mae},
            "evaluation": {
                "protocol": "last 15 %",
                "dataset_version": job.spec.inputs[0].version_id,
                "metric": "mae",
                "direction": "min",
                "value": mae,
                "baselines": {"week": 60.0},
            },
        }
        return RegisterModelRequest(**{**fields, **changes})

    def version_of(self, version_id: str) -> DatasetVersion:
        found = self.store.read(lambda tx: tx.version(PLATFORM, VersionId(version_id)))
        assert found is not None
        return found


def measured(version: VersionId, *, backward: int = 0, path: str | None = None) -> MeasuredRequest:
    return MeasuredRequest(
        source_digest="sha256:00",
        columns=(Column("stamp", "timestamp[us]"), Column("a", "int64")),
        rows=10,
        files=(FileEntry(path or f"{version}-00000.parquet", 100, "ab" * 32, 10),),
        measurements=(Measurement("order", "", backward, backward, 9), Measurement("rows", "", 10, 0, 10)),
    )


def command(**fields: Any) -> JobSpec:
    return JobSpec(**{"name": "job", "command": {"argv": ("true",)}, "memory": 0, **fields})


def training(*, model: str | None = "m", data: str = "footfall", **fields: Any) -> JobSpec:
    algorithm = {"name": "series-forecast", "register_model": model}
    return JobSpec(
        **{
            "name": "train",
            "algorithm": algorithm,
            "memory": 0,
            "inputs": {"data": {"dataset": data, "purpose": "train"}},
            **fields,
        }
    )


def make_world(folder: Path, store: Any = None) -> World:
    """Return a factory with one pool of one node and two tenants. `store`: another one than that in memory."""
    store, objects, ids = store or MemoryStore(), MemoryObjectStore(), Ids()

    def ended(tx: object, job: Job, now: int) -> None:
        settle(tx, job, now, jobs=jobs)

    jobs = JobService(store, ids=ids, bundles=Bundles(objects), catalogue=load_catalogue(), on_ended=ended)
    counter = itertools.count(1)
    tables = folder / "tables"
    made = World(
        store=store,
        objects=objects,
        jobs=jobs,
        tenants=TenantService(store, secrets=lambda size: hashlib.sha512(bytes([next(counter)])).digest()[:size]),
        pools=PoolService(store),
        datasets=DatasetService(store, objects, ids=ids, jobs=jobs, tables=LocalTables(tables)),
        models=ModelService(store, objects),
        endpoints=EndpointService(store),
        tables=tables,
    )

    def fill(tx: Any) -> None:
        tx.put_runner(runner())
        tx.put_pool(pool())
        tx.put_node(node("n1", cpu=4))

    store.transact(fill)
    for name in ("mobility", "parks"):
        made.tenants.put_tenant(ROOT, TenantId(name), TenantRequest(), now=NOW)
    return made
