"""A runner's key opens its own runner only: two runners with two keys walk every route of the protocol."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from factory.api.routes.runner import router
from factory.domain.pools import NodeState
from factory.errors import ConflictError, NotFoundError
from factory.sdk.client import Client

from .conftest import ROOT, Runner, Server, Tenant

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of their own: the pools of these runners would take other tests' jobs."""
    running = Server(tmp_path_factory.mktemp("runners") / "data", env={})
    running.start()
    yield running
    assert running.stop() == 0, running.log()


@pytest.fixture
def two(server: Server) -> tuple[Runner, Runner]:
    """Two runners that have joined, each with a key and a pool of its own."""
    number = next(_numbers)
    made = tuple(Runner(server, f"site-{number}-{x}", pool=f"site-{number}-{x}") for x in "ab")
    for runner in made:
        runner.join()
    return made[0], made[1]


def join(runner: Runner, name: str, key: str | None = None) -> httpx.Response:
    me = {"runner": name, "incarnation": "inc-x", "release": "test", "ray_version": "2.60.0"}
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    return runner.http.post("/runner/join", json=me, headers=headers)


def test_no_route_of_a_runner_answers_another_runners_key(two: tuple[Runner, Runner], tenant: Tenant) -> None:
    victim, thief = two
    attempt = victim.start(tenant.submit(pool=victim.node["pool"]))["attempt"]
    me = {"runner": victim.name, "incarnation": victim.incarnation}
    where = {"attempt": attempt, "rank": 0, "stream": "stdout"}
    batch = me | {"attempts": [{"attempt": attempt, "kind": "found", "at": 0}]}
    foreign: dict[tuple[str, str], tuple[int, dict[str, Any]]] = {
        ("POST", "/runner/join"): (403, {"json": me | {"release": "test", "ray_version": "2.60.0"}}),
        ("GET", "/runner/desired"): (403, {"params": me}),
        ("POST", "/runner/reports"): (403, {"json": batch}),
        ("POST", "/runner/logs"): (404, {"params": where | {"offset": 0}, "content": b"forged"}),
        ("GET", "/runner/logs"): (404, {"params": where}),
    }
    routes: list[Any] = list(router.routes)
    walked = {(method, route.path) for route in routes for method in route.methods}
    assert walked == set(foreign), "a new route needs its line here"
    for (method, path), (status, request) in foreign.items():
        answer = thief.http.request(method, path, **request)
        assert answer.status_code == status, f"{method} {path}: {answer.text}"
        assert "token" not in answer.text
        assert answer.json()["hint"] or status == 404
    assert victim.report().status_code == 200, "the owner goes on, it was not pushed out by the foreign join"
    assert victim.log({"attempt": attempt}, 0, b"") == 0, "nothing was forged into its log"


def test_a_runner_is_told_of_its_own_attempts_only(two: tuple[Runner, Runner], tenant: Tenant) -> None:
    victim, thief = two
    attempt = victim.start(tenant.submit(pool=victim.node["pool"]))["attempt"]
    assert thief.desired()["attempts"] == []
    told = thief.report({"attempt": attempt, "kind": "ended", "proof": "report", "outcome": {"reason": "Completed"}})
    assert told.json() == {"ignored": {attempt: "other_runner"}}


def test_a_key_that_joined_as_no_runner_learns_nothing_of_runners(two: tuple[Runner, Runner], server: Server) -> None:
    stranger = server.api(server.key("runner"))
    for name in (two[0].name, "no-such-runner"):
        answer = stranger.get("/runner/desired", params={"runner": name, "incarnation": two[0].incarnation})
        assert (answer.status_code, answer.json()["code"]) == (409, "stale_runner")
        assert answer.json()["detail"].replace(name, "X") == "no runner 'X' has joined with this key"


def test_a_runner_that_is_bound_is_joined_by_no_other_key_until_its_key_ends(
    two: tuple[Runner, Runner], server: Server
) -> None:
    runner, _ = two
    fresh = server.key("runner")
    refused = join(runner, runner.name, fresh)
    key = runner.key.split("_")[1]
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
    assert f"factory keys revoke {key}" in refused.json()["hint"]
    assert runner.report().status_code == 200
    with server.api() as admin:
        assert admin.delete(f"/keys/{key}").status_code == 200
    assert join(runner, runner.name, fresh).status_code == 200
    assert runner.report().status_code == 401


