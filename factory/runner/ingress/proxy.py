"""The ingress as a small asyncio proxy, for machines without HAProxy: same behaviour, half again the CPU per request.

A process of its own (`python -m factory.runner.ingress.proxy --folder …`), so that it outlives the runner. It reads
`proxy.json` and the last state from its folder and takes new states on a socket there, one JSON value per line.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import importlib.util
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import factory
from factory.errors import ConfigurationError, UnavailableError
from factory.runner.ingress.answers import decode_state, encode_state, sound
from factory.runner.ingress.process import Generation, IngressFolder, IngressProcess
from factory.serving.ports import IngressState

__all__ = ["ProxyIngress", "main"]

_START_S = 20.0
_LINE_BYTES = 64 << 20  # of a state
_SETTINGS = "proxy.json"
_log = logging.getLogger(__name__)


class ProxyIngress:
    """Satisfies `serving.ports.Ingress`. One object at a time drives a folder; safe to use from several threads."""

    def __init__(
        self,
        folder: Path,
        port: int,
        host: str = "127.0.0.1",
        env: Mapping[str, str] = MappingProxyType({}),
        *,
        secret: str = "",
    ) -> None:
        """Args: as of HaproxyIngress."""
        self._host, self._port, self._secret = host, port, secret
        self._folder = IngressFolder(folder)
        self._process = IngressProcess(self._folder, env)
        self._lock = threading.RLock()

    @property
    def pid(self) -> int | None:
        """The process that serves now."""
        current = self._process.current
        return current.pid if current else None

    def start(self) -> str:
        """Start the process with the last state known, or adopt a running one; return the base URL."""
        with self._lock:
            self._folder.make()
            self._process.sweep()
            self._ensure()
            return f"http://{self._host}:{self._port}"

    def apply(self, state: IngressState) -> None:
        """Make it so. Raises: UnavailableError: the process does not answer; apply again."""
        with self._lock:
            state = sound(state)
            self._folder.make()
            self._folder.save_state(state)
            _ask(self._ensure(), {"do": "apply", "state": encode_state(state)})

    def is_alive(self) -> bool:
        """True if the process runs and answers."""
        current = self._process.current
        return current is not None and _answers(current)

    def in_flight(self, server: str) -> int:
        """Requests that a server is working on. Raises: UnavailableError: the process does not answer."""
        current = self._process.current
        return int(_ask(current, {"do": "count", "server": server})) if current else 0

    def stop(self) -> None:
        """End every process of this folder."""
        with self._lock:
            self._process.end_all()

    def _ensure(self) -> Generation:
        settings = {"host": self._host, "port": self._port, "secret": self._secret, "release": factory.__version__}
        fingerprint = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]
        current = self._process.current
        if current is not None and (current.fingerprint != fingerprint or not _answers(current)):
            _log.warning("the proxy is not as it should be; replacing it", extra={"event": "ingress.replaced"})
            self._process.kill_current()
            current = None
        if current is not None:
            return current
        self._folder.write(_SETTINGS, json.dumps(settings))
        control = self._process.next_control()
        argv = [sys.executable, "-m", "factory.runner.ingress.proxy", "--folder", str(self._folder.path)]
        made = self._process.launch([*argv, "--control", str(control)], fingerprint, control, succeeds=None)
        deadline = time.monotonic() + _START_S
        while not _answers(made):
            if not made.is_alive or time.monotonic() > deadline:
                self._process.undo(made, None)
                raise ConfigurationError(
                    f"the proxy does not start on {self._host}:{self._port}", hint=self._process.log_tail()
                )
            time.sleep(0.01)
        _log.info("proxy started", extra={"event": "ingress.started", "pid": made.pid})
        return made


def _ask(generation: Generation, question: dict[str, Any], timeout_s: float = 5.0) -> Any:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout_s)
            connection.connect(generation.control)
            connection.sendall(json.dumps(question).encode() + b"\n")
            with connection.makefile("rb") as answers:
                return json.loads(answers.readline())
    except (OSError, ValueError) as exc:
        raise UnavailableError(f"the proxy does not answer: {exc}") from exc


def _answers(generation: Generation) -> bool:
    try:
        return _ask(generation, {"do": "pid"}, timeout_s=2) == generation.pid
    except UnavailableError:
        return False


# -- the process -----------------------------------------------------------------------------------------------------


async def _serve(folder: IngressFolder, control: Path) -> None:
    from factory.runner.ingress.proxy_server import ProxyServer  # the adapter's side needs no h11

    settings = json.loads((folder.path / _SETTINGS).read_text(encoding="utf-8"))
    server = ProxyServer(settings["secret"])
    server.apply(folder.load_state())

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(OSError, ValueError):
            question = json.loads(await reader.readline())
            said: Any = None
            match question["do"]:
                case "pid":
                    said = os.getpid()
                case "apply":
                    server.apply(decode_state(question["state"]))
                case "count":
                    said = server.in_flight(question["server"])
                case unknown:
                    raise ValueError(unknown)
            writer.write(json.dumps(said).encode() + b"\n")
            await writer.drain()

    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    listener = await asyncio.start_server(server.serve, settings["host"], settings["port"], backlog=1024)
    admin = await asyncio.start_unix_server(answer, control, limit=_LINE_BYTES)
    try:
        await ended.wait()
    finally:
        admin.close()
        listener.close()


def main() -> None:
    """Run the proxy of a folder until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m factory.runner.ingress.proxy", description=main.__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="of the ingress; its settings are there")
    parser.add_argument("--control", type=Path, required=True, help="path of the socket to take orders on")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    os.umask(0o077)
    new_loop = asyncio.new_event_loop
    if importlib.util.find_spec("uvloop") is not None:
        import uvloop

        new_loop = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(_serve(IngressFolder(arguments.folder), arguments.control))


if __name__ == "__main__":
    main()
