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
from pathlib import Path
from typing import Any

import factory
from factory.errors import UnavailableError
from factory.runner.ingress.answers import decode_state, encode_state
from factory.runner.ingress.driving import DrivenIngress
from factory.runner.ingress.process import Generation, IngressFolder
from factory.serving.ports import IngressState

__all__ = ["ProxyIngress", "main"]

_LINE_BYTES = 64 << 20  # of a state
_SETTINGS = "proxy.json"
_log = logging.getLogger(__name__)


class ProxyIngress(DrivenIngress):
    """Satisfies `serving.ports.Ingress`."""

    what = "the proxy"
    start_s = 20.0

    def in_flight(self, server: str) -> int:
        """Requests that a server is working on. Raises: UnavailableError: the process does not answer."""
        current = self._process.current
        return int(_ask(current, {"do": "count", "server": server})) if current else 0

    def _ensure(self, state: IngressState) -> Generation:
        settings = {"host": self._host, "port": self._port, "secret": self._secret, "release": factory.__version__}
        fingerprint = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]
        current = self._process.current
        if current is not None and (current.fingerprint != fingerprint or not self._answers(current)):
            _log.warning("the proxy is not as it should be; replacing it", extra={"event": "ingress.replaced"})
            self._process.kill_current()
            current = None
        if current is not None:
            return current
        self._folder.write(_SETTINGS, json.dumps(settings))
        control = self._process.next_control()
        argv = [sys.executable, "-m", "factory.runner.ingress.proxy", "--folder", str(self._folder.path)]
        made = self._process.launch([*argv, "--control", str(control)], fingerprint, control, succeeds=None)
        self._wait_for(made, None)
        _log.info("proxy started", extra={"event": "ingress.started", "pid": made.pid})
        return made

    def _tell(self, generation: Generation, state: IngressState) -> None:
        _ask(generation, {"do": "apply", "state": encode_state(state)})

    def _answers(self, generation: Generation) -> bool:
        try:
            return _ask(generation, {"do": "pid"}, timeout_s=2) == generation.pid
        except UnavailableError:
            return False


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
