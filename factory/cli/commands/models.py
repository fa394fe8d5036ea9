"""`factory algorithms …`, `factory models …`, `factory endpoints …`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from factory import errors
from factory.cli.commands.datasets import lineage_tree
from factory.cli.output import age, console, emit_json, is_json, show_pairs, show_table, size, stamp, state_text

if TYPE_CHECKING:
    from factory.sdk.client import Client

__all__ = ["algorithms", "endpoints", "models"]

algorithms = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The catalogue of algorithms.")
models = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="List, show and promote models.")
endpoints = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Deploy, list, call and delete endpoints.")


def _client() -> Client:
    from factory.sdk.client import Client

    return Client()


def _ref(ref: str) -> tuple[str, int]:
    name, _, number = ref.partition("@")
    if not number.isdigit():
        raise errors.InvalidRequestError(f"'{ref}' names no model version", hint="write NAME@NUMBER")
    return name, int(number)


@algorithms.command("list")
def list_algorithms() -> None:
    """List the catalogue."""
    views = _client().algorithms.list()
    if is_json():
        emit_json(views)
    else:
        show_table(
            ("ALGORITHM", "VERSION", "TASK", "TITLE*"),
            [(v.name, v.version, v.task, v.title) for v in views],
            empty="the catalogue is empty",
        )


@algorithms.command("show")
def show_algorithm(name: str) -> None:
    """Show an algorithm's contract: parameters, inputs, metrics, tensors."""
    view = _client().algorithms.get(name)
    if is_json():
        emit_json(view)
        return
    show_pairs(
        [
            ("algorithm", f"{view.name} {view.version}"),
            ("title", view.title),
            ("about", view.description),
            ("task", view.task),
            ("owner", f"{view.owner}, {view.licence}"),
            ("model", view.model_format),
            ("inputs", ", ".join(str(i["name"]) for i in view.inputs)),
            ("metrics", ", ".join(f"{m['name']} ({m['direction']}, {m['unit']})" for m in view.metrics)),
            ("code", view.code_digest),
        ]
    )
    console.print()
    properties = view.params_schema.get("properties", {})
    show_table(
        ("PARAMETER", "DEFAULT>", "MEANING*"),
        [(n, json.dumps(view.defaults.get(n)), p.get("description", p.get("type", ""))) for n, p in properties.items()],
        empty="no parameters",
    )


@models.command("list")
def list_models() -> None:
    """List models."""
    views = _client().models.list()
    if is_json():
        emit_json(views)
        return
    now = int(time.time() * 1000)
    show_table(
        ("MODEL", "CHAMPION>", "PREVIOUS>", "VERSIONS>", "AGE>"),
        [(v.name, v.champion or "-", v.previous or "-", v.last, age(v.created_at, now)) for v in views],
        empty="no models",
    )


@models.command("show")
def show_model(ref: Annotated[str, typer.Argument(metavar="NAME[@VERSION]")]) -> None:
    """Show a model's versions, or one version with its lineage."""
    client = _client()
    if "@" not in ref:
        model = client.models.get(ref)
        if is_json():
            emit_json(model)
            return
        show_pairs([("model", model.name), ("tenant", model.tenant), ("champion", model.champion or "none")])
        console.print()
        show_table(
            ("VERSION>", "ALIASES", "METRICS*", "CREATED"),
            [(v.number, ",".join(v.aliases), _metrics(v.metrics), stamp(v.created_at)) for v in model.versions],
            empty="no versions",
        )
        return
    name, number = _ref(ref)
    view = client.models.version(name, number)
    if is_json():
        emit_json(view)
        return
    show_pairs(
        [
            ("model", f"{view.model}@{view.number}  {','.join(view.aliases)}"),
            ("file", f"{view.format}, {size(view.size_bytes)}, sha256 {view.sha256[:16]}…"),
            ("metrics", _metrics(view.metrics)),
            ("data", ", ".join(view.lineage.datasets)),
            ("algorithm", view.lineage.algorithm),
            ("job", view.lineage.job),
            ("code", view.lineage.code_digest),
            ("seed", view.lineage.seed),
            ("mlflow run", view.mlflow_run_id),
        ]
    )
    console.print()
    console.print(lineage_tree(client.models.lineage(name, number)))


def _metrics(metrics: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in sorted(metrics.items())[:4])


@models.command()
def promote(ref: Annotated[str, typer.Argument(metavar="NAME@VERSION")]) -> None:
    """Make a version champion if the gate lets it; says each rule with its numbers."""
    view = _client().models.promote(*_ref(ref))
    if is_json():
        emit_json(view)
        return
    for rule in view.checks:
        console.print(Text.assemble(("✓ " if rule.passed else "✗ ", "green" if rule.passed else "red"), rule.message))
    moved = "is now champion" if view.moved else "was champion already"
    console.print(f"{view.model}@{view.number} {moved} (against {view.against})")


@endpoints.command()
def deploy(
    name: str,
    model: Annotated[
        str, typer.Argument(metavar="MODEL@ALIAS|NUMBER", help="footfall-24h@champion follows the alias.")
    ],
    replicas: Annotated[int, typer.Option(help="How many replicas answer.")] = 1,
    cpu: Annotated[float, typer.Option(help="CPUs per replica.")] = 0.25,
    memory: Annotated[str, typer.Option(help="Memory per replica.")] = "512MiB",
    queue: Annotated[str | None, typer.Option(help="Queue that pays the slots.")] = None,
    wait: Annotated[float, typer.Option(help="Seconds to wait until it answers; 0 = do not wait.")] = 60.0,
) -> None:
    """Let an endpoint serve a model; a new revision answers before the old one goes."""
    options = {"replicas": replicas, "cpu": cpu, "memory": memory} | ({"queue": queue} if queue else {})
    view = _client().endpoints.deploy(name, model, wait_s=wait or None, **options)
    if is_json():
        emit_json(view)
    else:
        console.print(Text.assemble(view.name, " ", state_text(view.state.value), "  ", view.url))


@endpoints.command("list")
def list_endpoints() -> None:
    """List endpoints."""
    views = _client().endpoints.list()
    if is_json():
        emit_json(views)
        return
    show_table(
        ("ENDPOINT", "STATE", "MODEL", "REPLICAS>", "URL*"),
        [
            (v.name, state_text(v.state.value), v.model, f"{len(v.backends)}/{v.revisions[-1].replicas}", v.url)
            for v in views
        ],
        empty="no endpoints",
    )


@endpoints.command()
def predict(
    name: str,
    file: Annotated[Path, typer.Argument(help="JSON: input name -> nested lists; - reads standard input.")],
) -> None:
    """Ask an endpoint; prints output name -> nested lists as JSON."""
    import sys

    try:
        inputs = json.loads(sys.stdin.read() if str(file) == "-" else file.read_text())
    except (OSError, ValueError) as exc:
        raise errors.InvalidRequestError(f"{file} cannot be read as JSON: {exc}") from exc
    if not isinstance(inputs, dict):
        raise errors.InvalidRequestError(f"{file} is not a JSON object of input name -> values")
    emit_json(_client().endpoints.predict(name, inputs))


@endpoints.command()
def delete(name: str) -> None:
    """Stop an endpoint; its replicas finish what they have."""
    _client().endpoints.delete(name)
    if is_json():
        emit_json({"deleted": name})
    else:
        console.print(f"{name} is being deleted")
