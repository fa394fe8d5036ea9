"""MLflow behind our auth: a real MLflow server, its real client, two tenants, and every route there is."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from factory.api.mlflow_proxy.routes import ROUTES, Owner, Route, find
from factory.domain.tenancy import Role
from factory.models.mlflow_process import mlflow_command

from .conftest import ROOT, Runner, Server, Tenant

API = "/api/2.0/mlflow"
FILES = "/api/2.0/mlflow-artifacts/artifacts"


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """MLflow's own address."""
    home = tmp_path_factory.mktemp("mlflow-home")
    (home / "mlflow").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    argv, env = mlflow_command(home, port)
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(argv, env={**os.environ, **env}, stdout=log, stderr=log, start_new_session=True)
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 90
    while True:
        assert process.poll() is None, (home / "log").read_text()[-3000:]
        assert time.monotonic() < deadline
        try:
            if httpx.get(f"{url}/health", trust_env=False, timeout=2).status_code == 200:
                break
        except httpx.TransportError:
            time.sleep(0.1)
    yield url
    os.killpg(process.pid, 15)
    process.wait(20)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, behind: str) -> Iterator[Server]:
    """A control plane with that MLflow."""
    running = Server(tmp_path_factory.mktemp("with-mlflow") / "data", env={"FACTORY_MLFLOW_URL": behind})
    running.start()
    yield running
    assert running.stop() == 0, running.log()


