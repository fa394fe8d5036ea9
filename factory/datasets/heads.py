"""Numbers and heads of a dataset, and the files of its versions: what registering and writing share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from factory.datasets.ports import RegistryTx, TableFiles
from factory.domain.datasets import Dataset, DatasetVersion, VersionState
from factory.domain.ids import DatasetName, TenantId
from factory.domain.tenancy import Scope
from factory.domain.time import Instant
from factory.errors import NotFoundError

__all__ = ["move_head", "next_number", "read_file"]


def next_number(tx: RegistryTx, tenant: TenantId, name: DatasetName, now: Instant) -> int:
    """Give out the next version number of a dataset, which is made if it is new."""
    dataset = tx.dataset(Scope(tenant), tenant, name) or Dataset(tenant, name, now)
    return tx.put_dataset(replace(dataset, last=dataset.last + 1)).last


def move_head(tx: RegistryTx, tenant: TenantId, name: DatasetName) -> None:
    """Let the head be the published version that is last in Delta's order (rule U1, ADR 7): the table's head too."""
    dataset = tx.dataset(Scope(tenant), tenant, name)
    if dataset is None:
        raise NotFoundError("dataset", name)
    published = [v for v in tx.versions(Scope(tenant), tenant, name) if v.state is VersionState.PUBLISHED]
    head = max(((_delta_order(v), v.number) for v in published), default=(0, 0))[1]
    # written also when it stays: of two transactions that each see the other's version as it was, one must try again
    tx.put_dataset(replace(dataset, head=head))


def _delta_order(version: DatasetVersion) -> int:
    return -1 if version.delta_version is None else version.delta_version


def read_file(tables: TableFiles, version: DatasetVersion, path: str) -> Iterator[bytes]:
    """Yield one file that the version's manifest lists. Raises: NotFoundError."""
    files = () if version.manifest is None else version.manifest.files
    if all(file.path != path for file in files):
        raise NotFoundError("file", path, [file.path for file in files])
    return tables.read(version.tenant, version.dataset, path)
