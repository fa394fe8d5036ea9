"""`make demo`: start a factory in a folder of its own, run the example, print what happened, leave nothing running."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from factory import Client
from factory.sdk.profile import Profile, write_profile

TENANT = "mobility"


def main() -> None:
    """Run the example; exit code 0 if every step went through."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(".demo"), help="folder of the demo's factory")
    folder = parser.parse_args().data.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    os.environ["FACTORY_PROFILE"] = str(folder / "admin.json")  # the user's own profile stays as it is
    print(f"starting a factory in {folder} (log: {folder / 'up.log'})", flush=True)
    process = _start(folder)
    try:
        _await_ready(process, folder)
        print(f"ready after {time.monotonic() - began:.1f} s", flush=True)
        with Client() as admin:
            client = _department(admin, folder)
        with client:
            _show(client, folder, began)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(60)
    print(f"\nthe factory has ended; its data stay in {folder}")


def _start(folder: Path) -> subprocess.Popen[bytes]:
    log = (folder / "up.log").open("wb")
    argv = [sys.executable, "-m", "factory.cli.main", "up", "--data", str(folder)]
    with log:
        return subprocess.Popen(argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)


def _await_ready(process: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + 120
    mark = folder / "run" / "ready"
    while not (mark.exists() and mark.read_text() == str(process.pid)):
        if process.poll() is not None or time.monotonic() > deadline:
            tail = "\n".join((folder / "up.log").read_text(errors="replace").splitlines()[-15:])
            raise SystemExit(f"the factory did not start:\n{tail}")
        time.sleep(0.1)


def _department(admin: Client, folder: Path) -> Client:
    """Return a client of the tenant `mobility`; tenant and key are made at the first run."""
    stored = folder / "mobility.json"
    if not stored.exists():
        admin.tenants.create(TENANT, title="Mobility department")
        key = admin.keys.create("operator", tenant=TENANT, title="demo")
        write_profile(Profile(admin.profile.url, key.secret), stored)
    secret = json.loads(stored.read_text())["key"]
    return Client(admin.profile.url, secret)


def _show(client: Client, folder: Path, began: float) -> None:
    from examples.footfall.main import run
    from factory.cli.commands.datasets import lineage_tree
    from factory.cli.output import console

    found = run(client, folder / "out")
    print("\nlineage")
    console.print(lineage_tree(found["raw"].lineage()))
    status, model = client.status(), found["model"]
    print("\nsummary")
    for name, value in (
        ("datasets", ", ".join(f"{d.name} ({d.last})" for d in client.datasets.list())),
        ("champion", f"{model.model}@{model.number}, {model.metrics['mae']:.1f} persons/h mean absolute error"),
        ("endpoint", found["endpoint"].url),
        ("API docs", f"{status.url}/docs"),
        ("MLflow", f"{status.mlflow_uri} (tracking URI, with a factory key)"),
        ("jobs", ", ".join(f"{count} {state}" for state, count in sorted(status.jobs.items()) if count)),
        ("took", f"{time.monotonic() - began:.0f} s"),
    ):
        print(f"  {name:<9} {value}")


if __name__ == "__main__":
    main()
