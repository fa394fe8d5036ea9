"""The main job, as a user runs it: what is printed, what is stored, and that a second run doubles nothing."""

from __future__ import annotations

import re

from tests.e2e.conftest import Demo, Factory


def test_the_gate_fails_on_the_faults_that_are_really_in_the_file(demo: Demo) -> None:
    assert "footfall-raw@1 is quarantined: 61,367 rows" in demo.text
    for fact in ("2,558", "107 Quay Street", "25,561", "188 Quay Street Lower Albert (EW)", "32,138"):
        assert fact in demo.text, fact
    assert re.search(r"✗ .*\b6\b.*(duplicate|twice|doubled)", demo.text)


def test_training_on_the_quarantined_version_is_refused_with_the_way_out(demo: Demo) -> None:
    assert re.search(
        r"training on it is refused \(dataset_gate_failed\): .*footfall-raw@1 is quarantined: 5 checks", demo.text
    )
    assert "way out: " in demo.text
    assert "repair" in demo.text


def test_the_repaired_version_passes_its_gate(demo: Demo) -> None:
    assert "footfall@1 is published: 31,446 rows" in demo.text


def test_the_better_variant_beats_last_week(demo: Demo) -> None:
    ratios = [float(r) for r in re.findall(r"last week [\d.]+ \(ratio ([\d.]+)\)", demo.text)]
    assert len(ratios) == 2
    assert min(ratios) <= 0.83


def test_online_and_batch_inference_agree(demo: Demo) -> None:
    found = re.search(r"footfall-forecast@1: ([\d,]+) rows; online and batch differ by at most (\S+)", demo.text)
    assert found is not None
    assert float(found[2]) < 0.01


def test_the_lineage_goes_from_the_raw_file_to_the_endpoint(demo: Demo) -> None:
    tree = demo.text.partition("\nlineage\n")[2].partition("\nsummary\n")[0]
    positions = [tree.find(part) for part in ("footfall-raw@1", "footfall-prepare", "footfall@1", "footfall-train")]
    assert -1 not in positions
    assert positions == sorted(positions)
    for part in ("model footfall-24h@", "endpoint footfall", "footfall-batch", "footfall-forecast@1"):
        assert part in tree, part


def test_both_pictures_are_there(demo: Demo) -> None:
    for name in ("forecast.png", "city.png"):
        assert (demo.folder / "out" / name).read_bytes().startswith(b"\x89PNG")


def test_a_second_run_doubles_nothing(demo: Demo, factory: Factory) -> None:
    counts = re.compile(r"datasets +(.*)\n")
    assert counts.findall(demo.again) == counts.findall(demo.text)
    jobs = re.compile(r"jobs +(\d+ running, )?(\d+) succeeded")
    assert jobs.findall(demo.again)[0][1] == jobs.findall(demo.text)[0][1]
    assert factory.client.models.get("footfall-24h").last == 2
    assert len(factory.client.endpoints.list()) == 1
