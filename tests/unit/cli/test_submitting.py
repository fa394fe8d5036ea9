"""What the command line makes of its options and of a file: the fields of one job spec."""

from __future__ import annotations

from pathlib import Path

import pytest

from factory.cli.commands.submitting import _given, _spec
from factory.domain.jobs import PriorityClass, Topology
from factory.errors import InvalidRequestError


def test_options_become_the_fields_of_the_spec() -> None:
    options = {
        "target": "x", "cpu": 2.0, "replicas": 4, "min_replicas": 2, "flavor": ["h100", "a100"], "gpu_model": [],
        "topology": "one-node", "estimate": 3600, "priority": "high", "timeout": 60, "retries": 0, "env": ["A=b=c"],
        "key": "k", "wait": True,
    }  # fmt: skip
    assert _given(options) == {
        "cpu": 2.0, "replicas": 4, "min_replicas": 2, "flavors": ["h100", "a100"], "topology": "one-node",
        "estimate_s": 3600, "priority": "high", "timeout_s": 60, "retry": {"max_retries": 0}, "env": {"A": "b=c"},
    }  # fmt: skip


def test_an_option_goes_before_the_field_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(
        "name: train\ncommand: {argv: [python, train.py]}\nreplicas: 4\nmin_replicas: 2\nflavors: [h100, a100]\n"
        "gpu_models: [H100-80G]\ntopology: same-zone\nestimate_s: 7200\n"
    )
    spec, bundle = _spec(str(file), [], tmp_path, [], {"priority": "high", "min_replicas": 3})
    assert bundle is None
    assert (spec.min_replicas, spec.flavors, spec.gpu_models) == (3, ("h100", "a100"), ("H100-80G",))
    assert (spec.topology, spec.estimate_s, spec.priority) == (Topology.SAME_ZONE, 7200, PriorityClass.HIGH)


def test_a_program_names_the_job_and_its_code(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("print(1)\n")
    spec, bundle = _spec(None, ["python", "train.py"], tmp_path, [], {})
    assert spec.name == "train"
    assert spec.command is not None
    assert bundle is not None
    assert spec.command.bundle == bundle.digest


def test_a_wrong_field_is_named_before_anything_is_uploaded(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("name: train\ncommand: {argv: [x]}\nmin_replica: 2\n")
    with pytest.raises(InvalidRequestError, match=r"min_replica.*did you mean 'min_replicas'"):
        _spec(str(file), [], tmp_path, [], {})
