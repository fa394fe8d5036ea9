"""From what was asked (wire) to what is stored (domain): names resolved, versions pinned, units integer.

Everything that can be refused is refused here, with what is there instead and how to go on; nothing is stored before.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import NoReturn

from factory.algorithms.catalogue import Catalogue
from factory.domain.algorithms import AlgorithmManifest
from factory.domain.datasets import Contract, DatasetVersion, VersionState
from factory.domain.ids import DatasetName, Digest, JobId, ModelName, PoolName, QueueName, TenantId
from factory.domain.jobs import (
    AlgorithmEntry,
    CommandEntry,
    DatasetInput,
    DatasetOutput,
    Entry,
    FunctionEntry,
    JobSpec,
    JobState,
    ModelRef,
    Operation,
    Purpose,
    RayMode,
    RetryPolicy,
    Waiting,
)
from factory.domain.models import ModelVersion, split_reference
from factory.domain.pools import Isolation, Pool
from factory.domain.resources import Resources
from factory.domain.tenancy import PLATFORM, Queue, Scope
from factory.errors import (
    DatasetGateError,
    InfeasibleError,
    InvalidRequestError,
    NotFoundError,
    UnknownPoolError,
    UnknownQueueError,
    UnsupportedError,
    did_you_mean,
)
from factory.jobs import gating
from factory.jobs.bundles import check_digest
from factory.jobs.ports import BundleStore, SubmissionReader
from factory.jobs.views import veil_for
from factory.quality.contracts import DATA_CLASSES, contract_from_mapping, contract_to_mapping
from factory.scheduling.feasibility import check_feasible
from factory.scheduling.snapshot import Rows, Snapshot
from factory.schemas import jobs as wire

__all__ = ["Normalised", "Normaliser", "to_resources"]

_MAX_ARGUMENTS = 256 * 1024  # bytes of JSON; more belongs into a dataset


@dataclass(frozen=True, slots=True)
class Normalised:
    """The job as it will be stored; `hold` = why it is pending at first."""

    spec: JobSpec
    hold: Waiting | None


def to_resources(cpu: float, memory_bytes: int, gpu: float) -> Resources:
    """Return the vector in integers; what is asked for at all is at least one thousandth.

    >>> to_resources(0.25, 1024, 0.0001)
    Resources(cpu_milli=250, memory_bytes=1024, gpu_milli=1)
    """
    return Resources(_milli(cpu), memory_bytes, _milli(gpu))


class Normaliser:
    """Judges the specs of one tenant in one transaction; what they share is read once."""

    def __init__(
        self,
        reader: SubmissionReader,
        tenant: TenantId,
        *,
        catalogue: Catalogue,
        bundles: BundleStore,
        dry: bool = False,
    ) -> None:
        """Judge for `tenant`; `dry`: code need not be there yet, and what can never run is not refused."""
        self._reader = reader
        self._tenant = tenant
        self._scope = Scope(tenant)
        self._catalogue = catalogue
        self._bundles = bundles
        self._dry = dry
        self._snapshot: Snapshot | None = None
        self._queues: dict[QueueName, Queue] | None = None
        self._pools: dict[PoolName, Pool] | None = None
        self._uploaded: set[str] = set()
        self._feasible: set[tuple[object, ...]] = set()  # what decides whether a job could ever run, of those that can

    def normalise(self, asked: wire.JobSpec) -> Normalised:
        """Return the spec as it is stored.

        Raises: UnsupportedError, UnknownQueueError, UnknownPoolError, NotFoundError, DatasetGateError, InfeasibleError,
        InvalidRequestError: see each message.
        """
        if asked.ray is not RayMode.NONE:
            raise UnsupportedError(
                f"ray='{asked.ray.value}' is not there yet: this release runs each job as one gang of processes",
                hint="leave `ray` out, and use replicas=N for more processes",
                facts={"ray": asked.ray.value},
            )
        queue = self.queue(asked.queue)
        pool = self.pool(asked.pool)
        flavors = self._flavors(asked.flavors, pool)
        read = [(self._pin(name, given), given.purpose, name) for name, given in sorted(asked.inputs.items())]
        entry, manifest = self._entry(asked)
        if manifest is not None:
            _check_algorithm_inputs(manifest, {name: version for version, _, name in read})
        _check_repair(asked, [(version, purpose) for version, purpose, _ in read])
        outputs, contracts = _outputs(asked)
        self._check_data_class([*(v.contract for v, _, _ in read), *contracts], pool)
        spec = JobSpec(
            name=asked.name,
            entry=entry,
            queue=queue,
            resources=to_resources(asked.cpu, asked.memory, asked.gpu),
            replicas=asked.replicas,
            min_replicas=asked.min_replicas,
            pool=pool,
            flavors=flavors,
            gpu_models=tuple(dict.fromkeys(asked.gpu_models)),
            topology=asked.topology,
            estimate_s=asked.estimate_s,
            priority=asked.priority,
            inputs=tuple(DatasetInput(name, v.dataset, v.number, v.id, purpose) for v, purpose, name in read),
            outputs=outputs,
            ray=asked.ray,
            retry=RetryPolicy(asked.retry.max_retries, asked.retry.user_errors, asked.retry.backoff_s),
            timeout_s=asked.timeout_s,
            start_timeout_s=asked.start_timeout_s,
            grace_s=asked.grace_s,
            env=_environment(asked.env),
            seed=asked.seed,
            after=self._after(asked.after),
            labels=tuple(sorted(asked.labels.items())),
        )
        if not self._dry:
            self.check_feasible(spec)
        return Normalised(spec, gating.waits_for(self._reader, self._tenant, spec))

    def queue(self, name: str | None) -> QueueName:
        """Return the queue, by default the tenant's own. Raises: UnknownQueueError."""
        if self._queues is None:
            self._queues = {q.name: q for q in self._reader.queues(self._scope) if q.tenant == self._tenant}
        wanted = QueueName(name or self._tenant)
        if wanted not in self._queues:
            raise UnknownQueueError(wanted, list(self._queues))
        return wanted

    def pool(self, name: str | None) -> PoolName | None:
        """Return the pool. Raises: UnknownPoolError: there is none that this tenant may use."""
        if name is not None and name not in self._usable():
            raise UnknownPoolError(name, self._usable())
        return PoolName(name) if name is not None else None

    def _flavors(self, asked: Iterable[str], pool: PoolName | None) -> tuple[str, ...]:
        """Return the flavors in their order, each once. Raises: InvalidRequestError: a pool here has none of it."""
        flavors = tuple(dict.fromkeys(asked))
        pools = self._usable()
        known = sorted({p.flavor.name for p in pools.values()})
        for flavor in flavors:
            if pools and flavor not in known:  # before any runner has joined, nothing is known of what will be there
                raise InvalidRequestError(
                    f"flavors: there is no flavor '{flavor}'{did_you_mean(flavor, known)}",
                    hint=f"flavors here: {', '.join(known)} (see: factory pools)",
                    facts={"field": "flavors", "flavor": flavor, "known": known},
                )
        if flavors and pool is not None and (own := pools[pool].flavor.name) not in flavors:
            raise InvalidRequestError(
                f"flavors: pool '{pool}' is of flavor '{own}', which is not one of {', '.join(flavors)}",
                hint="leave out `pool`, or name its flavor",
                facts={"field": "flavors", "pool": pool, "flavor": own},
            )
        return flavors

    def pool_for(self, contract: Contract, pool: PoolName | None) -> PoolName | None:
        """Return where a platform job may handle data of this class: above `internal` only an own pool (DESIGN §1)."""
        if pool is None and gating.is_sensitive(contract):
            own = sorted(p.name for p in self._usable().values() if p.isolation is Isolation.TENANT)
            pool = own[0] if own else None
        self._check_data_class([contract], pool)
        return pool

    def check_feasible(self, spec: JobSpec) -> None:
        """Refuse what could never run, not even on the idle factory. Raises: InfeasibleError."""
        if not self._usable():
            return  # no pool has joined yet, so nothing is known of what the factory has: the job waits and says so
        kind = (spec.queue, spec.pool, spec.flavors, spec.gpu_models, spec.topology)
        shape = (*kind, spec.resources, spec.replicas, spec.min_replicas)
        if shape in self._feasible:
            return  # a batch has many jobs of few shapes
        if self._snapshot is None:
            # who holds what does not matter here, so that no job is read
            reader = self._reader
            self._snapshot = Snapshot.build(
                Rows(pools=reader.pools(PLATFORM), nodes=reader.nodes(PLATFORM), queues=reader.queues(PLATFORM))
            )
        fault = check_feasible(self._snapshot, spec, self._tenant)
        if fault is not None:
            fault = veil_for(self._snapshot, self._scope).waiting(fault)
            raise InfeasibleError(
                fault.message, hint=fault.hint, facts={"reason": fault.reason.value, "numbers": dict(fault.numbers)}
            )
        self._feasible.add(shape)

    def _usable(self) -> dict[PoolName, Pool]:
        if self._pools is None:
            self._pools = {
                p.name: p
                for p in self._reader.pools(self._scope)
                if p.isolation is Isolation.SHARED or p.tenant == self._tenant
            }
        return self._pools

    def _pin(self, name: str, given: wire.InputSpec) -> DatasetVersion:
        """Return the version an input names; its gate is open, or will be when it is published."""
        dataset = DatasetName(given.dataset)
        if given.version is None:
            version = self._newest(dataset, given.purpose)
        else:
            version = self._reader.version_by_number(self._scope, self._tenant, dataset, given.version)
            if version is None:
                self._no_version(dataset, given.version)
        answer = gating.judge_read(version, given.purpose)
        if answer.gate is gating.Gate.SHUT:
            raise DatasetGateError(answer.message, hint=answer.hint, facts={**answer.facts, "input": name})
        return version

    def _newest(self, dataset: DatasetName, purpose: Purpose) -> DatasetVersion:
        """Return the dataset's head; for repair the newest published or quarantined one; else the newest there is."""
        versions = self._reader.versions(self._scope, self._tenant, dataset)
        if not versions:
            self._no_dataset(dataset)
        readable = {VersionState.PUBLISHED} | ({VersionState.QUARANTINED} if purpose is Purpose.REPAIR else set())
        by_number = sorted(versions, key=lambda v: v.number)
        published = [v for v in versions if v.state is VersionState.PUBLISHED]
        if published and purpose is not Purpose.REPAIR:  # the head, in the order of publication (ADR 7)
            return max(published, key=lambda v: (v.delta_version or 0, v.number))
        return next((v for v in reversed(by_number) if v.state in readable), by_number[-1])

    def _no_version(self, dataset: DatasetName, number: int) -> NoReturn:
        versions = self._reader.versions(self._scope, self._tenant, dataset)
        if not versions:
            self._no_dataset(dataset)
        known = ", ".join(f"@{v.number} {v.state.value}" for v in sorted(versions, key=lambda v: v.number)[-5:])
        raise NotFoundError("dataset", f"{dataset}@{number}", hint=f"there is: {known}")

    def _no_dataset(self, dataset: DatasetName) -> NoReturn:
        known = [d.name for d in self._reader.datasets(self._scope) if d.tenant == self._tenant]
        raise NotFoundError("dataset", dataset, known, hint="see: factory datasets list")

    def _entry(self, asked: wire.JobSpec) -> tuple[Entry, AlgorithmManifest | None]:
        if asked.function is not None:
            return self._function(asked.function), None
        if asked.command is not None:
            bundle = None if asked.command.bundle is None else self._code(asked.command.bundle)
            return CommandEntry(asked.command.argv, bundle), None
        if asked.algorithm is None:  # the wire model has checked it
            raise InvalidRequestError("give exactly one of function, command, algorithm")
        return self._algorithm(asked.algorithm)

    def _function(self, asked: wire.FunctionSpec) -> FunctionEntry:
        arguments = _json({"args": list(asked.args), "kwargs": asked.kwargs}, "function arguments", sort=False)
        if len(arguments.encode()) > _MAX_ARGUMENTS:
            raise InvalidRequestError(
                f"the function's arguments are {len(arguments.encode())} bytes of JSON; at most {_MAX_ARGUMENTS} go "
                "with a job",
                hint="register the data as a dataset and give it as an input",
            )
        if (asked.pickled is None) == (asked.bundle is None):
            raise InvalidRequestError(
                "a function needs either `bundle` with `module` and `qualname`, or `pickled`", hint="see: @factory.job"
            )
        if asked.pickled is not None:
            return FunctionEntry(asked.module, asked.qualname, None, self._code(asked.pickled), arguments)
        if not asked.module or not asked.qualname:
            raise InvalidRequestError(
                "a function in a bundle needs `module` and `qualname`", hint='e.g. module="prepare", qualname="main"'
            )
        return FunctionEntry(asked.module, asked.qualname, self._code(asked.bundle or ""), None, arguments)

    def _code(self, text: str) -> Digest:
        digest = check_digest(text)
        if digest not in self._uploaded and not self._dry:
            if not self._bundles.has(self._tenant, (digest,)):
                raise InvalidRequestError(
                    f"the code {digest} has not been uploaded",
                    hint=f"upload it first: PUT /api/v1/bundles/{digest}",
                    facts={"bundle": digest},
                )
            self._uploaded.add(digest)
        return digest

    def _algorithm(self, asked: wire.AlgorithmSpec) -> tuple[AlgorithmEntry, AlgorithmManifest]:
        if asked.operation is Operation.PREDICT:
            return self._predict(asked)
        if asked.model is not None:
            raise InvalidRequestError(
                "operation 'train' makes a model; it takes no `model`", hint="use operation='predict', or leave it out"
            )
        manifest = self._catalogue.get(asked.name, asked.version)
        entry = AlgorithmEntry(
            algorithm=manifest.name,
            version=manifest.version,
            operation=Operation.TRAIN,
            params_json=self._catalogue.validate_params(manifest, asked.params),
            code_digest=manifest.code_digest,
            register_model=None if asked.register_model is None else ModelName(asked.register_model),
        )
        return entry, manifest

    def _predict(self, asked: wire.AlgorithmSpec) -> tuple[AlgorithmEntry, AlgorithmManifest]:
        self._catalogue.get(asked.name, asked.version)  # an unknown algorithm is the first thing to say
        if asked.register_model is not None:
            raise InvalidRequestError("operation 'predict' registers no model", hint="leave `register_model` out")
        if asked.model is None:
            raise InvalidRequestError(
                "operation 'predict' needs a `model`",
                hint="e.g. model='footfall-24h@champion' (see: factory models list)",
            )
        model = self.model(asked.model)
        made_by = model.lineage
        if made_by.algorithm != asked.name:
            raise InvalidRequestError(
                f"model {model.model}@{model.number} was trained by {made_by.algorithm}, not by {asked.name}",
                hint=f"use algorithm '{made_by.algorithm}', or another model",
            )
        manifest = self._catalogue.get(asked.name, asked.version or made_by.algorithm_version)
        entry = AlgorithmEntry(
            algorithm=manifest.name,
            version=manifest.version,
            operation=Operation.PREDICT,
            params_json=self._catalogue.validate_predict_params(manifest, asked.params),
            code_digest=manifest.code_digest,
            model=ModelRef(model.model, model.number),
        )
        return entry, manifest

    def model(self, ref: str) -> ModelVersion:
        """Return the version that "name@3" or "name@champion" names now. Raises: NotFoundError, InvalidRequestError."""
        name, which = split_reference(ref)
        model = self._reader.model(self._scope, self._tenant, name)
        if model is None:
            known = [m.name for m in self._reader.models(self._scope) if m.tenant == self._tenant]
            raise NotFoundError("model", name, known, hint="see: factory models list")
        number = model.number(which)
        found = None if number is None else self._reader.model_version(self._scope, self._tenant, model.name, number)
        if found is None:
            raise NotFoundError("model", ref, hint=f"see: factory models show {name}")
        return found

    def _after(self, ids: Iterable[str]) -> tuple[JobId, ...]:
        before = tuple(JobId(i) for i in dict.fromkeys(ids))
        for job_id in before:
            job = self._reader.job(self._scope, job_id)
            if job is None:
                raise NotFoundError("job", job_id, hint="see: factory jobs list")
            if job.is_terminal and job.state is not JobState.SUCCEEDED:
                raise InvalidRequestError(
                    f"job {job_id} has {job.state.value}: a job after it would never start",
                    hint="leave it out of `after`, or submit it again first",
                    facts={"after": job_id, "state": job.state.value},
                )
        return before

    def _check_data_class(self, contracts: Collection[Contract], pool: PoolName | None) -> None:
        sensitive = sorted({c.data_class for c in contracts if gating.is_sensitive(c)}, key=DATA_CLASSES.index)
        if not sensitive:
            return
        where = None if pool is None else self._usable()[pool]
        if where is None or where.isolation is not Isolation.TENANT:
            own = sorted(p.name for p in self._usable().values() if p.isolation is Isolation.TENANT)
            place = "no pool is named" if pool is None else f"pool '{pool}' is shared with other tenants"
            raise InvalidRequestError(
                f"data of class '{sensitive[-1]}' is handled only on a pool of the tenant's own; {place}",
                hint=f"set pool='{own[0]}'"
                if own
                else f"ask an operator for one: factory pools set POOL --isolation tenant --tenant {self._tenant}",
                facts={"data_class": sensitive[-1], "pools": own},
            )


