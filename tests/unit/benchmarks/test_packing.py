"""The packing benchmark on a cluster that fits in the head."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import packing
from factory.domain.resources import GIB, Resources
from factory.scheduling.fleet import Shape

NODES = "sn,cpu_milli,memory_mib,gpu,model\nn0,8000,65536,2,A\nn1,8000,65536,2,B\n"
PODS = "name,cpu_milli,memory_mib,num_gpu,gpu_milli\np0,1000,1024,1,500\np1,2000,2048,1,1000\np2,1000,1024,0,0\n"
NAMED = "gpu_spec,name,num_gpu,gpu_milli,cpu_milli,memory_mib\nA|B,p0,1,500,1000,1024\n,p1,2,1000,2000,2048\n"
ONE = Shape(Resources(1000, GIB, 500))


def files(folder: Path, pods: str) -> list[str]:
    (folder / "nodes.csv").write_text(NODES)
    (folder / "pods.csv").write_text(pods)
    return ["packing", "--nodes", str(folder / "nodes.csv"), "--pods", str(folder / "pods.csv")]


def test_pods_are_read_by_the_names_of_the_columns(tmp_path: Path) -> None:
    files(tmp_path, PODS)
    assert packing.read_pods(tmp_path / "pods.csv") == [
        ONE,
        Shape(Resources(2000, 2 * GIB, 1000)),
        Shape(Resources(1000, GIB, 0)),
    ]
    files(tmp_path, NAMED)
    assert packing.read_pods(tmp_path / "pods.csv") == [
        Shape(Resources(1000, GIB, 500), ("A", "B")),
        Shape(Resources(2000, 2 * GIB, 2000)),
    ]


def test_arrivals_ask_for_130_percent_and_depend_on_the_seed_alone(tmp_path: Path) -> None:
    files(tmp_path, PODS)
    pods = packing.read_pods(tmp_path / "pods.csv")
    order = packing.arrivals(pods, 40_000, 7)
    assert order == packing.arrivals(pods, 40_000, 7)
    assert order != packing.arrivals(pods, 40_000, 8)
    assert 52_000 <= sum(pod.resources.gpu_milli for pod in order) < 53_000
    assert set(order) == set(pods)


@pytest.mark.parametrize("policy", ["random", "bestfit", "fgd", "ours"])
def test_shares_fill_the_cluster_under_each_policy_and_no_more(tmp_path: Path, policy: str) -> None:
    files(tmp_path, PODS)
    result = packing.measure(policy, packing.read_nodes(tmp_path / "nodes.csv"), [ONE], [1, 2])
    assert result["alloc_100"] == result["alloc_130"] == 100.0
    assert result["sd_100"] == 0.0
    assert result["decisions_per_s"]


@pytest.mark.parametrize("policy", ["random", "bestfit", "fgd", "ours"])
def test_named_models_whole_gpus_cpus_and_memory_count_under_each_policy(tmp_path: Path, policy: str) -> None:
    files(tmp_path, PODS)
    nodes = packing.read_nodes(tmp_path / "nodes.csv")
    for pod, most in (
        (Shape(Resources(1000, GIB, 1000), ("B",)), 50.0),
        (Shape(Resources(1000, GIB, 2000)), 100.0),
        (Shape(Resources(6000, GIB, 1000)), 50.0),
        (Shape(Resources(1000, 40 * GIB, 1000)), 50.0),
        (Shape(Resources(1000, GIB, 600)), 60.0),
    ):
        assert packing.measure(policy, nodes, [pod], [1])["alloc_130"] == most


def test_the_last_line_is_one_object_by_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [*files(tmp_path, PODS), "--seeds", "3-4,9", "--policies", "fgd,ours"])
    packing.main()
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(printed) == ["fgd", "ours"]
    assert printed["fgd"]["shapes_from"] == "trace"
    assert printed["ours"]["shapes_from"] == "arrivals so far"
    assert set(printed["ours"]) == {"alloc_100", "alloc_130", "sd_100", "sd_130", "decisions_per_s", "shapes_from"}


def test_a_policy_that_is_not_there_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [*files(tmp_path, PODS), "--policies", "magic"])
    with pytest.raises(SystemExit):
        packing.main()
