"""The command line where only the light package is installed: client commands work, the others say what is missing."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("alembic", "duckdb", "fastapi", "mlflow", "numpy", "pandas", "psutil", "ray", "rpds", "sqlalchemy", "torch")
BLOCK = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocker())
from factory.cli.main import main
"""


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    code = f"{BLOCK}\nmain({list(words)!r})"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"HOME": "/nowhere"})


@pytest.mark.parametrize("words", [("server",), ("runner", "--join-file", "x"), ("simulate",), ("up",)], ids=" ".join)
def test_a_command_that_needs_more_says_what_to_install(words: tuple[str, ...]) -> None:
    done = _run(*words)
    assert done.returncode == 1
    assert "pip install 'ai-factory[" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", [("jobs", "list"), ("datasets", "list"), ("status",), ("keys",)], ids=" ".join)
def test_a_client_command_needs_nothing_more(words: tuple[str, ...]) -> None:
    done = _run(*words)
    assert "no factory URL is known" in done.stderr


def test_help_needs_nothing_more() -> None:
    assert "Submit, plan, list, explain" in _run("--help").stdout
