"""What one server process has beside the control plane: wakes, logs, MLflow's proxy, and how its threads are."""

from __future__ import annotations

from dataclasses import dataclass, field

from fastapi import Request

from factory.api.logbook import LogBook
from factory.api.mlflow_proxy.proxy import MlflowProxy
from factory.api.uploading import Uploads
from factory.api.wakes import Bell, Hub
from factory.bootstrap import ControlPlane

__all__ = ["LoopPulse", "Serving", "plane_of", "serving_of"]


@dataclass(slots=True)
class LoopPulse:
    """How the control loop's thread is; written by it, read by /readyz. Times are monotonic seconds."""

    started_at: float | None = None
    turned_at: float | None = None  # end of the last turn that did not raise
    leading: bool = False
    epoch: int | None = None
    not_projected: tuple[str, ...] = ()  # what MLflow would not take, with why
    error: str = ""  # of the last turn that raised; "" once one succeeds


@dataclass(slots=True)
class Serving:
    """Attached to the application as `app.state.serving`."""

    plane: ControlPlane
    hub: Hub
    logs: LogBook
    mlflow: MlflowProxy | None
    port: int = 0
    pulse: LoopPulse = field(default_factory=LoopPulse)
    draining: bool = False  # told to end: takes no new calls
    in_flight: int = 0  # calls being answered
    # bodies that arrive slowly hold a thread each: they must not take those that answer everybody else
    uploads: Uploads = field(default_factory=Uploads)
    projection_bell: Bell = field(default_factory=Bell)

    @property
    def url(self) -> str:
        """The address that users and nodes reach this server by."""
        return self.plane.settings.url(self.port)

    @property
    def mlflow_uri(self) -> str:
        """The tracking URI for MLflow clients; "" without MLflow."""
        return f"{self.url}/mlflow" if self.mlflow is not None else ""


def serving_of(request: Request) -> Serving:
    """Return the server process's parts."""
    return request.app.state.serving


def plane_of(request: Request) -> ControlPlane:
    """Return the control plane that serves the request."""
    return serving_of(request).plane
