"""The command line on a real factory: every listing as a table that fits 80 columns and as JSON, and its exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.e2e.conftest import Factory

Cli = Callable[..., subprocess.CompletedProcess[str]]

READS = [
    ("status",),
    ("jobs", "list"),
    ("jobs", "show", "footfall-prepare"),
    ("jobs", "explain", "footfall-prepare"),
    ("jobs", "events", "footfall-prepare"),
    ("datasets", "list"),
    ("datasets", "show", "footfall"),
    ("datasets", "show", "footfall@1"),
    ("datasets", "check", "footfall@1"),
    ("datasets", "lineage", "footfall-raw"),
    ("algorithms", "list"),
    ("algorithms", "show", "series-forecast"),
    ("models", "list"),
    ("models", "show", "footfall-24h"),
    ("models", "show", "footfall-24h@1"),
    ("endpoints", "list"),
    ("pools",),
    ("nodes",),
    ("queues",),
    ("queues", "show", "mobility"),
    ("tenants",),
]


@pytest.fixture
def cli(factory: Factory) -> Cli:
    def run(*words: str, profile: str = "mobility.json") -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "FACTORY_PROFILE": str(factory.folder / profile), "COLUMNS": "80"}
        argv = [sys.executable, "-m", "factory.cli.main", *words]
        return subprocess.run(argv, capture_output=True, text=True, env=env, timeout=120)

    return run


@pytest.mark.parametrize("words", READS, ids=" ".join)
def test_a_listing_fits_eighty_columns_and_is_there_as_json(cli: Cli, words: tuple[str, ...]) -> None:
    table = cli(*words)
    assert table.returncode == 0, table.stderr
    assert table.stdout.strip()
    too_wide = [line for line in table.stdout.splitlines() if len(line) > 80]
    assert too_wide == []
    assert json.loads(cli(*words, "--json").stdout) not in (None, "")


def test_a_quarantined_version_says_what_failed_and_the_exit_code_says_so_too(cli: Cli) -> None:
    done = cli("datasets", "check", "footfall-raw@1")
    assert done.returncode == 1
    assert "2,558" in done.stdout


def test_an_unknown_thing_is_named_with_a_hint_and_exit_code_two(cli: Cli) -> None:
    done = cli("datasets", "show", "footfal")
    assert done.returncode == 2
    assert "there is no dataset 'footfal'; did you mean 'footfall'" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_an_error_under_json_is_json(cli: Cli) -> None:
    done = cli("models", "show", "nothing", "--json")
    assert json.loads(done.stdout)["error"]["code"] == "not_found"


def test_a_departments_key_may_not_make_tenants(cli: Cli) -> None:
    done = cli("tenants", "create", "water")
    assert done.returncode == 1
    assert "forbidden" not in done.stdout
    assert done.stderr.startswith("error: ")


def test_a_key_is_made_shown_once_listed_and_revoked(cli: Cli) -> None:
    made = json.loads(
        cli("keys", "create", "--role", "viewer", "--tenant", "mobility", "--json", profile="admin.json").stdout
    )
    listed = cli("keys", profile="admin.json").stdout
    assert made["id"] in listed
    assert made["secret"] not in listed
    assert cli("keys", "revoke", made["id"], profile="admin.json").returncode == 0


def test_promoting_the_champion_again_moves_nothing(cli: Cli, factory: Factory) -> None:
    champion = factory.client.models.get("footfall-24h").champion
    done = cli("models", "promote", f"footfall-24h@{champion}")
    assert done.returncode == 0, done.stderr
    assert "was champion already" in done.stdout


def test_a_worse_model_is_refused_with_the_rule_that_failed(cli: Cli) -> None:
    done = cli("models", "promote", "footfall-24h@1")
    assert done.returncode == 1
    assert "persons/h" in done.stderr or "mae" in done.stderr


def test_an_endpoint_answers_over_the_command_line(cli: Cli, tmp_path_factory: pytest.TempPathFactory) -> None:
    asked = tmp_path_factory.mktemp("ask") / "ask.json"
    asked.write_text(
        json.dumps({"history": [[5.0] * 672], "sensor": ["45 Queen Street"], "start": ["2026-01-01T00:00"]})
    )
    done = cli("endpoints", "predict", "footfall", str(asked))
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["forecast"][0]) == 24