class Department:
    """A tenant with one of everything that MLflow knows."""

    def __init__(self, server: Server, behind: str) -> None:
        self.tenant: Tenant = server.tenant()
        self.writer = server.client(server.key("operator", self.tenant.name))
        self.reader = server.client(server.key("viewer", self.tenant.name))
        for client in (self.writer, self.reader):
            client.base_url = httpx.URL(f"{server.url}/mlflow")
        self.experiment = self.post("experiments/create", name="flow")["experiment_id"]
        self.run = self.post("runs/create", experiment_id=self.experiment, run_name="first")["run"]["info"]["run_id"]
        made = self.post("logged-models", experiment_id=self.experiment, name="net", source_run_id=self.run)
        self.logged_model = made["model"]["info"]["model_id"]
        self.artifact = f"{self.experiment}/{self.run}/artifacts/a.txt"
        assert self.writer.put(f"{FILES}/{self.artifact}", content=self.tenant.name.encode()).status_code == 200
        # what our projection writes, here by hand
        name = f"{self.tenant.name}.net"
        with httpx.Client(base_url=behind + API, trust_env=False) as direct:
            for path, body in (
                ("registered-models/create", {"name": name}),
                (
                    "model-versions/create",
                    {"name": name, "source": f"factory://{self.tenant.name}/net/1", "run_id": self.run},
                ),
                ("registered-models/alias", {"name": name, "alias": "champion", "version": "1"}),
            ):
                assert direct.post(f"/{path}", json=body).status_code == 200

    def post(self, path: str, **body: Any) -> dict[str, Any]:
        answer = self.writer.post(f"{API}/{path}", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def get(self, path: str, **query: Any) -> dict[str, Any]:
        answer = self.reader.get(f"{API}/{path}", params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture(scope="module")
def ours(server: Server, behind: str) -> Department:
    return Department(server, behind)


@pytest.fixture(scope="module")
def theirs(server: Server, behind: str) -> Department:
    return Department(server, behind)


MISSING = {"experiment_id": "999999", "run_id": "0" * 32, "model_id": "m-" + "0" * 32, "artifact": "999999/x/a.txt"}


def ids_of(of: Department) -> dict[str, str]:
    return {"experiment_id": of.experiment, "run_id": of.run, "model_id": of.logged_model, "artifact": of.artifact}


NOTE = {"artifact_path": "m", "run_id": "x", "utc_time_created": "2026-01-01", "flavors": {}}
# what a call needs beside the ids, so that MLflow itself would say yes
REST: dict[str, dict[str, Any]] = {
    "experiments/set-experiment-tag": {"key": "k", "value": "v"},
    "runs/create": {"run_name": "another"},
    "runs/update": {"status": "RUNNING"},
    "runs/log-metric": {"key": "m", "value": 1.5, "timestamp": 1, "step": 1},
    "runs/log-parameter": {"key": "p", "value": "1"},
    "runs/log-batch": {"metrics": [{"key": "b", "value": 2.0, "timestamp": 1, "step": 0}]},
    "runs/set-tag": {"key": "t", "value": "v"},
    "runs/delete-tag": {"key": "t"},
    "runs/log-model": {"model_json": json.dumps(NOTE)},
    "runs/outputs": {"models": [{"model_id": "<model_id>", "step": 0}]},
    "logged-models": {"name": "another"},
    "logged-models/{model_id}": {"status": "LOGGED_MODEL_READY"},
    "logged-models/{model_id}/params": {"params": [{"key": "a", "value": "b"}]},
    "logged-models/{model_id}/tags": {"tags": [{"key": "a", "value": "b"}]},
}  # fmt: skip
BY_ID = [r for r in ROUTES if r.owner in (Owner.EXPERIMENT, Owner.RUN, Owner.LOGGED_MODEL, Owner.ARTIFACT)]


def call(client: httpx.Client, route: Route, ids: dict[str, str]) -> httpx.Response:
    """Make the call with these ids where the route's rule looks."""
    path = re.sub(r"\{(\w+)(:path)?\}", lambda m: ids.get(m[1], "a"), route.path)
    if route.raw:
        return client.put(path, content=b"new")
    fields: dict[str, Any] = {}
    if route.method != "GET" or "{" not in route.path:
        rest = json.dumps(REST.get(route.path.removeprefix(f"{API}/"), {})).replace("<model_id>", ids["model_id"])
        fields = json.loads(rest) if route.method != "GET" else {}
        fields |= {k: v for k, v in ids.items() if k in route.fields and "{" + k not in route.path}
    if route.method == "GET":
        if route.path == FILES:
            fields["path"] = ids["artifact"].rpartition("/")[0]
        if "metric_key" in route.fields:
            fields["metric_key"] = "m"
        return client.get(path, params=fields)
    return client.request(route.method, path, json=fields)


@pytest.mark.parametrize("route", BY_ID, ids=lambda r: f"{r.method} {r.path}")
def test_own_ids_pass_and_foreign_ones_answer_as_missing(ours: Department, theirs: Department, route: Route) -> None:
    if route.path.endswith("tags/{tag_key}"):
        call(ours.writer, next(r for r in ROUTES if r.path.endswith("{model_id}/tags")), ids_of(ours))
    own = call(ours.writer, route, ids_of(ours))
    foreign = call(ours.writer, route, ids_of(theirs))
    missing = call(ours.writer, route, MISSING)
    assert own.status_code == 200, own.text
    assert (foreign.status_code, missing.status_code) == (404, 404), (foreign.text, missing.text)
    assert blurred(foreign, ids_of(theirs)) == blurred(missing, MISSING)
    assert foreign.json()["error_code"] == "RESOURCE_DOES_NOT_EXIST"


def blurred(answer: httpx.Response, ids: dict[str, str]) -> dict[str, Any]:
    """An answer without the ids that were asked for."""
    text = json.dumps(answer.json() | {"request_id": ""}, ensure_ascii=False)
    for value in sorted([*ids.values(), ids["artifact"].rpartition("/")[0]], key=len, reverse=True):
        text = re.sub(rf"(?<![\w-]){re.escape(value)}(?![\w-])", "<id>", text)
    return json.loads(text)


WRITES = [r for r in ROUTES if r.least is Role.OPERATOR]


@pytest.mark.parametrize("route", WRITES, ids=lambda r: f"{r.method} {r.path}")
def test_a_viewer_only_reads(ours: Department, route: Route) -> None:
    assert call(ours.reader, route, ids_of(ours)).status_code == 403


# calls that name nobody's id: what is sent, where "<experiment>" stands for the other tenant's
OTHERS: dict[tuple[str, str], dict[str, Any]] = {
    ("GET", f"{API}/experiments/get-by-name"): {"experiment_name": "flow"},
    ("GET", f"{API}/experiments/search"): {"max_results": 100},
    ("POST", f"{API}/experiments/search"): {"max_results": 100},
    ("POST", f"{API}/experiments/create"): {"name": "flow"},
    ("POST", f"{API}/runs/search"): {"experiment_ids": ["<experiment>"]},
    ("POST", f"{API}/logged-models/search"): {"experiment_ids": ["<experiment>"]},
    ("GET", f"{API}/registered-models/get"): {"name": "net"},
    ("GET", f"{API}/registered-models/search"): {},
    ("GET", f"{API}/registered-models/get-latest-versions"): {"name": "net"},
    ("POST", f"{API}/registered-models/get-latest-versions"): {"name": "net"},
    ("GET", f"{API}/registered-models/alias"): {"name": "net", "alias": "champion"},
    ("GET", f"{API}/model-versions/get"): {"name": "net", "version": "1"},
    ("GET", f"{API}/model-versions/search"): {},
    ("GET", "/api/3.0/mlflow/server-info"): {},
}


@pytest.mark.parametrize(("method", "path"), OTHERS, ids=lambda text: text)
def test_a_call_without_an_id_tells_nothing_of_others(
    ours: Department, theirs: Department, method: str, path: str
) -> None:
    text = json.dumps(OTHERS[method, path]).replace("<experiment>", theirs.experiment)
    fields = json.loads(text)
    answer = ours.writer.request(method, path, **({"params": fields} if method == "GET" else {"json": fields}))
    # the name is taken: by the caller's own experiment, not by the other tenant's of the same name
    assert answer.status_code == (400 if path.endswith("experiments/create") else 200), answer.text
    for secret in (theirs.tenant.name, theirs.run, theirs.logged_model):
        assert secret not in answer.text


def test_every_route_is_walked_by_a_test_of_its_rule() -> None:
    walked = [(r.method, r.path) for r in BY_ID] + list(OTHERS)
    assert sorted(walked) == sorted((r.method, r.path) for r in ROUTES)
    assert all(r.least is Role.OPERATOR for r in ROUTES if r.method in ("PUT", "PATCH", "DELETE"))


def test_names_are_ours_alone_inside_and_plain_outside(ours: Department, theirs: Department, behind: str) -> None:
    for of in (ours, theirs):
        assert of.get("experiments/get-by-name", experiment_name="flow")["experiment"]["experiment_id"] == of.experiment
        assert of.get("experiments/get", experiment_id=of.experiment)["experiment"]["name"] == "flow"
        assert of.get("registered-models/get", name="net")["registered_model"]["name"] == "net"
        assert of.get("registered-models/alias", name="net", alias="champion")["model_version"]["run_id"] == of.run
        assert of.get("model-versions/get", name="net", version="1")["model_version"]["name"] == "net"
        latest = of.get("registered-models/get-latest-versions", name="net")["model_versions"]
        assert [(v["name"], v["run_id"]) for v in latest] == [("net", of.run)]
        assert of.post("registered-models/get-latest-versions", name="net")["model_versions"] == latest
    raw = httpx.get(f"{behind}{API}/experiments/get", params={"experiment_id": ours.experiment}, trust_env=False)
    assert raw.json()["experiment"]["name"] == f"{ours.tenant.name}.flow"
    for name in (f"{theirs.tenant.name}.net", "none"):
        assert ours.reader.get(f"{API}/registered-models/get", params={"name": name}).status_code == 404


@pytest.mark.parametrize(
    "asked",
    ["", "name = 'flow'", "name LIKE '%'", "name LIKE 'fl%' AND attribute.name != 'x'", "attribute.`name` = 'flow'"],
)
def test_experiment_search_sees_own_names_only(ours: Department, theirs: Department, asked: str) -> None:
    found = ours.get("experiments/search", max_results=100, **({"filter": asked} if asked else {}))
    assert [(e["name"], e["experiment_id"]) for e in found["experiments"]] == [("flow", ours.experiment)]
    again = ours.post("experiments/search", max_results=100, filter=asked)
    assert again["experiments"] == found["experiments"]


@pytest.mark.parametrize(
    "asked", ["name LIKE '%' OR name LIKE '%'", "name = 'x' -- ", "') OR 1=1", "name LIKE 'a%' UNION SELECT"]
)
def test_a_filter_cannot_talk_its_way_out(ours: Department, theirs: Department, asked: str) -> None:
    for path in ("experiments/search", "registered-models/search", "model-versions/search"):
        answer = ours.reader.get(f"{API}/{path}", params={"filter": asked, "max_results": 100})
        assert answer.status_code in (200, 400)
        assert theirs.tenant.name not in answer.text
        assert theirs.experiment not in [e.get("experiment_id") for e in answer.json().get("experiments", [])]
        assert theirs.run not in answer.text


def test_registry_search_sees_own_names_only(ours: Department, theirs: Department) -> None:
    for asked in ({}, {"filter": "name = 'net'"}, {"filter": "name LIKE 'n%'"}):
        models = ours.get("registered-models/search", max_results=100, **asked)["registered_models"]
        assert [m["name"] for m in models] == ["net"]
        assert {v["run_id"] for m in models for v in m["latest_versions"]} == {ours.run}
        versions = ours.get("model-versions/search", max_results=100, **asked)["model_versions"]
        assert [(v["name"], v["run_id"]) for v in versions] == [("net", ours.run)]


@pytest.mark.parametrize(
    ("path", "key", "ident"), [("runs/search", "runs", "run_id"), ("logged-models/search", "models", "model_id")]
)
def test_searches_in_experiments_are_cut_to_own_ones(
    ours: Department, theirs: Department, path: str, key: str, ident: str
) -> None:
    both = ours.post(path, experiment_ids=[ours.experiment, theirs.experiment, "999999"])
    own = ours.post(path, experiment_ids=[ours.experiment])
    assert {r["info"]["experiment_id"] for r in own[key]} == {ours.experiment}
    assert [r["info"][ident] for r in both[key]] == [r["info"][ident] for r in own[key]]
    assert ours.post(path, experiment_ids=[theirs.experiment]) == {}
    assert ours.post(path, experiment_ids=[]) == {}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("experiments/create", {"name": "x", "artifact_location": "file:///etc"}),
        ("runs/set-tag", {"run_id": "OURS", "runId": "THEIRS", "key": "a", "value": "b"}),
        ("runs/set-tag", {"run_id": "OURS", "run_uuid": "THEIRS", "key": "a", "value": "b"}),
        ("runs/log-batch", {"run_id": "OURS", "metrics": [{"key": "m", "value": 1, "timestamp": 1, "modelId": "X"}]}),
        ("logged-models/OURMODEL/params", {"model_id": "THEIRMODEL", "params": []}),
    ],
    ids=["location", "camel-case", "two-names", "camel-case-inside", "path-and-body"],
)
def test_what_we_do_not_read_mlflow_does_not_see(
    ours: Department, theirs: Department, path: str, body: dict[str, Any]
) -> None:
    names = {"OURS": ours.run, "THEIRS": theirs.run, "OURMODEL": ours.logged_model, "THEIRMODEL": theirs.logged_model}
    text = json.dumps(body)
    for name, value in names.items():
        text, path = text.replace(f'"{name}"', f'"{value}"'), path.replace(name, value)
    answer = ours.writer.post(f"{API}/{path}", content=text, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422, answer.text


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("runs/log-metric", {"key": "m", "value": 1, "timestamp": 1, "model_id": "THEIRMODEL"}),
        (
            "runs/log-batch",
            {"metrics": [{"key": "m", "value": 1, "timestamp": 1, "step": 0, "model_id": "THEIRMODEL"}]},
        ),
        ("runs/log-inputs", {"models": [{"model_id": "THEIRMODEL"}]}),
        ("runs/outputs", {"models": [{"model_id": "THEIRMODEL", "step": 0}]}),
    ],
)
def test_foreign_ids_inside_a_call_on_own_things_are_missing(
    ours: Department, theirs: Department, path: str, body: dict[str, Any]
) -> None:
    text = json.dumps({"run_id": ours.run} | body).replace("THEIRMODEL", theirs.logged_model)
    answer = ours.writer.post(f"{API}/{path}", content=text, headers={"Content-Type": "application/json"})
    assert answer.status_code == 404
    made = {"experiment_id": ours.experiment, "name": "n", "source_run_id": theirs.run}
    assert ours.writer.post(f"{API}/logged-models", json=made).status_code == 404


