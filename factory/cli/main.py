"""The `factory` command: thin over the SDK. Each group is a module in `cli/commands`; heavy imports happen on use."""

from __future__ import annotations

import sys

import typer

from factory.cli import output, up
from factory.cli.commands import datasets, jobs, models, platform, processes, queues, simulating, status
from factory.errors import FactoryError

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="The AI Factory: jobs, data, algorithms, models and endpoints on shared pools. Every command takes --json.",
)
app.command("up")(up.up)
app.command("status")(status.status)
app.add_typer(jobs.app, name="jobs")
app.add_typer(datasets.app, name="datasets")
app.add_typer(models.algorithms, name="algorithms")
app.add_typer(models.models, name="models")
app.add_typer(models.endpoints, name="endpoints")
app.add_typer(platform.pools, name="pools")
app.add_typer(platform.nodes, name="nodes")
app.add_typer(queues.app, name="queues")
app.add_typer(platform.tenants, name="tenants")
app.add_typer(platform.keys, name="keys")
app.command("server")(processes.server)
app.command("runner")(processes.runner)
app.command("simulate")(simulating.simulate)


@app.callback(invoke_without_command=True)
def _root(version: bool = typer.Option(False, "--version", help="Print the version and end.")) -> None:
    if version:
        from factory import __version__

        typer.echo(__version__)
        raise typer.Exit


def main(argv: list[str] | None = None) -> None:
    """Run the command line; an error of the factory becomes a message, a hint and an exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    own = arguments.index("--") if "--" in arguments else len(arguments)  # what follows is the user's program
    if "--json" in arguments[:own]:  # everywhere, at any position
        arguments.remove("--json")
        output.set_json(True)
    program: tuple[str, ...] = ()
    if arguments[:2] in (["jobs", "submit"], ["jobs", "plan"]) and "--" in arguments:
        at = arguments.index("--")
        program, arguments = tuple(arguments[at + 1 :]), arguments[:at]
    try:
        app(arguments, prog_name="factory", obj=program)
    except (FactoryError, TimeoutError) as exc:
        sys.exit(output.fail(exc).exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
