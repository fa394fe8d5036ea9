"""`factory status`."""

from __future__ import annotations

from factory.cli.output import console, emit_json, is_json, show_pairs, show_table, state_text

__all__ = ["status"]


def status() -> None:
    """How the factory is: its parts, slots and jobs."""
    from factory.sdk.client import Client

    view = Client().status()
    if is_json():
        emit_json(view)
        return
    jobs = ", ".join(f"{count} {state}" for state, count in sorted(view.jobs.items()) if count) or "none"
    show_pairs(
        [
            ("factory", f"{view.url}  (release {view.release})"),
            ("mlflow", view.mlflow_uri),
            ("slots", f"{view.used_slots:g} of {view.slots:g} in use"),
            ("jobs", jobs),
        ]
    )
    console.print()
    show_table(
        ("PART", "STATE", "DETAIL*"),
        [(c.name, state_text(c.state), c.detail) for c in view.components],
        empty="no parts",
    )
