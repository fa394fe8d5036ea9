"""What makes two versions the same version."""

from __future__ import annotations

from dataclasses import replace

import pytest

from factory.datasets.manifests import manifest_id
from factory.domain.datasets import Column, FileEntry, Manifest
from factory.domain.ids import DatasetName

ONE = Manifest(
    dataset=DatasetName("footfall"),
    source_digest="sha256:s",
    columns=(Column("stamp", "timestamp[us]"), Column("count", "int64")),
    rows=3,
    files=(FileEntry("dsv-1-00000.parquet", 10, "aa", 2), FileEntry("dsv-1-00001.parquet", 5, "bb", 1)),
    contract_digest="sha256:c",
    parents=("sha256:p", "sha256:q"),
)


def test_names_of_files_and_order_of_parents_do_not_enter_the_id() -> None:
    renamed = tuple(replace(file, path=file.path.replace("dsv-1", "dsv-2")) for file in ONE.files)
    same = replace(ONE, files=renamed, parents=("sha256:q", "sha256:p"))
    assert manifest_id(same) == manifest_id(ONE)


@pytest.mark.parametrize(
    "changes",
    [
        {"dataset": DatasetName("other")},
        {"source_digest": "sha256:t"},
        {"columns": ONE.columns[::-1]},
        {"files": ONE.files[::-1]},
        {"files": (replace(ONE.files[0], sha256="ab"), ONE.files[1])},
        {"contract_digest": "sha256:d"},
        {"parents": ("sha256:p",)},
    ],
)
def test_everything_else_does(changes: dict[str, object]) -> None:
    assert manifest_id(replace(ONE, **changes)) != manifest_id(ONE)  # pyright: ignore[reportArgumentType] - by name
