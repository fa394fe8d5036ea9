"""How the factory is: readiness for load balancers, and the parts for people."""

from __future__ import annotations

import time
from dataclasses import dataclass

from factory import __version__
from factory.api.serving import Serving
from factory.domain.pools import NodeState
from factory.domain.tenancy import PLATFORM, Principal
from factory.errors import FactoryError
from factory.schemas.platform import ComponentView, StatusView

__all__ = ["Health", "health_of", "status_view"]


@dataclass(frozen=True, slots=True)
class Health:
    """Whether this process should get traffic, and each part's state."""

    is_ready: bool
    components: tuple[ComponentView, ...]

    def body(self) -> dict[str, object]:
        """The JSON of /readyz."""
        parts = {c.name: {"state": c.state, "detail": c.detail} for c in self.components}
        return {"ready": self.is_ready, "release": __version__, "components": parts}


def health_of(serving: Serving) -> Health:
    """Look at the database and the loop (they decide), runners and MLflow (they are shown only)."""
    database, runners = _database(serving)
    leader = _leader(serving)
    parts = [database, leader]
    if serving.draining:
        parts.append(ComponentView(name="server", state="down", detail="drains: it was told to end"))
    is_ready = all(c.state == "ok" for c in parts)
    return Health(is_ready, (*parts, *runners, _mlflow(serving)))


def status_view(serving: Serving, principal: Principal) -> StatusView:
    """Return what `factory status` shows to this caller."""
    plane = serving.plane
    health = health_of(serving)

    jobs = plane.store.read(lambda tx: tx.count_jobs(principal.scope))
    pools = plane.pools.list_pools(principal)
    return StatusView(
        release=__version__,
        url=serving.url,
        mlflow_uri=serving.mlflow_uri,
        components=health.components,
        jobs={state.value: count for state, count in sorted(jobs.items())},
        slots=sum(p.slots for p in pools),
        used_slots=sum(p.used_slots for p in pools),
    )


def _database(serving: Serving) -> tuple[ComponentView, tuple[ComponentView, ...]]:
    plane = serving.plane
    try:
        runners, nodes = plane.store.read(lambda tx: (tx.runners(PLATFORM), tx.nodes(PLATFORM)))
    except FactoryError as exc:
        return ComponentView(name="database", state="down", detail=exc.message), ()
    shown: list[ComponentView] = []
    now = plane.clock.now()
    for runner in runners:
        silent_s = max(0, now - runner.seen_at) / 1000
        ready = sum(1 for n in nodes if n.runner == runner.id and n.state is NodeState.READY)
        silent = silent_s > plane.settings.runner_silence_s
        state = "down" if silent else "ok" if ready else "starting"
        detail = f"not heard for {silent_s:.0f} s" if silent else f"{ready} nodes ready, Ray {runner.ray_version}"
        shown.append(ComponentView(name=f"runner/{runner.id}", state=state, detail=detail))
        if runner.ingress_url:
            shown.append(ComponentView(name="ingress", state="down" if silent else "ok", detail=runner.ingress_url))
    if not runners:
        shown.append(ComponentView(name="runner", state="starting", detail="none has joined yet"))
    return ComponentView(name="database", state="ok", detail=plane.database), tuple(shown)


def _leader(serving: Serving) -> ComponentView:
    pulse, stall_s = serving.pulse, serving.plane.settings.loop_stall_s
    if pulse.turned_at is None:
        state = "down" if pulse.error else "starting"
        return ComponentView(name="leader", state=state, detail=pulse.error or "the control loop has not turned yet")
    age = time.monotonic() - pulse.turned_at
    if age > stall_s:
        why = pulse.error or "it is busy or stuck"
        return ComponentView(name="leader", state="down", detail=f"the control loop last turned {age:.0f} s ago: {why}")
    detail = f"leads, epoch {pulse.epoch}" if pulse.leading else "follows"
    return ComponentView(name="leader", state="ok", detail=detail)


def _mlflow(serving: Serving) -> ComponentView:
    if serving.mlflow is None:
        return ComponentView(name="mlflow", state="down", detail="not configured")
    up = serving.mlflow.seen_up
    state = "starting" if up is None else "ok" if up else "down"
    refused = serving.pulse.not_projected
    detail = f"{len(refused)} model versions refused: {refused[0]}" if refused else serving.mlflow_uri
    return ComponentView(name="mlflow", state=state, detail=detail)
