"""Whoever does not have the cluster's token gets nothing from Ray: no connection, so no list of actors either."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from factory.runner.ray_process import RAY_HOST, ray_client_env
from tests.integration.runner.conftest import Fleet

_PROGRAM = """
import sys, ray
from ray.util import list_named_actors
ray.init(address=sys.argv[1], _node_ip_address=sys.argv[2], namespace="factory", log_to_driver=False)
print("connected", list_named_actors())
"""
_ONCE = {"RAY_NUM_REDIS_GET_RETRIES": "1"}  # it asks the GCS once a second for 20 s otherwise, refused or not


def ask(fleet: Fleet, home: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Connect as a stranger's process would: nothing of Ray's in its environment but `env`, no token at home."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.run(
        [sys.executable, "-c", _PROGRAM, f"{RAY_HOST}:{fleet.ray_port}", RAY_HOST],
        env={**clean, **env, **_ONCE, "HOME": str(home)}, cwd=home, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_a_client_with_the_clusters_token_is_let_in(fleet: Fleet, tmp_path: Path) -> None:
    done = ask(fleet, tmp_path, ray_client_env(fleet.token))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("connected")
    assert "'agent:" in done.stdout


@pytest.mark.parametrize("kind", ["none", "wrong"])
def test_a_client_is_refused_whose_token_is(kind: str, fleet: Fleet, tmp_path: Path) -> None:
    token = tmp_path / "ray.token"
    token.write_text(secrets.token_hex(32))
    env = ray_client_env(token) if kind == "wrong" else {"RAY_AUTH_MODE": "disabled"}
    done = ask(fleet, tmp_path, env)
    assert done.returncode != 0
    assert "connected" not in done.stdout
    assert "InvalidAuthToken" in done.stderr
