"""May a job read this dataset version for this purpose? Asked at submit, and again when the job is admitted.

- G1 A published version is open to every purpose.
- G2 A quarantined version is open to `repair` only.
- G3 A staged or validated version is not judged to the end yet: the job waits.
- G4 A failed or deprecated version is shut.
- G5 Data above class `internal` is handled only on a pool of the tenant's own (DESIGN §1): its Ray cluster is one trust
  domain. A pool that an admin shares again holds the jobs that wait for it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, assert_never

from factory.domain.datasets import Contract, DatasetVersion, VersionState
from factory.domain.ids import JobId, TenantId, VersionId
from factory.domain.jobs import IngestEntry, Job, JobSpec, JobState, Purpose, Waiting, WaitReason
from factory.domain.pools import Isolation, Pool
from factory.domain.tenancy import Scope
from factory.quality.contracts import DATA_CLASSES, contract_from_mapping

__all__ = ["Gate", "GateAnswer", "GateReader", "is_sensitive", "judge_read", "waits_for"]

_SHOWN = 5  # failing checks that the message names; all are in the facts


class Gate(StrEnum):
    """What the gate says."""

    OPEN = "open"
    WAIT = "wait"
    SHUT = "shut"


@dataclass(frozen=True, slots=True)
class GateAnswer:
    """The gate's word, with its reason for a person and its facts for a program."""

    gate: Gate
    message: str = ""
    hint: str = ""
    facts: dict[str, object] = field(default_factory=dict)


class GateReader(Protocol):
    """What the question needs; a transaction of jobs and one of the control loop have it."""

    def job(self, scope: Scope, job_id: JobId) -> Job | None: ...

    def version(self, scope: Scope, version_id: VersionId) -> DatasetVersion | None: ...

    def pools(self, scope: Scope) -> tuple[Pool, ...]: ...


def judge_read(version: DatasetVersion, purpose: Purpose) -> GateAnswer:
    """Return whether `version` may be read for `purpose` now."""
    name = f"dataset {version.dataset}@{version.number}"
    facts: dict[str, object] = {"dataset": version.dataset, "version": version.number, "state": version.state.value}
    match version.state:
        case VersionState.PUBLISHED:  # rule G1
            return GateAnswer(Gate.OPEN)
        case VersionState.QUARANTINED:
            if purpose is Purpose.REPAIR:  # rule G2
                return GateAnswer(Gate.OPEN)
            return _quarantined(version, name, facts)
        case VersionState.STAGED | VersionState.VALIDATED:  # rule G3
            return GateAnswer(Gate.WAIT, f"{name} is {version.state.value}: it is not published yet", facts=facts)
        case VersionState.FAILED:  # rule G4
            why = f": {version.message}" if version.message else ""
            return GateAnswer(
                Gate.SHUT,
                f"{name} could not be ingested{why}",
                "register the data again, or read another version",
                facts,
            )
        case VersionState.DEPRECATED:
            return GateAnswer(
                Gate.SHUT,
                f"{name} was withdrawn",
                f"read another version: factory datasets show {version.dataset}",
                facts,
            )
    assert_never(version.state)