def _check_algorithm_inputs(manifest: AlgorithmManifest, given: dict[str, DatasetVersion]) -> None:
    wanted = {spec.name: spec for spec in manifest.inputs}
    unknown = sorted(given.keys() - wanted.keys())
    if unknown:
        raise InvalidRequestError(
            f"{manifest.name} has no input '{unknown[0]}'{did_you_mean(unknown[0], wanted)}",
            hint=f"its inputs: {', '.join(wanted)}",
        )
    for name, spec in wanted.items():
        if name not in given:
            raise InvalidRequestError(
                f"{manifest.name} needs the input '{name}': {spec.description}",
                hint=f'e.g. inputs={{"{name}": {{"dataset": "footfall"}}}}',
            )
        if spec.series and given[name].contract.series is None:
            raise InvalidRequestError(
                f"{manifest.name} reads series, but the contract of dataset {given[name].dataset}@{given[name].number} "
                "has no `series`",
                hint="register it with a contract that names its time column (docs/contracts.md)",
            )


def _check_repair(asked: wire.JobSpec, read: Iterable[tuple[DatasetVersion, Purpose]]) -> None:
    """A job that reads for repair writes datasets, never models."""
    repaired = [version for version, purpose in read if purpose is Purpose.REPAIR]
    if not repaired:
        return
    name = f"{repaired[0].dataset}@{repaired[0].number}"
    if asked.algorithm is not None:
        raise InvalidRequestError(
            f"purpose 'repair' of {name} is for functions and commands that write a dataset, not for algorithms",
            hint="repair first with a function, then train on the version that it writes",
        )
    if not asked.outputs:
        raise InvalidRequestError(
            f"a job that reads {name} with purpose 'repair' must write a dataset", hint="name it in `outputs`"
        )


