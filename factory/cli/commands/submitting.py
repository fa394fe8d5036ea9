"""`factory jobs submit` and `factory jobs plan`: what to run, from a file, a function or a program, and the options."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from factory import errors
from factory.cli.output import console, emit_json, exit_code_of, is_json, show_explained, span, until

if TYPE_CHECKING:
    from factory.schemas.jobs import JobSpec, PlanView
    from factory.sdk.bundles import Bundle
    from factory.sdk.client import Client

__all__ = ["plan", "submit"]

Target = Annotated[
    str | None, typer.Argument(help="FILE.yaml with a job spec, or MODULE:FUNCTION; a program goes after --.")
]
Name = Annotated[str | None, typer.Option(help="The job's name.")]
Cpu = Annotated[float | None, typer.Option(help="CPUs per replica.")]
Memory = Annotated[str | None, typer.Option(help="Memory per replica: 512MiB, 4GiB.")]
Gpu = Annotated[float | None, typer.Option(help="GPUs per replica; below 1 a share of one.")]
Replicas = Annotated[int | None, typer.Option(help="Size of the gang.")]
MinReplicas = Annotated[int | None, typer.Option(help="It may start with so few; else all or nothing.")]
Queue = Annotated[str | None, typer.Option(help="Queue; by default the tenant's own.")]
Pool = Annotated[str | None, typer.Option(help="Pool; by default any that fits.")]
Flavor = Annotated[list[str] | None, typer.Option(help="Kind of node it may use; repeat it, best first.")]
GpuModel = Annotated[list[str] | None, typer.Option(help="GPU model that it needs; may be repeated.")]
TopologyOption = Annotated[str | None, typer.Option("--topology", help="any, one-node, same-zone or spread.")]
Estimate = Annotated[int | None, typer.Option(help="Seconds it will run in all; it plans with it, never ends it.")]
Priority = Annotated[str | None, typer.Option(help="high, normal or low.")]
Retries = Annotated[int | None, typer.Option(help="Retries after infrastructure failures.")]
Timeout = Annotated[int | None, typer.Option(help="Seconds one attempt may run.")]
Env = Annotated[list[str] | None, typer.Option(help="NAME=VALUE; may be repeated.")]
Arg = Annotated[list[str] | None, typer.Option(help="Function argument as JSON; may be repeated.")]
Folder = Annotated[Path, typer.Option(help="Folder with the code.")]

_FIELDS = {name: name for name in ("name", "cpu", "memory", "gpu", "replicas", "min_replicas", "queue", "pool")} | {
    "flavor": "flavors", "gpu_model": "gpu_models", "topology": "topology", "estimate": "estimate_s",
    "priority": "priority", "timeout": "timeout_s",
}  # fmt: skip  # parameter of the commands -> field of the spec


def _client() -> Client:
    from factory.sdk.client import Client

    return Client()


def submit(
    ctx: typer.Context,
    target: Target = None,
    name: Name = None,
    cpu: Cpu = None,
    memory: Memory = None,
    gpu: Gpu = None,
    replicas: Replicas = None,
    min_replicas: MinReplicas = None,
    queue: Queue = None,
    pool: Pool = None,
    flavor: Flavor = None,
    gpu_model: GpuModel = None,
    topology: TopologyOption = None,
    estimate: Estimate = None,
    priority: Priority = None,
    retries: Retries = None,
    timeout: Timeout = None,
    env: Env = None,
    arg: Arg = None,
    folder: Folder = Path(),
    key: Annotated[str | None, typer.Option(help="Idempotency key: the same key gives the same job.")] = None,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Watch it; the exit code is the job's outcome.")] = False,
) -> None:
    """Submit a job.

    factory jobs submit spec.yaml --wait
    factory jobs submit pipeline:clean --arg '"2024"' --cpu 2
    factory jobs submit --cpu 2 --estimate 3600 --wait -- python train.py --epochs 3
    """
    from factory.cli.watching import watch

    client = _client()
    spec, bundle = _spec(target, list(ctx.obj or ()), folder, arg or [], _given(ctx.params))
    if bundle is not None:
        client.jobs.upload_bundle(bundle.digest, bundle.content)
    handle = client.jobs.submit(spec, idempotency_key=key)
    if not wait:
        if is_json():
            emit_json(handle.view)
        else:
            console.print(handle.id)
        return
    if is_json():
        view = handle.wait()
        emit_json(view)
    else:
        console.print(Text(handle.id, style="dim"))
        view = watch(handle)
        if view.outcome is not None and view.outcome.hint:  # cause and traceback have just been shown
            console.print(Text(f"hint: {view.outcome.hint}"))
        if view.has_result:
            console.print(json.dumps(view.result, ensure_ascii=False))
    raise typer.Exit(exit_code_of(view.state))


def plan(
    ctx: typer.Context,
    target: Target = None,
    name: Name = None,
    cpu: Cpu = None,
    memory: Memory = None,
    gpu: Gpu = None,
    replicas: Replicas = None,
    min_replicas: MinReplicas = None,
    queue: Queue = None,
    pool: Pool = None,
    flavor: Flavor = None,
    gpu_model: GpuModel = None,
    topology: TopologyOption = None,
    estimate: Estimate = None,
    priority: Priority = None,
    retries: Retries = None,
    timeout: Timeout = None,
    env: Env = None,
    arg: Arg = None,
    folder: Folder = Path(),
) -> None:
    """Say what would come of a job if it were submitted now; nothing is stored. Arguments as for submit.

    factory jobs plan --gpu 8 --replicas 2 --estimate 7200 -- python train.py

    The exit code is 1 if it could never run.
    """
    spec, _ = _spec(target, list(ctx.obj or ()), folder, arg or [], _given(ctx.params))
    view = _client().jobs.plan(spec)
    if is_json():
        emit_json(view)
    else:
        _show_plan(spec, view, int(time.time() * 1000))
    raise typer.Exit(0 if view.feasible else 1)


def _show_plan(spec: JobSpec, view: PlanView, now: int) -> None:
    waiting, nodes = view.waiting, sorted({p.node for p in view.placements})
    stops = [*view.preempts, *([f"{view.preempts_others} of other departments"] if view.preempts_others else [])]
    given = f" with {view.replicas} of {spec.replicas} replicas" if 0 < view.replicas < spec.replicas else ""
    start = until(view.expected_start, now) if view.expected_start is not None else "not known"
    show_explained(
        [
            ("feasible", Text("yes", style="green") if view.feasible else Text("no", style="red")),
            ("start", f"{start}{given}" if view.feasible else ""),
            ("pool", f"{view.pool} (flavor {view.flavor})" if view.pool else ""),
            ("nodes", ", ".join(nodes)),
            ("stops", stops),
            ("reason", Text(waiting.reason.value, style="yellow") if waiting else ""),
            ("because", waiting.message if waiting else ""),
            ("helps", [f"- {text}" for text in (waiting.hint if waiting else "", *view.helps) if text]),
            ("cost", _cost(view)),
        ]
    )


def _cost(view: PlanView) -> str:
    if not view.slots:
        return ""
    slots = f"{view.slots:g} slot{'' if view.slots == 1 else 's'}"
    if view.slot_hours is None or view.estimate_s is None:
        return f"{slots}; say --estimate SECONDS for slot-hours"
    return f"{slots} for {span(view.estimate_s * 1000)} = {view.slot_hours:g} slot-hours"


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of the spec that the command line names: typer's parameters, as fields are called."""
    fields = {
        _FIELDS[name]: value for name, value in options.items() if name in _FIELDS and value not in (None, [], ())
    }
    if options.get("retries") is not None:
        fields["retry"] = {"max_retries": options["retries"]}
    if options.get("env"):
        fields["env"] = dict(_pair(text) for text in options["env"])
    return fields