def waits_for(reader: GateReader, tenant: TenantId, spec: JobSpec) -> Waiting | None:
    """Return what keeps a job out of the queue that is not a slot: jobs before it, versions that it reads.

    A gate that shut meanwhile holds it too: the message says so and how to go on (rule 7: it shows the current reason).
    A job before it that ended without success can never let it go: the control loop then cancels it with this reason.
    """
    scope = Scope(tenant)
    for job_id in spec.after:
        before = reader.job(scope, job_id)
        if before is None or (before.is_terminal and before.state is not JobState.SUCCEEDED):
            state = "gone" if before is None else before.state.value
            return Waiting(
                WaitReason.DEPENDENCY_PENDING,
                f"waits for job {job_id}, which is {state}: it will not start",
                "cancel it, and submit it again after a job that succeeds",
                (("job", job_id), ("state", state)),
            )
        if before.state is not JobState.SUCCEEDED:
            return Waiting(
                WaitReason.DEPENDENCY_PENDING,
                f"waits for job {job_id}, which is {before.state.value}",
                numbers=(("job", job_id), ("state", before.state.value)),
            )
    for read in spec.inputs:
        version = reader.version(scope, read.version_id)
        numbers: tuple[tuple[str, int | str], ...] = (("dataset", read.dataset), ("version", read.version))
        if version is None:
            gone = f"dataset {read.dataset}@{read.version} is gone"
            return Waiting(WaitReason.DATASET_GATE_FAILED, gone, "cancel the job", numbers)
        answer = judge_read(version, read.purpose)
        if answer.gate is Gate.WAIT:
            return Waiting(WaitReason.DEPENDENCY_PENDING, f"waits for its input: {answer.message}", numbers=numbers)
        if answer.gate is Gate.SHUT:
            return Waiting(WaitReason.DATASET_GATE_FAILED, answer.message, answer.hint, numbers)
        if (hold := _shared_with_others(reader, tenant, spec, _name_of(version), version.contract)) is not None:
            return hold
    if isinstance(spec.entry, IngestEntry):
        ingested = reader.version(scope, spec.entry.version_id)
        if ingested is not None:
            return _shared_with_others(reader, tenant, spec, _name_of(ingested), ingested.contract)
    if spec.pool is None:  # submit takes outputs above class `internal` only with a pool
        return None
    holds = (
        _shared_with_others(
            reader, tenant, spec, output.dataset, contract_from_mapping(json.loads(output.contract_yaml))
        )
        for output in spec.outputs
        if output.contract_yaml
    )
    return next((hold for hold in holds if hold is not None), None)


def _name_of(version: DatasetVersion) -> str:
    """Return what people call it."""
    return f"{version.dataset}@{version.number}"


def _shared_with_others(
    reader: GateReader, tenant: TenantId, spec: JobSpec, dataset: str, contract: Contract
) -> Waiting | None:
    """Return what holds a job that handles a dataset where others may look (rule G5)."""
    if not is_sensitive(contract):
        return None
    pool = next((p for p in reader.pools(Scope(tenant)) if p.name == spec.pool), None)
    if pool is not None and pool.isolation is Isolation.TENANT and pool.tenant == tenant:
        return None
    place = "no pool is named" if spec.pool is None else f"pool '{spec.pool}' is shared with other tenants"
    if spec.pool is not None and pool is None:
        place = f"pool '{spec.pool}' is not there for this tenant"
    return Waiting(
        WaitReason.DATASET_GATE_FAILED,
        f"dataset {dataset} is of class '{contract.data_class}', which is handled only on a pool of the tenant's own; "
        f"{place}",
        f"it goes on when an operator has set: factory pools set {spec.pool or 'POOL'} --isolation tenant "
        f"--tenant {tenant}; or submit it again with a pool of your own",
        (("class", contract.data_class), ("pool", spec.pool or "")),
    )


def is_sensitive(contract: Contract) -> bool:
    """True above class `internal`."""
    return DATA_CLASSES.index(contract.data_class) > DATA_CLASSES.index("internal")


def _quarantined(version: DatasetVersion, name: str, facts: dict[str, object]) -> GateAnswer:
    failures = version.verdict.failures if version.verdict is not None else ()
    sentences = [result.message for result in failures[:_SHOWN]]
    more = f"; and {len(failures) - _SHOWN} more" if len(failures) > _SHOWN else ""
    count = f"{len(failures)} check{'' if len(failures) == 1 else 's'} failed"
    facts["checks"] = [
        {
            "id": result.check_id,
            "kind": result.kind.value,
            "subject": result.subject,
            "value": result.value,
            "threshold": result.threshold,
            "failed": result.failed,
            "total": result.total,
            "message": result.message,
        }
        for result in failures
    ]
    return GateAnswer(
        Gate.SHUT,
        f"{name} is quarantined: {count}: {'; '.join(sentences)}{more}",
        f"derive a repaired version with a job that reads {version.dataset}@{version.number} with purpose=repair, or "
        f"register corrected data (all checks: factory datasets check {version.dataset}@{version.number})",
        facts,
    )