@pytest.mark.parametrize(
    "path", ["EXP/../THEIRS/a.txt", "EXP/%2e%2e/THEIRS/a", "EXP/%252e%252e/x", "..%2f..%2fetc", "EXP//a", "EXP\\..\\x"]
)
def test_artifact_paths_lead_nowhere_else(ours: Department, theirs: Department, path: str) -> None:
    spelled = path.replace("EXP", ours.experiment).replace("THEIRS", theirs.experiment)
    raw = httpx.URL(f"{ours.writer.base_url}").copy_with(raw_path=f"/mlflow{FILES}/{spelled}".encode())
    for method in ("GET", "PUT"):
        answer = ours.writer.request(method, raw, **({"content": b"x"} if method == "PUT" else {}))
        assert answer.status_code in (404, 422), answer.text
    listed = ours.reader.get(FILES, params={"path": f"{ours.experiment}/../{theirs.experiment}"})
    assert listed.status_code == 422
    folders = f"{API}/logged-models/{ours.logged_model}/artifacts/directories"
    listed = ours.reader.get(folders, params={"artifact_directory_path": f"../{theirs.experiment}"})
    assert (listed.status_code, listed.json()["code"]) == (422, "invalid_request")


def test_a_dot_segment_does_not_turn_one_call_into_another(ours: Department) -> None:
    made = ours.post("logged-models", experiment_id=ours.experiment, name="kept")["model"]["info"]["model_id"]
    path = f"/mlflow{API}/logged-models/{made}/tags/%2e%2e"  # without its last two segments it deletes the model
    raw = httpx.URL(f"{ours.writer.base_url}").copy_with(raw_path=path.encode())
    assert ours.writer.request("DELETE", raw, json={}).status_code == 404
    assert ours.reader.get(f"{API}/logged-models/{made}").status_code == 200