def _spec(
    target: str | None, program: list[str], folder: Path, args: list[str], given: dict[str, Any]
) -> tuple[JobSpec, Bundle | None]:
    """Return the spec, and the code that it names and that has to be uploaded before it is submitted.

    Args:
        program: what follows `--`, see cli.main.
    """
    from factory.sdk.jobs import job_spec

    if program and target is not None:
        raise errors.InvalidRequestError(f"give either {target} or a program after --, not both")
    fields, bundle = _entry(target, program, folder, args)
    return job_spec(**fields | given), bundle


def _pair(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise errors.InvalidRequestError(f"'{text}' is not NAME=VALUE")
    return name, value


def _entry(
    target: str | None, program: list[str], folder: Path, args: list[str]
) -> tuple[dict[str, Any], Bundle | None]:
    from factory.sdk.bundles import bundle_folder

    if program:
        bundle = bundle_folder(folder.resolve())
        return {
            "name": _name_of(Path(program[-1] if len(program) == 1 else program[1]).stem),
            "command": {"argv": program, "bundle": bundle.digest},
        }, bundle
    if target is None:
        raise errors.InvalidRequestError(
            "nothing to run",
            hint="give FILE.yaml, MODULE:FUNCTION, or a program after --; see --help",
        )
    if target.endswith((".yaml", ".yml", ".json")):
        import yaml

        try:
            spec = yaml.safe_load(Path(target).read_text())
        except (OSError, yaml.YAMLError) as exc:
            raise errors.InvalidRequestError(f"{target} cannot be read as a job spec: {exc}") from exc
        if not isinstance(spec, dict):
            raise errors.InvalidRequestError(f"{target} is not a job spec", hint="write JobSpec fields")
        return spec, None
    module, sign, qualname = target.partition(":")
    if not sign:
        raise errors.InvalidRequestError(
            f"'{target}' is neither a YAML file nor MODULE:FUNCTION", hint="a program goes after --"
        )
    bundle = bundle_folder(folder.resolve())
    try:
        values = [json.loads(a) for a in args]
    except ValueError as exc:
        raise errors.InvalidRequestError(f"an --arg is not JSON: {exc}", hint="quote texts: --arg '\"text\"'") from exc
    function = {"module": module, "qualname": qualname, "bundle": bundle.digest, "args": values}
    return {"name": _name_of(qualname.rpartition(".")[2]), "function": function}, bundle


def _name_of(text: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in text.lower()).strip("-")[:63] or "job"
