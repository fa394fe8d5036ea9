"""`factory datasets …`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text
from rich.tree import Tree

from factory import errors
from factory.cli.output import age, console, emit_json, is_json, show_pairs, show_table, size, stamp, state_text

if TYPE_CHECKING:
    from factory.schemas.datasets import LineageView, VersionView
    from factory.sdk.client import Client

__all__ = ["app", "lineage_tree"]

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Register, check, list and trace datasets.")
RefArgument = Annotated[str, typer.Argument(metavar="NAME[@VERSION]", help="Without a version: the latest.")]


def _client() -> Client:
    from factory.sdk.client import Client

    return Client()


def _version(client: Client, ref: str) -> Any:
    name, _, number = ref.partition("@")
    if number and not number.isdigit():
        raise errors.InvalidRequestError(f"'{ref}' names no version", hint="write NAME or NAME@NUMBER")
    if number:
        return client.datasets.version(name, int(number))
    view = client.datasets.get(name)  # the newest, whatever its state: a person asks why it failed, too
    return client.datasets.version(name, view.last)


@app.command()
def register(
    name: Annotated[str, typer.Argument(help="The dataset's name.")],
    file: Annotated[Path, typer.Argument(help="CSV, Parquet or Arrow file.")],
    contract: Annotated[Path | None, typer.Option(help="YAML file with what must hold.")] = None,
    queue: Annotated[str | None, typer.Option(help="Queue for the ingest job.")] = None,
    wait: Annotated[bool, typer.Option(help="Wait for the gate; exit code 1 if it fails.")] = True,
) -> None:
    """Register a file as a new version; the same file and contract give the version that is there."""
    handle = _client().datasets.register(name, file, contract=contract, queue=queue, wait=wait)
    if is_json():
        emit_json(handle.view)
    else:
        _show_version(handle.view)
    if wait and handle.view.passed is not True:
        raise typer.Exit(1)


@app.command("list")
def list_datasets() -> None:
    """List datasets."""
    views = _client().datasets.list()
    if is_json():
        emit_json(views)
        return
    now = int(time.time() * 1000)
    show_table(
        ("DATASET", "PUBLISHED>", "VERSIONS>", "AGE>"),
        [(v.name, v.head or "-", v.last, age(v.created_at, now)) for v in views],
        empty="no datasets",
    )


@app.command()
def show(ref: RefArgument) -> None:
    """Show a dataset's versions, or one version."""
    client = _client()
    if "@" in ref:
        view = _version(client, ref).view
        if is_json():
            emit_json(view)
        else:
            _show_version(view)
        return
    dataset = client.datasets.get(ref)
    if is_json():
        emit_json(dataset)
        return
    show_pairs([("dataset", dataset.name), ("tenant", dataset.tenant), ("published", dataset.head or "none")])
    console.print()
    show_table(
        ("VERSION>", "STATE", "ROWS>", "CREATED", "JOB*"),
        [
            (v.number, state_text(v.state.value), "-" if v.rows is None else f"{v.rows:,}", stamp(v.created_at), v.job)
            for v in dataset.versions
        ],
        empty="no versions",
    )


def _show_version(view: VersionView) -> None:
    show_pairs(
        [
            ("version", f"{view.dataset}@{view.number}"),
            ("state", state_text(view.state.value)),
            ("because", view.message),
            ("rows", None if view.rows is None else f"{view.rows:,} × {len(view.columns)} columns"),
            ("files", f"{len(view.files)}, {size(sum(f.size_bytes for f in view.files))}" if view.files else ""),
            ("manifest", view.manifest_id),
            ("parents", ", ".join(view.parents)),
            ("job", view.job),
        ]
    )
    if view.checks:
        console.print()
        _show_checks(view)


def _show_checks(view: VersionView) -> None:
    failed = [c for c in view.checks if not c.passed]
    for check in failed:
        style = "red" if check.severity.value == "error" else "yellow"
        console.print(Text.assemble(("✗ ", style), (check.id, "bold"), f"  {check.message}"))
    console.print(f"{len(view.checks) - len(failed)} of {len(view.checks)} checks passed")


@app.command()
def check(ref: RefArgument) -> None:
    """Show the measured checks of a version; exit code 1 if its gate failed."""
    view = _version(_client(), ref).view
    if is_json():
        emit_json(view.checks)
    else:
        show_table(
            ("CHECK", "ON*", "MEASURED>", "ALLOWED", "FAILED>", "OF>", ""),
            [
                (
                    c.id,
                    c.subject,
                    f"{c.value:.6g}",
                    c.threshold,
                    f"{c.failed:,}",
                    f"{c.total:,}",
                    Text("ok", style="green") if c.passed else Text("fails", style="red"),
                )
                for c in sorted(view.checks, key=lambda c: c.passed)
            ],
            empty="no checks",
        )
    if view.passed is not True:
        raise typer.Exit(1)


@app.command()
def lineage(ref: RefArgument) -> None:
    """Print what a version came from and what came of it."""
    view = _version(_client(), ref).lineage()
    if is_json():
        emit_json(view)
    else:
        console.print(lineage_tree(view))


def lineage_tree(view: LineageView) -> Tree:
    """Draw a lineage graph as a tree, data first.

    A job that used a model hangs under it, else under its data; an algorithm is named beside the job that ran it.
    """
    nodes = {node.id: node for node in view.nodes}
    parents: dict[str, list[str]] = {node_id: [] for node_id in nodes}
    for edge in view.edges:
        parents[edge.target].append(edge.source)
    children: dict[str, list[str]] = {node_id: [] for node_id in nodes}
    roots: list[str] = []
    for node_id in nodes:
        above = sorted(parents[node_id], key=lambda parent: _NEAREST.get(nodes[parent].kind, 9))
        if above and nodes[above[0]].kind != "algorithm":
            children[above[0]].append(node_id)
        elif nodes[node_id].kind != "algorithm":
            roots.append(node_id)

    def label(node_id: str) -> Text:
        node = nodes[node_id]
        text = Text.assemble((f"{node.kind} ", "dim"), (node.label, "bold" if node_id == view.focus else "default"))
        if node.state:
            text.append("  ").append_text(state_text(node.state))
        for parent in parents[node_id]:
            if nodes[parent].kind == "algorithm":
                text.append(f"  by {nodes[parent].label}", style="dim")
        return text

    def grow(branch: Tree, node_id: str) -> None:
        for child in children[node_id]:
            grow(branch.add(label(child)), child)

    root = Tree("", hide_root=True, guide_style="dim")
    for node_id in roots:
        grow(root.add(label(node_id)), node_id)
    return root


_NEAREST = {"model": 0, "dataset": 1, "job": 2, "endpoint": 3}
