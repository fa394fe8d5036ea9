"""Small real HTTP servers and clients that the ingress suite and the endpoint tests drive."""

from __future__ import annotations

import http.client
import json
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from factory.serving.ports import Server

__all__ = ["Load", "Replica", "Reply", "ask"]

_PATIENCE_S = 10.0


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, read whole."""

    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


def ask(
    connection: http.client.HTTPConnection,
    path: str,
    key: str | None,
    *,
    method: str = "POST",
    body: bytes | Iterator[bytes] | None = b"{}",
) -> Reply:
    """Send one request on a connection that stays open; an iterator as body goes chunked."""
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    connection.request(method, path, body, headers, encode_chunked=True)
    response = connection.getresponse()
    return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())


class Replica:
    """A server that answers with its name; its requests can be held, counted, refused, and it can die at once."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.seen: list[Seen] = []
        self.is_full = False  # answers 503
        self._changed = threading.Condition()
        self._held: threading.Event | None = None
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.replica = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def server(self, *, weight: int = 100, draining: bool = False) -> Server:
        """Return it as the ingress is told of it."""
        return Server(self.name, "127.0.0.1", self._server.server_port, weight, draining)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Requests that arrive inside the block are answered when it ends."""
        self._held = threading.Event()
        try:
            yield
        finally:
            self._held.set()
            self._held = None

    def wait_for(self, count: int) -> None:
        """Wait until so many requests have arrived in all."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.seen) >= count, _PATIENCE_S), f"{self.name} got no request"

    def die(self) -> None:
        """As kill -9: the port refuses, open connections are reset."""
        self._server.shutdown()
        self._server.socket.close()
        self._server.reset_all()

    def close(self) -> None:
        """End it."""
        self.die()
        self._thread.join(_PATIENCE_S)

    def arrived(self, seen: Seen) -> None:
        """Note a request and hold it if that is asked for."""
        with self._changed:
            self.seen.append(seen)
            held = self._held
            self._changed.notify_all()
        if held is not None:
            held.wait(_PATIENCE_S)


@dataclass(frozen=True, slots=True)
class Seen:
    """A request as a replica saw it."""

    method: str
    path: str
    headers: dict[str, str]  # names in lower case
    body: bytes


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    replica: Replica

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._open: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def reset_all(self) -> None:
        for connection in list(self._open):
            try:
                # closing with a linger of 0 seconds sends a reset, as the kernel does for a killed process
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Connections end as they like here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _answer(self) -> None:
        assert isinstance(self.server, _Server)
        replica = self.server.replica
        body = self._body()
        status = 200
        content = json.dumps({"replica": replica.name}).encode()
        if self.path == "/v2/health/ready":
            content = b'{"ready":true}'
        else:
            seen = Seen(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body)
            replica.arrived(seen)
            status = 503 if replica.is_full else 200
        if self.path.startswith("/v2/echo"):
            pieces = b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in _pieces(body))
            answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + pieces + b"0\r\n\r\n"
        else:
            head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
            answer = head.encode() + content
        self.wfile.write(answer)

    do_GET = do_POST = _answer  # noqa: N815 - http.server's names

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding", "") != "chunked":
            return self.rfile.read(int(self.headers.get("content-length", "0")))
        parts: list[bytes] = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""


def _pieces(body: bytes) -> Iterator[bytes]:
    for start in range(0, len(body), 10_000):
        yield body[start : start + 10_000]


@dataclass
class Load:
    """Clients that send one request after the other, each on its own connection, while the block runs."""

    url: str
    path: str
    key: str
    clients: int = 3
    failures: list[str] = field(default_factory=list[str])
    done: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _threads: list[threading.Thread] = field(default_factory=list[threading.Thread])

    def __enter__(self) -> Load:
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(_PATIENCE_S)

    def wait_for_more(self, count: int) -> None:
        """Wait until so many more requests were answered."""
        with self._changed:
            goal = self.done + count
            assert self._changed.wait_for(lambda: self.done >= goal, _PATIENCE_S), "the load stands still"

    def _run(self) -> None:
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=_PATIENCE_S)
        while not self._stop.is_set():
            try:
                reply = ask(connection, self.path, self.key)
                failure = "" if reply.status == 200 else f"{reply.status} {reply.body[:200]!r}"
            except (OSError, http.client.HTTPException) as exc:
                failure = repr(exc)
                connection.close()
            with self._changed:
                self.done += 1
                if failure:
                    self.failures.append(failure)
                self._changed.notify_all()
        connection.close()
