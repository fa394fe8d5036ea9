"""The job of this example that is a plain Python function; the rest are algorithms of the catalogue."""

from __future__ import annotations

from typing import TYPE_CHECKING

import factory

if TYPE_CHECKING:
    from factory.worker.context import JobContext

__all__ = ["prepare"]


@factory.job(cpu=1, memory="1GiB", name="footfall-prepare")
def prepare(ctx: JobContext) -> dict[str, int]:
    """Read the quarantined table with the purpose `repair`, and write what can be trusted."""
    from examples.footfall.prepare import repair

    raw = ctx.read("raw")
    ctx.log(f"read {len(raw):,} rows as published")
    ctx.progress(0.3, "repairing")
    clean = repair(raw)
    sensors = [column for column in clean.columns if column != "stamp"]
    ctx.log(f"kept {len(clean):,} hours of {len(sensors)} sensors; {int(clean[sensors].isna().sum().sum()):,} nulls")
    ctx.progress(0.6, "writing")
    ctx.write("clean", clean)
    return {"rows": len(clean), "sensors": len(sensors)}
