"""The asyncio proxy's data plane: HTTP/1.1 in, a replica chosen, bytes passed on as they come.

Same behaviour as the HAProxy configuration beside it (answers, keys, replays, drain). Framing is h11's, on both sides:
what a request is must not be a matter of opinion between us and the replica.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import re
import secrets
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import h11

from factory.runner.ingress.answers import (
    BAD_GATEWAY,
    BAD_REQUEST,
    GATEWAY_TIMEOUT,
    INGRESS_HEADER,
    NO_KEY,
    NO_SERVER,
    NOT_FOUND,
    PROBLEM_TYPE,
    REQUEST_TIMEOUT,
    TOO_LARGE,
    WRONG_KEY,
    Answer,
    route_key,
)
from factory.serving.ports import IngressState, Server

__all__ = ["ProxyServer"]

_CONNECT_S = 1.0
_REQUEST_S = 60.0  # between two pieces of a request
_IDLE_S = 75.0  # a client's connection without a request
_ANSWER_S = 300.0  # between two pieces of an answer
_POOLED_S = 5.0  # a replica's connection without a request; replicas keep them longer (worker/serving.py)
_PROBE_S = 0.5
_REPLAY_BYTES = 65536  # as HAProxy's tune.bufsize
_HEAD_BYTES = 65536
_TRIES = 3
_DISCARD_BYTES = 1 << 20  # of a refused request's body, to keep its connection
_BEARER = re.compile(rb"(?i)bearer +([\x21-\x7e]{1,512}) *")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{8,64}")
_PATH = re.compile(rb"/([^/?#]*)/([^/?#]*)(?:/([^#]*)|(\?[^#]*)|())")
_HOP = {
    b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te", b"trailer",
    b"transfer-encoding", b"upgrade",
}  # fmt: skip
_PRIVATE = {b"authorization", b"x-request-id", b"expect", INGRESS_HEADER.encode()}
_log = logging.getLogger(__name__)


class _NoAnswerError(Exception):
    """The replica's connection failed or ended before any of its answer came: another may be asked."""


class _ClientGoneError(Exception):
    """The client's connection failed in the middle of its request."""


class _AnswerError(Exception):
    """Answer this instead of a replica."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.detail)
        self.answer = answer


class _Peer:
    """One HTTP/1.1 connection, to a client or to a replica."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_client: bool) -> None:
        self.http = h11.Connection(h11.SERVER if is_client else h11.CLIENT, max_incomplete_event_size=_HEAD_BYTES)
        self.reader = reader
        self.writer = writer
        self.idle_since = 0.0

    async def receive(self, timeout_s: float) -> object:
        """Return the next event of h11 (or its PAUSED). Raises: TimeoutError, OSError, h11.RemoteProtocolError."""
        while (event := self.http.next_event()) is h11.NEED_DATA:
            if self.http.they_are_waiting_for_100_continue:
                await self.send(h11.InformationalResponse(status_code=100, headers=[]))
            async with asyncio.timeout(timeout_s):
                self.http.receive_data(await self.reader.read(1 << 16))
        return event

    async def send(self, *events: h11.Event) -> None:
        data = b"".join(self.http.send(event) or b"" for event in events)
        if data:
            self.writer.write(data)
            async with asyncio.timeout(_REQUEST_S):
                await self.writer.drain()

    def close(self) -> None:
        self.writer.close()

    def abort(self) -> None:
        self.writer.transport.abort()


@dataclass(eq=False)
class _Upstream:
    """A replica, as seen from here."""

    server: Server
    in_flight: int = 0
    is_down: bool = False
    credit: int = 0  # of smooth weighted round robin
    pool: deque[_Peer] = field(default_factory=deque)

    @property
    def takes_requests(self) -> bool:
        return not self.server.draining and self.server.weight > 0 and not self.is_down


@dataclass
class _Inbound:
    """A request as far as it was read."""

    head: h11.Request
    route: list[_Upstream]
    target: bytes
    request_id: bytes
    body: list[h11.Data]
    is_whole: bool  # body holds all of it, so it can be sent again