def _outputs(asked: wire.JobSpec) -> tuple[tuple[DatasetOutput, ...], list[Contract]]:
    outputs: list[DatasetOutput] = []
    contracts: list[Contract] = []
    for name, given in sorted(asked.outputs.items()):
        contract = contract_from_mapping(given.contract)
        contracts.append(contract)
        if any(o.dataset == given.dataset for o in outputs):
            raise InvalidRequestError(
                f"two outputs write dataset '{given.dataset}'", hint="one job writes one version of a dataset"
            )
        # JSON is YAML; the short form, so that a person can read it
        text = _json(contract_to_mapping(contract), f"outputs.{name}.contract")
        outputs.append(DatasetOutput(name, DatasetName(given.dataset), text))
    return tuple(outputs), contracts


def _environment(env: dict[str, str]) -> tuple[tuple[str, str], ...]:
    for name in env:
        if name.startswith("FACTORY_"):
            raise InvalidRequestError(
                f"env may not set '{name}': names that begin with FACTORY_ belong to the factory", hint="choose another"
            )
    return tuple(sorted(env.items()))


def _json(value: object, what: str, *, sort: bool = True) -> str:
    try:
        return json.dumps(value, sort_keys=sort, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except ValueError as exc:
        raise InvalidRequestError(f"{what} hold a number that JSON does not have (NaN or infinite)") from exc


def _milli(amount: float) -> int:
    return max(1, round(amount * 1000)) if amount > 0 else 0
