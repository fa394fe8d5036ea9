"""`factory server`, `factory runner`, `factory simulate`: the factory's processes in the foreground."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["runner", "server", "simulate"]


def server(
    data: Annotated[Path | None, typer.Option(help="Data folder; by default $FACTORY_DATA.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
) -> None:
    """Run the control plane in the foreground; settings by FACTORY_… variables, see docs/architecture.md."""
    from factory.api.server import run
    from factory.settings import Settings

    given = {"data": data, "host": host, "port": port}
    run(Settings(**{k: v for k, v in given.items() if v is not None}))  # pyright: ignore[reportArgumentType]


def runner(
    join_file: Annotated[Path, typer.Option(help="JSON file (0600) that says where and as whom to join.")],
) -> None:
    """Run a runner on a Ray cluster's head."""
    from factory.runner.main import main

    raise typer.Exit(main(["--join-file", str(join_file)]))


def simulate(
    seeds: Annotated[int, typer.Option(help="How many seeds.")] = 20,
    events: Annotated[int, typer.Option(help="Events per seed.")] = 300,
    first: Annotated[int, typer.Option(help="The first seed.")] = 0,
) -> None:
    """Run the real control plane against a fake Ray under faults, and check the rules after every commit."""
    from factory.simulation.__main__ import main

    main(["--seeds", str(seeds), "--events", str(events), "--first", str(first)])
