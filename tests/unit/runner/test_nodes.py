"""Nodes, join files, Ray's command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from factory.errors import ConfigurationError
from factory.runner.keys import keep_key, wait_for_key
from factory.runner.main import read_join_file
from factory.runner.nodes import NodeOptions, describe_node, node_identity
from factory.runner.ray_process import ensure_ray_token, ray_head_command, ray_instance, ray_temp_dir, reap
from factory.worker.folders import start_ticks

JOIN = {
    "url": "http://127.0.0.1:1",
    "runner": "local",
    "key": "fak_x",
    "ray_address": "127.0.0.1:2",
    "ray_token_path": "/t",
    "node_dir": "/n",
}


def test_a_node_keeps_its_id_and_folders_give_different_ones(tmp_path: Path) -> None:
    first, again, other = node_identity(tmp_path / "a"), node_identity(tmp_path / "a"), node_identity(tmp_path / "b")

    assert first == again
    assert first != other


def test_a_node_offers_what_is_left_after_the_reserve_in_slots_that_fit_it() -> None:
    node = describe_node("n1", NodeOptions("/n", cpus=3), host="127.0.0.1", ray_node_id="ray1")

    assert (node.pool, node.flavor, node.cpu_milli, node.slot_cpu_milli) == ("cpu", "cpu", 3000, 1000)
    assert 0 < node.slot_memory_bytes * 3 <= node.memory_bytes


def test_a_node_says_who_holds_its_memory_limits() -> None:
    by = [
        describe_node("n1", NodeOptions("/n"), host="127.0.0.1", ray_node_id="ray1", memory_limits=limits).memory_limits
        for limits in ("cgroup", "watchdog")
    ]

    assert by == ["cgroup", "watchdog"]


def test_the_watchdog_can_be_asked_for_in_the_join_file_or_else_by_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "join.json"
    path.touch(0o600)

    def limits(told: dict[str, str], environ: str | None) -> str:
        path.write_text(json.dumps(JOIN | told))
        return read_join_file(path, memory_limits=environ).memory_limits

    assert limits({}, None) == "auto"
    assert limits({}, "watchdog") == "watchdog"
    assert limits({"memory_limits": "auto"}, "watchdog") == "auto"
    with pytest.raises(ConfigurationError, match="'auto' or 'watchdog', not 'cgruop'"):
        limits({"memory_limits": "cgruop"}, None)


def test_a_join_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "join.json"
    path.write_text(json.dumps(JOIN))
    path.chmod(0o644)
    with pytest.raises(ConfigurationError, match="readable by others"):
        read_join_file(path)

    path.chmod(0o600)
    assert read_join_file(path, ray_address="127.0.0.1:9").ray_address == "127.0.0.1:9"


def test_a_join_file_says_what_it_lacks(tmp_path: Path) -> None:
    path = tmp_path / "join.json"
    path.touch(0o600)
    path.write_text(json.dumps({"url": "http://127.0.0.1:1", "runner": "local"}))
    with pytest.raises(ConfigurationError, match="ray_address, ray_token_path, node_dir, key_file"):
        read_join_file(path)


def test_rays_command_holds_no_token_and_its_sockets_fit(tmp_path: Path) -> None:
    token = ensure_ray_token(tmp_path / "ray.token")
    secret = token.read_text()
    folder = tmp_path / ("a-long-name" * 10)
    argv, env = ray_head_command(
        instance="i", port=1, client_port=2, temp_dir=ray_temp_dir(folder), token_path=token, num_cpus=2
    )

    assert token.stat().st_mode & 0o077 == 0
    assert ensure_ray_token(token).read_text() == secret
    assert not any(secret in text for text in (*argv, *env.values()))
    assert env["RAY_AUTH_MODE"] == "token"
    assert len(str(ray_temp_dir(folder))) < 46
    assert ray_instance(folder) != ray_instance(tmp_path)


def test_reap_kills_what_carries_the_mark_and_its_children_and_nobody_else() -> None:
    code = (
        "import subprocess, time\n"
        "child = subprocess.Popen(['sleep', '60'], env={}, start_new_session=True)\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)"
    )
    marked = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "FACTORY_RAY": "reap-test"}, stdout=subprocess.PIPE, text=True
    )
    other = subprocess.Popen(["sleep", "60"], env={"FACTORY_RAY": "reap-test-2"})
    assert marked.stdout is not None
    child = int(marked.stdout.readline())
    try:
        assert reap("reap-test") == 2
        assert marked.wait(10) == -9
        assert start_ticks(child) is None
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()
        marked.stdout.close()


def test_a_key_given_as_such_is_kept_for_this_user_only_and_read_again(tmp_path: Path) -> None:
    path = keep_key(tmp_path / "node" / "runner.key", "fak_x")
    assert path.stat().st_mode & 0o777 == 0o600
    assert wait_for_key(path) == "fak_x"
    assert wait_for_key(keep_key(path, "fak_y")) == "fak_y"
    assert [p.name for p in path.parent.iterdir()] == ["runner.key"]


def test_a_key_that_does_not_come_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no runner key in"):
        wait_for_key(tmp_path / "runner.key", wait_s=0)