class ProxyServer:
    """Routes, keys and connections. All in one event loop."""

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()
        self._keys: dict[str, str] = {}
        self._routes: dict[str, list[_Upstream]] = {}
        self._leaving: list[_Upstream] = []  # no longer in a route, and not yet idle
        self._tasks: set[asyncio.Task[None]] = set()

    def apply(self, state: IngressState) -> None:
        """Take over a state; replicas that stay keep their connections and counts."""
        self._keys = dict(state.keys)
        known = {(key, up.server.name): up for key, route in self._routes.items() for up in route}
        routes: dict[str, list[_Upstream]] = {}
        for route in state.routes:
            key = route_key(route.tenant, route.endpoint)
            routes[key] = []
            for server in route.servers:
                upstream = known.get((key, server.name))
                if upstream is None or (upstream.server.host, upstream.server.port) != (server.host, server.port):
                    upstream = _Upstream(server)
                else:
                    del known[(key, server.name)]
                upstream.server = server
                routes[key].append(upstream)
        self._routes = routes
        self._leaving = [up for up in (*self._leaving, *known.values()) if up.in_flight]
        for upstream in known.values():
            upstream.is_down = True  # whoever still holds its route must not choose it
            _close_pool(upstream)

    def in_flight(self, server: str) -> int:
        """Requests that a replica is working on."""
        everyone = [up for route in self._routes.values() for up in route] + self._leaving
        return sum(up.in_flight for up in everyone if up.server.name == server)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client connection until it ends."""
        client = _Peer(reader, writer, is_client=True)
        try:
            while await self._exchange(client):
                client.http.start_next_cycle()
            client.close()
        except h11.RemoteProtocolError as exc:
            await _refuse(client, TOO_LARGE if exc.error_status_hint == 431 else BAD_REQUEST)
        except TimeoutError:
            await _refuse(client, REQUEST_TIMEOUT)
        except (OSError, _ClientGoneError, h11.LocalProtocolError, asyncio.CancelledError):
            client.abort()  # cancelled: the process ends, and nobody awaits this task

    async def _exchange(self, client: _Peer) -> bool:
        """One request and its answer; False when the connection is over."""
        try:
            head = await client.receive(_IDLE_S)
        except TimeoutError:
            return False
        if not isinstance(head, h11.Request):
            return False
        request_id = _given(head, b"x-request-id", _REQUEST_ID) or secrets.token_hex(8).encode()
        try:
            route, target = self._admit(head)
            inbound = await _read_request(client, head, route, target, request_id)
            await self._relay(client, inbound)
        except _AnswerError as exc:
            has_body_coming = not client.http.they_are_waiting_for_100_continue
            await _send_answer(client, exc.answer, request_id)
            if has_body_coming:
                await _discard(client)
        return client.http.our_state is h11.DONE and client.http.their_state is h11.DONE

    def _admit(self, head: h11.Request) -> tuple[list[_Upstream], bytes]:
        """Return where a request goes and as what. Raises: _AnswerError: nowhere."""
        key = _given(head, b"authorization", _BEARER)
        if key is None:
            raise _AnswerError(NO_KEY)
        owner = self._keys.get(hashlib.sha256(key).hexdigest())
        if owner is None:
            raise _AnswerError(WRONG_KEY)
        match = _PATH.fullmatch(head.target)
        if match is None:
            raise _AnswerError(NOT_FOUND)
        tenant = match[1].decode("latin-1")
        route = self._routes.get(route_key(tenant, match[2].decode("latin-1")))
        if route is None or owner not in ("*", tenant):
            raise _AnswerError(NOT_FOUND)
        if not any(up.takes_requests for up in route):
            raise _AnswerError(NO_SERVER)
        return route, b"/" + (match[3] or match[4] or b"")

    # -- to the replica ----------------------------------------------------------------------------------------------

    async def _relay(self, client: _Peer, inbound: _Inbound) -> None:
        tried: list[_Upstream] = []
        for left in reversed(range(_TRIES)):
            upstream = _choose(inbound.route, tried)
            tried.append(upstream)
            with _counted(upstream):
                try:
                    peer, is_fresh = await self._connection(upstream)
                except _NoAnswerError:
                    continue
                try:
                    if await self._pass_on(client, inbound, upstream, peer, may_refuse=left > 0):
                        return
                except _NoAnswerError:
                    peer.abort()
                    _close_pool(upstream)
                    if is_fresh:
                        self._mark_down(upstream)
                    else:
                        tried.pop()  # it may only have closed an idle connection
                    if not inbound.is_whole:
                        raise _AnswerError(BAD_GATEWAY) from None
                except BaseException:
                    peer.abort()
                    raise
        raise _AnswerError(NO_SERVER if not any(up.takes_requests for up in inbound.route) else BAD_GATEWAY)

    async def _pass_on(
        self, client: _Peer, inbound: _Inbound, upstream: _Upstream, peer: _Peer, *, may_refuse: bool
    ) -> bool:
        """Send the request, pass the answer on; False: it answered 503 and another may be asked."""
        response = await self._ask(client, inbound, peer)
        if response.status_code == 503 and may_refuse and inbound.is_whole:
            peer.close()
            return False
        headers = [(n, v) for n, v in response.headers if n not in _HOP and n != b"x-request-id"]
        headers.append((b"x-request-id", inbound.request_id))
        await client.send(h11.Response(status_code=response.status_code, headers=headers))
        while not isinstance(event := await _answer_event(peer), h11.EndOfMessage):
            if not isinstance(event, h11.Data):
                raise ConnectionError("the replica ended in the middle of its answer")
            await client.send(event)
        await client.send(h11.EndOfMessage())
        self._keep(upstream, peer)
        return True

    async def _ask(self, client: _Peer, inbound: _Inbound, peer: _Peer) -> h11.Response:
        """Send the request; return the head of the answer. Raises: _NoAnswerError."""
        headers = [(n, v) for n, v in inbound.head.headers if n not in _HOP and n not in _PRIVATE]
        if any(n == b"transfer-encoding" for n, _ in inbound.head.headers):
            headers.append((b"transfer-encoding", b"chunked"))
        headers.append((b"x-request-id", inbound.request_id))
        if self._secret:
            headers.append((INGRESS_HEADER.encode(), self._secret))
        request = h11.Request(method=inbound.head.method, target=inbound.target, headers=headers)
        try:
            await peer.send(request, *inbound.body, *((h11.EndOfMessage(),) if inbound.is_whole else ()))
            if not inbound.is_whole:
                await _stream_body(client, peer)
            while True:
                event = await peer.receive(_ANSWER_S)
                if isinstance(event, h11.Response):
                    return event
                if not isinstance(event, h11.InformationalResponse):
                    raise _NoAnswerError
        except TimeoutError:
            raise _AnswerError(GATEWAY_TIMEOUT) from None
        except (OSError, h11.RemoteProtocolError) as exc:
            raise _NoAnswerError from exc

    async def _connection(self, upstream: _Upstream) -> tuple[_Peer, bool]:
        """Return a connection to a replica, and whether it is new. Raises: _NoAnswerError."""
        now = time.monotonic()
        while upstream.pool:
            peer = upstream.pool.pop()
            if now - peer.idle_since < _POOLED_S and not peer.reader.at_eof() and not peer.writer.is_closing():
                return peer, False
            peer.close()
        try:
            async with asyncio.timeout(_CONNECT_S):
                reader, writer = await asyncio.open_connection(upstream.server.host, upstream.server.port)
        except (OSError, TimeoutError) as exc:
            self._mark_down(upstream)
            raise _NoAnswerError from exc
        return _Peer(reader, writer, is_client=False), True

    def _keep(self, upstream: _Upstream, peer: _Peer) -> None:
        if upstream.takes_requests and peer.http.our_state is h11.DONE and peer.http.their_state is h11.DONE:
            peer.http.start_next_cycle()
            peer.idle_since = time.monotonic()
            upstream.pool.append(peer)
        else:
            peer.close()

    def _mark_down(self, upstream: _Upstream) -> None:
        """Choose others until it takes connections again."""
        if upstream.is_down:
            return
        upstream.is_down = True
        _log.warning("replica does not answer", extra={"event": "ingress.down", "server": upstream.server.name})
        task = asyncio.get_running_loop().create_task(self._probe(upstream))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _probe(self, upstream: _Upstream) -> None:
        while any(upstream in route for route in self._routes.values()):
            await asyncio.sleep(_PROBE_S)
            try:
                async with asyncio.timeout(_CONNECT_S):
                    _, writer = await asyncio.open_connection(upstream.server.host, upstream.server.port)
            except (OSError, TimeoutError):
                continue
            writer.close()
            upstream.is_down = False
            return


@contextlib.contextmanager
def _counted(upstream: _Upstream) -> Iterator[None]:
    upstream.in_flight += 1
    try:
        yield
    finally:
        upstream.in_flight -= 1


def _close_pool(upstream: _Upstream) -> None:
    while upstream.pool:
        upstream.pool.pop().close()


def _choose(route: list[_Upstream], tried: list[_Upstream]) -> _Upstream:
    """Smooth weighted round robin (as nginx) over those that take requests, untried ones first."""
    usable = [up for up in route if up.takes_requests]
    candidates = [up for up in usable if up not in tried] or usable
    if not candidates:
        raise _AnswerError(NO_SERVER)
    for upstream in candidates:
        upstream.credit += upstream.server.weight
    chosen = max(candidates, key=lambda up: up.credit)
    chosen.credit -= sum(up.server.weight for up in candidates)
    return chosen


async def _read_request(
    client: _Peer, head: h11.Request, route: list[_Upstream], target: bytes, request_id: bytes
) -> _Inbound:
    """Read the body as far as it may be kept for a replay."""
    body: list[h11.Data] = []
    size = 0
    while size <= _REPLAY_BYTES:
        event = await client.receive(_REQUEST_S)
        if not isinstance(event, h11.Data):
            return _Inbound(head, route, target, request_id, body, isinstance(event, h11.EndOfMessage))
        body.append(event)
        size += len(event.data)
    return _Inbound(head, route, target, request_id, body, False)


async def _stream_body(client: _Peer, peer: _Peer) -> None:
    """Pass the rest of a large body on as it comes; the client's failures stay the client's."""
    while True:
        try:
            event = await client.receive(_REQUEST_S)
        except TimeoutError:
            raise _AnswerError(REQUEST_TIMEOUT) from None
        except (OSError, h11.RemoteProtocolError) as exc:
            raise _ClientGoneError from exc
        if isinstance(event, h11.Data):
            await peer.send(event)
        else:
            await peer.send(h11.EndOfMessage())
            return


async def _answer_event(peer: _Peer) -> object:
    try:
        return await peer.receive(_ANSWER_S)
    except (TimeoutError, h11.RemoteProtocolError) as exc:
        raise ConnectionError("the replica ended in the middle of its answer") from exc


def _given(head: h11.Request, name: bytes, pattern: re.Pattern[bytes]) -> bytes | None:
    """Return the value of a header if it is there and has the form."""
    for header, value in head.headers:
        if header == name and (match := pattern.fullmatch(value)):
            return match[match.lastindex or 0]
    return None


async def _send_answer(client: _Peer, answer: Answer, request_id: bytes) -> None:
    body = answer.body(request_id.decode()).encode()
    headers = [*answer.headers(), ("content-type", PROBLEM_TYPE), ("content-length", str(len(body)))]
    headers.append(("x-request-id", request_id.decode()))
    response = h11.Response(status_code=answer.status, headers=headers)
    await client.send(response, h11.Data(data=body), h11.EndOfMessage())


async def _refuse(client: _Peer, answer: Answer) -> None:
    """Answer what cannot be read, if an answer is still possible, and close."""
    with contextlib.suppress(OSError, h11.LocalProtocolError):
        await _send_answer(client, answer, secrets.token_hex(8).encode())
    client.close()


async def _discard(client: _Peer) -> None:
    """Read away the body of a refused request, so that its connection serves the next one; not if it is large."""
    size = 0
    while client.http.their_state is h11.SEND_BODY and size < _DISCARD_BYTES:
        event = await client.receive(_REQUEST_S)
        size += len(event.data) if isinstance(event, h11.Data) else 0
