"""Who may do what: every route needs a key, roles hold, and no tenant sees or infers another's things (rule 9)."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, iter_route_contexts

from factory.api.app import create_app
from factory.api.auth import live_attempt, mlflow_caller, needs
from factory.api.server import serving_for
from factory.bootstrap import assemble
from factory.domain.tenancy import Role
from factory.settings import Settings

from .conftest import Runner, Server, Tenant, spec

OPEN = {"/livez", "/readyz", "/docs", "/openapi.json"}
ROLES = ("viewer", "operator", "admin", "platform", "runner", "metrics")


def _guards(dependant: Dependant) -> list[object]:
    own = [dependant.call] if isinstance(dependant.call, needs | live_attempt | mlflow_caller) else []
    return own + [g for d in dependant.dependencies for g in _guards(d)]


@pytest.fixture(scope="module")
def routes(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, set[str], Any]]:
    """Every route of the application: its path, methods and the guard that its dependencies hold."""
    plane = assemble(Settings(data=tmp_path_factory.mktemp("walk"), mlflow_url="http://127.0.0.1:1"))
    app = create_app(serving_for(plane, port=1))
    found = []
    for context in iter_route_contexts(app.routes):
        route: Any = context.route if hasattr(context, "route") else context.original_route
        path = context.path or route.path
        guards = _guards(route.dependant) if isinstance(route, APIRoute) else []
        found.append((path, set(context.methods or route.methods), guards))
    plane.close()
    return found


def test_every_route_but_four_is_guarded_by_exactly_one_least_role(routes: list[tuple[str, set[str], Any]]) -> None:
    assert {path for path, _, _ in routes} >= OPEN | {"/api/v1/jobs", "/mlflow/{path:path}", "/metrics"}
    assert len(routes) > 60
    for path, methods, guards in routes:
        assert len(guards) == (0 if path in OPEN else 1), f"{methods} {path}"


def test_every_guarded_route_says_401_without_a_key(server: Server, routes: list[tuple[str, set[str], Any]]) -> None:
    client = server.client()
    del client.headers["authorization"]
    for path, methods, _ in routes:
        filled = path.replace(":path}", "}").replace("{", "").replace("}", "")
        for method in methods - {"OPTIONS"}:
            answer = client.request(method, filled)
            assert answer.status_code == (200 if path in OPEN else 401), f"{method} {path}: {answer.status_code}"


def test_every_route_holds_its_least_role(server: Server, routes: list[tuple[str, set[str], Any]]) -> None:
    tenant = server.tenant()
    keys = {r: server.key(r, tenant.name if r in ("viewer", "operator", "admin") else None) for r in ROLES}
    ladder = [Role.VIEWER, Role.OPERATOR, Role.ADMIN, Role.PLATFORM]
    clients = {role: server.client(key) for role, key in keys.items()}
    for path, methods, guards in routes:
        if path in OPEN or not isinstance(guards[0], needs):
            continue
        least = guards[0].least
        filled = path.replace(":path}", "}").replace("{", "x-").replace("}", "").replace("x-number", "1")
        for role in ROLES:
            may = role == "platform" or role == least.value
            if least in ladder and Role(role) in ladder:
                may = ladder.index(Role(role)) >= ladder.index(least)
            if may and methods & {"POST", "PUT", "DELETE"} and role == "platform":
                continue  # it would really do it
            for method in methods:
                answer = clients[role].request(method, filled, timeout=10)
                assert (answer.status_code == 403) == (not may), f"{role} {method} {path}: {answer.status_code}"


@pytest.mark.parametrize("header", ["", "Bearer", "Basic abc", "Bearer fak_aaaaaaaa_" + "b" * 43, "Bearer x y"])
def test_a_key_that_is_none_is_refused_with_the_scheme(server: Server, header: str) -> None:
    client = server.client()
    client.headers["authorization"] = header
    answer = client.get("/api/v1/jobs")
    assert answer.status_code == 401
    assert answer.json()["code"] == "unauthenticated"
    assert answer.headers["www-authenticate"] == "Bearer"


def _without_id(answer: Any, *names: str) -> str:
    problem = answer.json() | {"request_id": ""}
    text = repr(sorted(problem.items()))
    for name in names:
        text = text.replace(name, "<name>")
    return text


def test_foreign_things_answer_as_missing_ones(server: Server, runner: Runner) -> None:
    owner, stranger = server.tenant(), server.tenant()
    job = owner.submit(name="secret-job")
    upload = owner.operator.post("/uploads", params={"filename": "a.csv", "format": "csv"}, content=b"a\n1\n").json()
    assert owner.operator.post("/datasets/secret-data/versions", json={"upload": upload["id"]}).status_code == 201
    missing_job = job[:-1] + ("0" if job[-1] != "0" else "1")
    pairs = [
        *((m, f"/jobs/{job}{tail}", f"/jobs/{missing_job}{tail}") for m, tail in (
            ("GET", ""), ("GET", "/events"), ("GET", "/explain"), ("GET", "/wait"), ("GET", "/logs"),
            ("GET", "/lineage"), ("POST", ":cancel"), ("POST", ":suspend"), ("POST", ":resume"),
        )),
        ("GET", f"/queues/{owner.name}", f"/queues/{owner.name}0"),
        ("GET", "/datasets/secret-data", "/datasets/missing-data"),
        ("GET", "/datasets/secret-data/versions/1", "/datasets/missing-data/versions/1"),
        ("GET", "/datasets/secret-data/versions/1/lineage", "/datasets/missing-data/versions/1/lineage"),
        ("GET", "/datasets/secret-data/versions/1/files/a", "/datasets/missing-data/versions/1/files/a"),
        ("POST", "/datasets/secret-data/versions/1:deprecate", "/datasets/missing-data/versions/1:deprecate"),
    ]  # fmt: skip
    names = (job, missing_job, "secret-data", "missing-data", f"{owner.name}0", owner.name)
    for method, foreign, missing in pairs:
        theirs, nobodys = (stranger.operator.request(method, path) for path in (foreign, missing))
        assert theirs.status_code == nobodys.status_code == 404, (foreign, theirs.text)
        assert _without_id(theirs, *names) == _without_id(nobodys, *names)
    assert stranger.viewer.get("/jobs").json()["items"] == []
    assert stranger.viewer.get("/datasets").json()["items"] == []
    refused = stranger.operator.post("/datasets/mine/versions", json={"upload": upload["id"]})
    unknown = stranger.operator.post("/datasets/mine/versions", json={"upload": upload["id"][:-1] + "0"})
    assert refused.status_code == unknown.status_code == 404


def test_a_platform_key_acts_in_the_tenant_of_the_header(server: Server, tenant: Tenant) -> None:
    admin = server.api()
    made = admin.post("/jobs", json=spec(name="by-admin"), headers={"X-Factory-Tenant": tenant.name})
    assert made.status_code == 201, made.text
    assert made.json()["tenant"] == tenant.name
    assert tenant.viewer.get(f"/jobs/{made.json()['id']}").status_code == 200
    assert admin.post("/jobs", json=spec()).json()["tenant"] == "default"
    assert admin.get("/jobs", headers={"X-Factory-Tenant": "no-such-dept"}).status_code == 404


def test_a_tenants_key_cannot_leave_its_tenant(server: Server, tenant: Tenant) -> None:
    answer = tenant.admin.get("/jobs", headers={"X-Factory-Tenant": "default"})
    assert answer.status_code == 403
    assert tenant.admin.post("/keys", json={"role": "viewer", "tenant": "default"}).status_code in (403, 404)
    assert tenant.admin.post("/keys", json={"role": "platform"}).status_code == 403


def test_a_revoked_key_is_refused_at_once(tenant: Tenant) -> None:
    made = tenant.admin.post("/keys", json={"role": "viewer", "tenant": tenant.name}).json()
    client = tenant.server.api(made["secret"])
    assert client.get("/jobs").status_code == 200
    assert tenant.admin.delete(f"/keys/{made['id']}").json()["revoked_at"] is not None
    assert client.get("/jobs").status_code == 401
    assert made["secret"] not in tenant.admin.get("/keys").text


def test_no_secret_is_in_the_servers_log(server: Server, tenant: Tenant) -> None:
    key = tenant.server.key("viewer", tenant.name)
    tenant.server.api(key).get("/jobs", params={"name": key})
    log = server.log()
    assert key.split("_")[1] in log  # the public part says who it was
    assert key.split("_", 2)[2] not in log
    assert server.admin_key.split("_", 2)[2] not in log


def test_a_request_id_is_kept_or_made(tenant: Tenant) -> None:
    given = tenant.viewer.get("/jobs", headers={"X-Request-Id": "my-request-1"})
    made = tenant.viewer.get("/jobs", headers={"X-Request-Id": "<bad id>"})
    assert given.headers["x-request-id"] == "my-request-1"
    assert made.headers["x-request-id"] != "<bad id>"


def test_metrics_need_their_role_and_name_no_job(server: Server, tenant: Tenant, runner: Runner) -> None:
    job = tenant.submit()
    with server.client(server.key("metrics")) as scraper:
        text = scraper.get("/metrics").text
    assert 'aifactory_slots_capacity{pool="cpu"} 64.0' in text
    assert "aifactory_job_submissions_total" in text
    assert "aifactory_leader_epoch" in text
    assert job not in text
    assert server.client(server.key("viewer", tenant.name)).get("/metrics").status_code == 403