def test_a_runner_joins_again_with_its_key(two: tuple[Runner, Runner], server: Server) -> None:
    again = Runner(server, two[0].name, pool=two[0].node["pool"], key=two[0].key)
    again.join()
    assert again.report().status_code == 200
    assert two[0].report().json()["code"] == "stale_runner"


def test_a_platform_key_speaks_for_every_runner_and_binds_none(two: tuple[Runner, Runner], server: Server) -> None:
    with server.api() as admin:
        me = {"runner": two[0].name, "incarnation": two[0].incarnation}
        assert admin.get("/runner/desired", params=me).status_code == 200
        name = f"handmade-{next(_numbers)}"
        admin.post("/runner/join", json={"runner": name, "incarnation": "i", "release": "t", "ray_version": "2.60"})
    assert join(Runner(server, name), name).status_code == 200, "the first runner's key binds it"


def test_an_admin_makes_a_pool_one_tenants_own_and_the_others_lose_sight_of_it(server: Server, tenant: Tenant) -> None:
    number = next(_numbers)
    runner = Runner(server, f"owned-{number}", pool=f"owned-{number}")
    runner.join()
    wish = {"isolation": "tenant", "tenant": tenant.name}
    with server.api() as admin:
        assert tenant.admin.patch(f"/pools/owned-{number}", json=wish).status_code == 403
        view = admin.patch(f"/pools/owned-{number}", json=wish)
    assert (view.status_code, view.json()["tenant"], view.json()["isolation"]) == (200, tenant.name, "tenant")
    names = {p["name"] for p in server.tenant().viewer.get("/pools").json()["items"]}
    assert f"owned-{number}" not in names
    assert f"owned-{number}" in {p["name"] for p in tenant.viewer.get("/pools").json()["items"]}
    assert runner.join().json()["notes"] == [f"pool owned-{number} is as an admin set it, not as the join file says"]


def test_an_admin_drains_fences_and_removes_a_node(server: Server, tenant: Tenant) -> None:
    number = next(_numbers)
    runner = Runner(server, f"old-{number}", pool=f"old-{number}")
    runner.join()
    id, job = runner.node["id"], tenant.submit(pool=f"old-{number}")
    runner.start(job)
    nodes = Client(server.url, server.admin_key).nodes
    assert (nodes.drain(id, reason="new disks").state, nodes.drain(id).drain) == (NodeState.DRAINING, "")
    assert nodes.undrain(id).state is NodeState.READY
    assert runner.report(nodes=[]).status_code == 200
    with pytest.raises(ConflictError, match="1 attempt not proven dead"):
        nodes.remove(id)
    fenced = nodes.fence(id, "its board burnt")
    assert (fenced.node.state, fenced.jobs) == (NodeState.LOST, (job,))
    nodes.remove(id)
    assert id not in {n.id for n in nodes.list()}
    with pytest.raises(NotFoundError):
        nodes.remove(id)


def test_the_command_line_sets_pools_and_turns_nodes(server: Server, tenant: Tenant) -> None:
    name = f"typed-{next(_numbers)}"
    runner = Runner(server, name, pool=name)
    runner.join()

    def factory(*words: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "FACTORY_URL": server.url, "FACTORY_KEY": server.admin_key, "COLUMNS": "200"}
        command = [sys.executable, "-m", "factory.cli.main", *words]
        return subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT, timeout=60)

    node = runner.node["id"]
    done = factory("pools", "set", name, "--isolation", "tenant", "--tenant", tenant.name, "--self-fence-s", "60")
    assert (done.returncode, f"is for tenant {tenant.name} alone" in done.stdout) == (0, True), done.stderr
    assert runner.desired()["self_fence"] is True
    wrong = factory("pools", "set", name, "--isolation", "tenants")
    assert (wrong.returncode != 0, "did you mean 'tenant'" in wrong.stderr) == (True, True)
    assert "draining (new disks)" in factory("nodes", "drain", node, "--reason", "new disks").stdout
    assert "ready" in factory("nodes", "undrain", node).stdout
    refused = factory("nodes", "remove", node)
    assert (refused.returncode != 0, "would be back at once" in refused.stderr) == (True, True)
