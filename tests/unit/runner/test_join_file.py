"""What a join file says of its pools; and what it may not say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from factory.domain.pools import Isolation
from factory.errors import ConfigurationError
from factory.runner.main import JoinFile, read_join_file


def read(folder: Path, **said: Any) -> JoinFile:
    told = {"url": "http://127.0.0.1:1", "runner": "site", "key": "fak_x", "ray_address": "127.0.0.1:2"}
    path = folder / "join.json"
    path.touch(0o600)
    path.write_text(json.dumps(told | {"ray_token_path": "t", "node_dir": str(folder)} | said))
    return read_join_file(path)


def test_a_pool_is_shared_and_without_a_fence_unless_the_file_says_more(tmp_path: Path) -> None:
    join = read(tmp_path)
    assert (join.isolation, join.tenant, join.self_fence_s) == (Isolation.SHARED, None, None)


@pytest.mark.parametrize("said", [{"tenant": "water"}, {"isolation": "tenant", "tenant": "water"}])
def test_a_cluster_can_be_one_tenants_alone(tmp_path: Path, said: dict[str, str]) -> None:
    join = read(tmp_path, **said, self_fence_s=60)
    assert (join.isolation, join.tenant, join.self_fence_s) == (Isolation.TENANT, "water", 60)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"isolation": "tenants"}, "isolation is one of shared, tenant"),
        ({"isolation": "tenant"}, "do not agree"),
        ({"isolation": "shared", "tenant": "water"}, "do not agree"),
        ({"self_fence_s": 5}, "self_fence_s is at least 20"),
        ({"self_fence_s": "60"}, "self_fence_s is at least 20"),
    ],
)
def test_what_cannot_be_is_refused_before_the_runner_joins(tmp_path: Path, said: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        read(tmp_path, **said)
