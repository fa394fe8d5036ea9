"""The commands that a person without admin rights reads, on a real server, at 80 columns."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from factory.cli import output
from factory.cli.main import main

from .conftest import Runner, Server, Tenant

Command = Callable[..., str]


@pytest.fixture
def run(server: Server, tenant: Tenant, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command with the key of the tenant's operator (or another); returns what it printed."""
    operator = server.key("operator", tenant.name)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("FACTORY_URL", server.url)

    def call(*words: str, key: str = operator, code: int = 0) -> str:
        monkeypatch.setenv("FACTORY_KEY", key)
        output.set_json(False)
        with pytest.raises(SystemExit) as ended:
            main(list(words))
        printed = capsys.readouterr()
        assert ended.value.code == code, printed
        assert max(map(len, printed.out.splitlines()), default=0) <= 80, printed.out
        return printed.out if not code else printed.out + printed.err

    yield call
    output.set_json(False)


def words_of(text: str) -> str:
    return " ".join(text.split())


def test_explain_tells_a_person_why_a_job_waits(run: Command, tenant: Tenant, server: Server, runner: Runner) -> None:
    quota = f"{tenant.name}"
    run("queues", "set", quota, "--quota", "cpu=1", key=server.admin_key)
    first, second = tenant.submit(cpu=1), tenant.submit(cpu=1, name="second")
    runner.start(first)
    said = words_of(run("jobs", "explain", second))
    assert "state queued" in said
    assert f"position 1 of 1 in queue {tenant.name}" in said
    assert f"queue {tenant.name} holds 1 of 1 nominal slots" in said
    for part in ("reason", "because", "helps - ", "start"):
        assert part in said
    moved = run("jobs", "priority", second, "high")
    assert "priority high" in moved
    assert "a priority decides when a job starts" in words_of(run("jobs", "priority", first, "high", code=1))
    tenant.operator.post(f"/jobs/{first}:cancel")
    tenant.operator.post(f"/jobs/{second}:cancel")


def test_a_queue_is_set_shown_and_drawn(run: Command, tenant: Tenant, server: Server, runner: Runner) -> None:
    name = f"{tenant.name}-night"
    admin: dict[str, Any] = {"key": server.admin_key}
    assert "whose is it" in run("queues", "set", name, code=2, **admin)
    run("queues", "set", name, "--tenant", tenant.name, "--parent", tenant.name, "--quota", "cpu=2+1-1", **admin)
    run("queues", "set", name, "--weight", "3", **admin)  # keeps parent and quota
    shown = words_of(run("queues", "show", name))
    assert f"below {tenant.name} weight 3" in shown
    assert "cpu 2+1-1 0 0 0 - " in shown
    assert f"└ {name}" in run("queues", "list")
    run("queues", "set", name, "--quota", "cpu=none", **admin)
    assert "unlimited by itself" in words_of(run("queues", "show", name))
    assert "platform" in run("queues", "set", name, "--weight", "1", code=1)


def test_a_dry_run_prints_where_when_and_what_it_costs(run: Command, tenant: Tenant, runner: Runner) -> None:
    said = words_of(run("jobs", "plan", "--cpu", "2", "--estimate", "5400", "--", "true"))
    assert f"feasible yes start now pool cpu (flavor cpu) nodes {runner.node['id']}" in said
    assert "2 slots for 1h 30m = 3 slot-hours" in said
    never = words_of(run("jobs", "plan", "--cpu", "9999", "--", "true", code=1))
    assert "feasible no" in never
    assert json.loads(run("jobs", "plan", "--json", "--", "true"))["feasible"] is True


def test_what_if_is_answered_from_the_recorded_jobs(
    run: Command, server: Server, tenant: Tenant, runner: Runner
) -> None:
    for _ in range(3):
        tenant.submit(name="replayed", cpu=1)
    admin: dict[str, Any] = {"key": server.admin_key}
    changes = ("--add-nodes", "cpu=1", "--quota", f"{tenant.name}/cpu=1", "--policy", "cpu=fifo")
    told = run("simulate", "--from", "1h", *changes, **admin)
    assert f"changed: quota {tenant.name}/cpu=1" in told
    assert "AS SET" in told
    assert "makespan" in told
    assert "really they waited" in told
    found = json.loads(run("simulate", "--from", "1h", *changes, "--json", **admin))
    mine = [found[side]["queues"][tenant.name] for side in ("as_set", "changed")]
    assert [side["jobs"] for side in mine] == [3, 3]
    assert mine[1]["wait_p99_s"] > mine[0]["wait_p99_s"] == 0
    assert "role platform" in run("simulate", "--from", "1h", code=1)
    assert "did you mean 'cpu'" in run("simulate", "--from", "1h", "--add-nodes", "cpus=1", code=2, **admin)
