"""What user code and algorithms get from the factory while they run.

    from factory.worker.context import JobContext

    def prepare(ctx: JobContext, since: str) -> dict:
        frame = ctx.read("raw")
        ...
        ctx.write("clean", frame)
        return {"rows": len(frame)}

Datasets are read and written with the attempt's own token: what the job did not name it cannot reach.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory.domain.datasets import Contract
from factory.errors import NotFoundError
from factory.schemas.attempt import InputReply
from factory.worker.attempt import AttemptApi, local_path
from factory.worker.folders import RankFolder
from factory.worker.orders import ReplicaOrder, threads_of
from factory.worker.outputs import WrittenVersion, write_version
from factory.worker.progress import ProgressReporter
from factory.worker.stopping import StopSignal
from factory.worker.tracking import Tracker

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from factory.algorithms.contract import Servable
    from factory.worker.data.columns import TableStream

__all__ = ["JobContext", "JobServices"]


class JobServices:
    """What the context speaks through; made once per replica."""

    def __init__(self, order: ReplicaOrder, api: AttemptApi, folder: RankFolder, stop: StopSignal) -> None:
        self.order = order
        self.api = api
        self.folder = folder
        self.stop = stop
        self.progress = ProgressReporter(api)
        self.tracker = Tracker(api.order, order.token, tags=_tags(order), params=_params(order), log=log_line)


class JobContext:
    """One replica's view of its job. Implements the algorithms' `TrainContext` and `PredictContext` too."""

    def __init__(self, services: JobServices, params: Any = None, model: Servable | None = None) -> None:
        self._services = services
        self._params = params
        self._model = model
        self._inputs: dict[str, InputReply] = {}

    # --- who am I ---------------------------------------------------------------------------------------------------

    @property
    def params(self) -> Any:
        """The job's parameters: keyword arguments of a function, the validated model of an algorithm."""
        return self._params

    @property
    def seed(self) -> int:
        """The job's seed: the same on every try."""
        return self._services.order.work.spec.seed

    @property
    def job_id(self) -> str:
        """The job."""
        return self._services.order.work.job

    @property
    def attempt_id(self) -> str:
        """This try; use it to make outside effects idempotent."""
        return self._services.order.work.attempt

    @property
    def rank(self) -> int:
        """Which replica of the gang this is, from 0."""
        return self._services.order.work.rank

    @property
    def replicas(self) -> int:
        """Size of the gang: as asked for, or fewer, down to the job's `min_replicas`."""
        return len(self._services.order.gang)

    @property
    def threads(self) -> int:
        """How many threads the allocation stands for."""
        return threads_of(self._services.order.placement.resources.cpu_milli)

    @property
    def workdir(self) -> Path:
        """A folder of this attempt, empty at first and gone some time after it."""
        self._services.folder.work.mkdir(parents=True, exist_ok=True)
        return self._services.folder.work

    @property
    def should_stop(self) -> bool:
        """True once the attempt is told to stop; it is killed when its grace is over."""
        return self._services.stop.is_set

    @property
    def model(self) -> Servable:
        """The model of a batch inference job, opened. Raises: NotFoundError: the job has none."""
        if self._model is None:
            raise NotFoundError("model of job", self.job_id, hint="only predict jobs have one")
        return self._model

    # --- data in ----------------------------------------------------------------------------------------------------

    def read(self, name: str, columns: list[str] | None = None) -> pd.DataFrame:
        """Return an input's rows as a DataFrame in file order. `name` is the job's own name for the input."""
        from factory.worker.data.frames import read_pandas

        return read_pandas(self._table_dir(name), self._input(name).manifest.files, columns=columns)

    def frame(self, input_name: str) -> pd.DataFrame:
        """Return an input's rows: `read` under the name that algorithms use."""
        return self.read(input_name)

    def read_arrow(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """Return an input's rows as an Arrow table in file order."""
        from factory.worker.data.frames import read_arrow

        return read_arrow(self._table_dir(name), self._input(name).manifest.files, columns=columns)

    def contract(self, input_name: str) -> Contract:
        """Return the contract of the input's dataset version."""
        return self._input(input_name).contract

    def dataset_version(self, input_name: str) -> str:
        """Return the id of the input's dataset version."""
        return self._input(input_name).version_id

    # --- data and figures out ---------------------------------------------------------------------------------------

    def write(self, name: str, rows: Any) -> WrittenVersion:
        """Write the output `name` as a new dataset version and see it through its gate.

        A failed gate is no error of the job: the version is quarantined, the log and `failures` say why.

        Args:
            rows: DataFrame, Arrow table or reader, DuckDB relation, or mapping of columns.
        Raises: InvalidRequestError: the rows cannot be stored.
        """
        from factory.worker.data.frames import stream_of

        self._check_name("output", name, [o.name for o in self._services.order.work.spec.outputs])

        @contextlib.contextmanager
        def opened() -> Iterator[TableStream]:
            yield stream_of(rows)

        return write_version(self._services.api, name, opened, source_digest=None, threads=self.threads, log=log_line)

    def log(self, message: object) -> None:
        """Write one line into the job's log."""
        log_line(str(message))

    def progress(self, fraction: float, message: str = "") -> None:
        """Report how much is done, 0 to 1. Cheap: sent in the background, at most twice a second. Rank 0 is heard."""
        if self.rank == 0:
            self._services.progress.report(fraction, message)

    def metrics(self, step: int, **values: float) -> None:
        """Report figures of one step: live in the terminal, and into the attempt's MLflow run. Rank 0 is heard."""
        if self.rank == 0:
            self._services.progress.metrics(step, values)
            self._services.tracker.metrics(step, values)

    # --- helpers ----------------------------------------------------------------------------------------------------

    def _input(self, name: str) -> InputReply:
        if name not in self._inputs:
            self._check_name("input", name, [i.name for i in self._services.order.work.spec.inputs])
            self._inputs[name] = self._services.api.input(name)
        return self._inputs[name]

    def _table_dir(self, name: str) -> Path:
        reply = self._input(name)
        if reply.location is not None:
            return local_path(reply.location)
        folder = self._services.folder.path / "inputs" / name  # no shared store: each file once per attempt
        for file in reply.manifest.files:
            target = folder / file.path
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                self._services.api.input_file(name, file.path, target)
        return folder

    def _check_name(self, kind: str, name: str, known: list[str]) -> None:
        if name not in known:
            raise NotFoundError(f"{kind} of this job", name, known, hint=f"it has: {', '.join(known) or 'none'}")


def log_line(message: str) -> None:
    """Write a line to the job's log at once."""
    print(message, file=sys.stdout, flush=True)


def _tags(order: ReplicaOrder) -> Mapping[str, str]:
    work = order.work
    tags = {"factory.job": work.job, "factory.attempt": work.attempt, "factory.tenant": work.tenant}
    tags |= {f"factory.dataset.{i.name}": f"{i.dataset}@{i.version}" for i in work.spec.inputs}
    algorithm, version = getattr(work.spec.entry, "algorithm", ""), getattr(work.spec.entry, "version", "")
    return tags | ({"factory.algorithm": f"{algorithm}@{version}"} if algorithm else {})


def _params(order: ReplicaOrder) -> Mapping[str, str]:
    params: dict[str, str] = {"seed": str(order.work.spec.seed)}
    given = getattr(order.work.spec.entry, "params_json", "")
    if given:
        params |= {name: json.dumps(value) for name, value in json.loads(given).items()}
    return params
