"""Keeps the ingress as it is desired: a thread that applies each new wish, and again after any death."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from factory.domain.ids import EndpointName, TenantId
from factory.runner.ray_process import free_port
from factory.schemas.runner import DesiredReply, IngressWire
from factory.serving.ports import Ingress, IngressState, Route, Server
from factory.worker.folders import read_json, write_durably

__all__ = ["IngressKeeper", "ingress_port", "state_of"]

log = logging.getLogger(__name__)

_CHECK_S = 1.0


def ingress_port(folder: Path, wanted: int) -> int:
    """Return the port to listen on: the wanted one, else one that is chosen once and kept."""
    if wanted:
        return wanted
    stored = read_json(folder / "port.json") or {}
    port = stored.get("port")
    if not isinstance(port, int):
        port = free_port()
        write_durably(folder / "port.json", {"port": port})
    return port


def state_of(wire: IngressWire) -> IngressState:
    """Return the wish as the ingress port takes it."""
    routes = tuple(
        Route(
            TenantId(route.tenant),
            EndpointName(route.endpoint),
            tuple(
                Server(s.name, s.host, s.port, s.weight, s.draining)
                for s in sorted(route.servers, key=lambda s: s.name)
            ),
        )
        for route in sorted(wire.routes, key=lambda r: (r.tenant, r.endpoint))
    )
    return IngressState(routes, tuple(sorted(wire.keys.items())))


class IngressKeeper:
    """Owns one ingress; failures are logged and tried again, they never end the runner."""

    def __init__(self, ingress: Ingress) -> None:
        self._ingress = ingress
        self._lock = threading.Condition()
        self._wish: IngressState | None = None
        self._applied: IngressState | None = None
        self._is_closed = False
        self._thread = threading.Thread(target=self._keep, name="factory-ingress", daemon=True)

    def start(self) -> str:
        """Start or adopt the ingress's process; return its address."""
        url = self._ingress.start()
        self._thread.start()
        return url

    def wish(self, reply: DesiredReply | None) -> None:
        """Make it so, in the background."""
        if reply is None:
            return
        with self._lock:
            self._wish = state_of(reply.ingress)
            self._lock.notify_all()

    def leave(self) -> None:
        """Stop keeping; the process goes on, for the runner that follows."""
        with self._lock:
            self._is_closed = True
            self._lock.notify_all()
        self._thread.join(10)

    def stop(self) -> None:
        """End it."""
        self.leave()
        self._ingress.stop()

    def _keep(self) -> None:
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._is_closed or self._wish != self._applied, _CHECK_S)
                if self._is_closed:
                    return
                wish = self._wish
            try:
                if wish is not None and (wish != self._applied or not self._ingress.is_alive()):
                    self._ingress.apply(wish)
                    self._applied = wish
                elif wish is None and not self._ingress.is_alive():
                    self._ingress.start()
            except Exception as exc:  # the loop's edge: whatever is wrong with it, the next turn tries again
                log.warning("the ingress is not as desired yet: %s", exc, extra={"event": "ingress.failed"})
                with self._lock:
                    self._lock.wait_for(lambda: self._is_closed, _CHECK_S)
