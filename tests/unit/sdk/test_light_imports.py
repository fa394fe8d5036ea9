"""`pip install ai-factory` gives a light SDK: importing it loads nothing heavy, and costs about one pydantic model."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

HEAVY = ("ray", "torch", "mlflow", "pandas", "numpy", "pyarrow", "sqlalchemy", "fastapi", "uvicorn", "duckdb", "httpx")


def _loaded(code: str) -> set[str]:
    script = f"{code}\nimport json, sys\nprint(json.dumps(sorted(m.partition('.')[0] for m in sys.modules)))"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    return set(json.loads(out.splitlines()[-1]))


def test_importing_factory_and_its_sdk_loads_nothing_heavy() -> None:
    assert not _loaded("import factory, factory.sdk").intersection(HEAVY)


def test_client_and_decorator_load_nothing_heavy() -> None:
    assert not _loaded("import factory\nfactory.Client\nfactory.job").intersection(HEAVY)


def test_the_command_line_loads_no_ray_torch_or_mlflow_at_its_start() -> None:
    assert not _loaded("import factory.cli.main").intersection(HEAVY)


def test_importing_costs_little_more_than_one_pydantic_model() -> None:
    model = "from pydantic import BaseModel\nclass A(BaseModel):\n    a: int"
    # User CPU seconds of whole processes, taken in turns: what else the machine does hits both alike.
    ours, peer = [], []
    for _ in range(7):
        peer.append(_cpu_seconds(model))
        ours.append(_cpu_seconds("import factory, factory.sdk"))
    assert statistics.median(ours) <= 1.3 * statistics.median(peer)


def _cpu_seconds(code: str) -> float:
    script = f"{code}\nimport time\nprint(time.process_time())"
    return float(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)
