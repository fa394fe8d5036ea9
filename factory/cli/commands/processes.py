"""`factory server`, `factory runner`: the factory's processes in the foreground."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from factory.errors import ConfigurationError

__all__ = ["needs_extra", "runner", "server"]


@contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Turn a missing package into a hint. Raises: ConfigurationError."""
    try:
        yield
    except ModuleNotFoundError as exc:
        raise ConfigurationError(
            f"this command needs {exc.name}, which is not installed here", hint=f"pip install 'ai-factory[{extra}]'"
        ) from exc


def server(
    data: Annotated[Path | None, typer.Option(help="Data folder; by default $FACTORY_DATA.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
) -> None:
    """Run the control plane in the foreground; settings by FACTORY_… variables, see docs/architecture.md."""
    with needs_extra("server"):
        from factory.api.server import run
        from factory.settings import Settings

    given = {"data": data, "host": host, "port": port}
    run(Settings(**{k: v for k, v in given.items() if v is not None}))  # pyright: ignore[reportArgumentType]


def runner(
    join_file: Annotated[Path, typer.Option(help="JSON file (0600) that says where and as whom to join.")],
) -> None:
    """Run a runner on a Ray cluster's head."""
    with needs_extra("runner"):
        from factory.runner.main import main
    raise typer.Exit(main(["--join-file", str(join_file)]))