def test_a_list_that_is_none_is_the_callers_mistake(ours: Department) -> None:
    answer = ours.writer.post(f"{API}/runs/log-batch", json={"run_id": ours.run, "metrics": 5})
    assert answer.status_code == 400, answer.text


def test_an_artifact_comes_back_as_data_and_never_as_a_page(ours: Department) -> None:
    answer = ours.reader.get(f"{FILES}/{ours.artifact}")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-disposition"].startswith("attachment")


def test_the_default_experiment_is_nobodys(ours: Department) -> None:
    answer = ours.writer.post(f"{API}/runs/create", json={"experiment_id": "0"})
    assert answer.status_code == 404
    assert "set_experiment" in answer.json()["hint"]


@pytest.fixture(scope="module")
def all_of_mlflow() -> list[tuple[str, str]]:
    """Every method and path that MLflow 3.17 routes, Flask and FastAPI, with parameters filled by a letter."""
    code = """
import json
from fastapi.routing import iter_route_contexts
from mlflow.server import app as flask_app
from mlflow.server.fastapi_app import app
found = {(m, r.rule) for r in flask_app.url_map.iter_rules() for m in r.methods}
for c in iter_route_contexts(app.routes):
    path = getattr(c, "path", None)
    if path:
        found |= {(m, path) for m in (getattr(c, "methods", None) or {"GET"})}
print(json.dumps(sorted(found)))
"""
    env = {**os.environ, "PYTHONWARNINGS": "ignore", "MLFLOW_DISABLE_TELEMETRY": "true", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    return [tuple(row) for row in json.loads(done.stdout.splitlines()[-1])]


def test_every_route_of_mlflow_that_is_not_allowed_is_404(
    ours: Department, all_of_mlflow: list[tuple[str, str]]
) -> None:
    assert len(all_of_mlflow) > 300
    assert any("gateway" in path for _, path in all_of_mlflow)
    assert any("/jobs" in path for _, path in all_of_mlflow)
    refused = 0
    for method, rule in all_of_mlflow:
        path = re.sub(r"<[^>]+>|\{[^}]+\}", "a", rule)
        if find(method, path) is not None or method in ("HEAD", "OPTIONS"):
            continue
        answer = ours.writer.request(method, path, json={} if method != "GET" else None)
        assert answer.status_code == 404, f"{method} {path}: {answer.status_code}"
        assert answer.json()["error_code"] == "RESOURCE_DOES_NOT_EXIST"
        refused += 1
    assert refused > 250


def test_every_allowed_route_is_one_of_mlflows(all_of_mlflow: list[tuple[str, str]]) -> None:
    there = {(m, re.sub(r"<[^>]+>|\{[^}]+\}", "*", rule)) for m, rule in all_of_mlflow}
    for route in ROUTES:
        assert (route.method, re.sub(r"\{[^}]+\}", "*", route.path)) in there, route


CLIENT = """
import pathlib, sys, tempfile
import mlflow
from mlflow import MlflowClient

mlflow.set_experiment("from-the-client")
with mlflow.start_run(run_name="r") as run:
    mlflow.log_param("a", 1)
    mlflow.log_metric("m", 0.5, step=1)
    mlflow.log_metrics({"x": 1.0, "y": 2.0}, step=2)
    mlflow.set_tag("t", "v")
    mlflow.log_text("hello", "folder/with space.txt")
client = MlflowClient()
seen = client.get_run(run.info.run_id)
assert seen.data.metrics == {"m": 0.5, "x": 1.0, "y": 2.0} and seen.data.params == {"a": "1"}, seen
assert [a.path for a in client.list_artifacts(run.info.run_id, "folder")] == ["folder/with space.txt"]
got = mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="folder/with space.txt")
assert pathlib.Path(got).read_text() == "hello"
assert [m.value for m in client.get_metric_history(run.info.run_id, "m")] == [0.5]
assert [e.name for e in client.search_experiments(filter_string="name = 'from-the-client'")] == ["from-the-client"]
assert len(mlflow.search_runs(experiment_names=["from-the-client"], output_format="list")) >= 1
print(run.info.run_id)
"""


def client_says(server: Server, token: str, folder: Path) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    env |= {"MLFLOW_TRACKING_URI": f"{server.url}/mlflow", "MLFLOW_TRACKING_TOKEN": token}
    env |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    return subprocess.run([sys.executable, "-c", CLIENT], env=env, cwd=folder, capture_output=True, text=True)


def test_the_real_client_logs_and_reads_back_with_a_key(ours: Department, server: Server, tmp_path: Path) -> None:
    done = client_says(server, server.key("operator", ours.tenant.name), tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_real_client_works_with_an_attempts_token_while_it_lives(
    ours: Department, theirs: Department, server: Server, tmp_path: Path
) -> None:
    runner = Runner(server)
    runner.join()
    attempt = runner.start(ours.tenant.submit())
    done = client_says(server, attempt["token"], tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    run = done.stdout.splitlines()[-1]
    assert ours.get("runs/get", run_id=run)["run"]["info"]["run_id"] == run  # it is the tenant's
    assert theirs.reader.get(f"{API}/runs/get", params={"run_id": run}).status_code == 404
    runner.end(attempt)
    with server.client(attempt["token"]) as late:
        answer = late.get(f"/mlflow{API}/runs/get", params={"run_id": run})
    assert (answer.status_code, answer.json()["code"]) == (401, "attempt_ended")
