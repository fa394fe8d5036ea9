"""What every ingress must do: one suite, run on every adapter with real servers behind it.

`factory.runner.ingress` (HAProxy, asyncio proxy) runs it in tests/conformance/test_ingress.py, and so do planted bugs,
which must fail it.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import select
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from factory.domain.ids import EndpointName, TenantId
from factory.serving.ports import Ingress, IngressState, Route, Server
from factory.testing.behaviours import behaviours_of
from factory.testing.replicas import Load, Replica, Reply, ask

__all__ = ["BEHAVIOURS", "SECRET", "IngressSuite", "WatchedIngress", "holds", "is_running", "route", "state"]

SECRET = "conformance-secret"  # what adapters under test must send to replicas  # noqa: S105 - of the tests only
_KEYS = {"mobility-key": "mobility", "energy-key": "energy", "platform-key": "*"}
_PATH = "/mobility/flow/v2/models/flow/infer"


class WatchedIngress(Ingress, Protocol):
    """An adapter whose process the suite may kill."""

    @property
    def pid(self) -> int | None: ...


def holds(behaviour: Callable[[IngressSuite], None], make: Callable[[], WatchedIngress]) -> bool:
    """Run one behaviour on an ingress of its own; True if it holds."""
    suite = IngressSuite(make)
    try:
        behaviour(suite)
    except Exception:  # whatever a broken adapter raises, it has not behaved
        return False
    finally:
        suite._close()
    return True


def route(*servers: Server, tenant: str = "mobility", endpoint: str = "flow") -> Route:
    """Return a route."""
    return Route(TenantId(tenant), EndpointName(endpoint), tuple(sorted(servers, key=lambda s: s.name)))


def state(*routes: Route, without: str = "") -> IngressState:
    """Return a state with the suite's keys."""
    keys = {hashlib.sha256(k.encode()).hexdigest(): t for k, t in _KEYS.items() if k != without}
    return IngressState(routes, tuple(sorted(keys.items())))


def is_running(pid: int) -> bool:
    """True if there is such a process, and it is no zombie."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


class IngressSuite:
    """The behaviours. `make` gives an adapter on the same folder and port each time."""

    def __init__(self, make: Callable[[], WatchedIngress]) -> None:
        self._make = make
        self._ingress = make()
        self._replicas: list[Replica] = []
        self._connections: list[http.client.HTTPConnection] = []
        self._url = self._ingress.start()

    def _close(self) -> None:
        for connection in self._connections:
            connection.close()
        self._make().stop()
        self._ingress.stop()
        for replica in self._replicas:
            replica.close()

    def _replica(self, name: str) -> Replica:
        self._replicas.append(Replica(name))
        return self._replicas[-1]

    def _client(self) -> http.client.HTTPConnection:
        self._connections.append(http.client.HTTPConnection(urlsplit(self._url).netloc, timeout=10))
        return self._connections[-1]

    def _ask(self, path: str = _PATH, key: str | None = "mobility-key") -> Reply:
        return ask(self._client(), path, key)

    def _names(self, count: int) -> list[str]:
        client = self._client()
        return [ask(client, _PATH, "mobility-key").json["replica"] for _ in range(count)]

    def _in_background(self) -> tuple[threading.Thread, list[Reply]]:
        replies: list[Reply] = []

        def ask_once() -> None:
            with contextlib.suppress(OSError, http.client.HTTPException):  # then there is no reply
                replies.append(self._ask())

        thread = threading.Thread(target=ask_once, daemon=True)
        thread.start()
        return thread, replies

    def _kill(self) -> None:
        pid = self._ingress.pid
        assert pid is not None
        pidfd = os.pidfd_open(pid)
        try:
            os.kill(pid, signal.SIGKILL)
            assert select.select([pidfd], [], [], 10)[0], "it survived SIGKILL"
        finally:
            os.close(pidfd)

    # -- routes ------------------------------------------------------------------------------------------------------

    def a_request_reaches_a_replica_with_the_route_cut_off(self) -> None:
        """Method, path, query and body arrive; the caller's key does not, the ingress's secret does."""
        replica = self._replica("job-a.1")
        self._ingress.apply(state(route(replica.server())))
        reply = ask(self._client(), f"{_PATH}?trace=1", "mobility-key", body=b'{"inputs":[]}')
        assert (reply.status, reply.json) == (200, {"replica": "job-a.1"})
        (seen,) = replica.seen
        assert (seen.method, seen.path, seen.body) == ("POST", "/v2/models/flow/infer?trace=1", b'{"inputs":[]}')
        assert "authorization" not in seen.headers
        assert seen.headers["x-factory-ingress"] == SECRET

    def large_bodies_pass_in_both_directions(self) -> None:
        """With a length and in chunks, larger than any buffer."""
        self._ingress.apply(state(route(self._replica("job-a.1").server())))
        client, body = self._client(), bytes(range(256)) * 4096
        for sent in (body, iter([body[:7], body[7:300_000], body[300_000:]])):
            reply = ask(client, "/mobility/flow/v2/echo", "mobility-key", body=sent)
            assert reply.status == 200
            assert reply.body == body

    def a_route_without_servers_says_when_to_come_back(self) -> None:
        """503 as a problem, with Retry-After."""
        self._ingress.apply(state(route()))
        reply = self._ask()
        assert reply.status == 503
        assert reply.headers["content-type"] == "application/problem+json"
        assert int(reply.headers["retry-after"]) > 0
        assert reply.json["code"] == "unavailable"

    def routes_stay_until_they_are_taken_out(self) -> None:
        """Applied again the same state changes nothing; a route that is gone answers 404."""
        one, two = self._replica("job-a.1"), self._replica("job-b.1")
        both = state(route(one.server()), route(two.server(), endpoint="price"))
        self._ingress.apply(both)
        self._ingress.apply(both)
        assert [self._ask(f"/mobility/{e}/v2").json["replica"] for e in ("flow", "price")] == ["job-a.1", "job-b.1"]
        self._ingress.apply(state(route(two.server(), endpoint="price")))
        assert self._ask("/mobility/flow/v2").status == 404
        assert self._ask("/mobility/price/v2").json["replica"] == "job-b.1"

    def hundreds_of_routes_come_without_losing_a_request(self) -> None:
        """However the adapter makes room for them."""
        replica = self._replica("job-a.1")
        flow = route(replica.server())
        self._ingress.apply(state(flow))
        with replica.held():
            thread, replies = self._in_background()
            replica.wait_for(1)
            self._ingress.apply(state(flow, *(route(replica.server(), endpoint=f"e{i}") for i in range(150))))
            assert self._ingress.in_flight("job-a.1") >= 1
        thread.join(10)
        assert [reply.status for reply in replies] == [200]
        assert self._ask("/mobility/e149/v2").status == 200

    def a_server_with_an_impossible_address_harms_nobody(self) -> None:
        """Addresses come from tenants' processes."""
        good = self._replica("job-a.1")
        bad = Server("job-b.1", "127.0.0.1:1\nset server", 80)
        self._ingress.apply(state(route(good.server(), bad), route(bad, endpoint="price")))
        assert self._names(4) == ["job-a.1"] * 4
        assert self._ask("/mobility/price/v2").status == 503

    # -- keys --------------------------------------------------------------------------------------------------------

    def a_missing_or_unknown_key_is_refused(self) -> None:
        """401 as a problem with a hint; no replica hears of it."""
        replica = self._replica("job-a.1")
        self._ingress.apply(state(route(replica.server())))
        for key in (None, "", "some-other-key"):
            reply = self._ask(key=key)
            assert reply.status == 401
            assert reply.headers["content-type"] == "application/problem+json"
            assert reply.json["code"] == "unauthenticated"
            assert reply.json["hint"]
        assert not replica.seen

    def anothers_endpoint_looks_like_none_at_all(self) -> None:
        """Same status, same body, but for the request's id."""
        self._ingress.apply(state(route(self._replica("job-a.1").server())))
        foreign, missing = self._ask(key="energy-key"), self._ask("/mobility/nothing/v2")
        assert foreign.status == missing.status == 404
        assert foreign.json["code"] == "not_found"
        assert foreign.json | {"request_id": ""} == missing.json | {"request_id": ""}

    def a_key_for_all_tenants_opens_every_route(self) -> None:
        """The tenant "*"."""
        self._ingress.apply(state(route(self._replica("job-a.1").server())))
        assert self._ask(key="platform-key").status == 200

    def a_revoked_key_is_refused_at_once(self) -> None:
        """Also on a connection that is open already."""
        flow = route(self._replica("job-a.1").server())
        self._ingress.apply(state(flow))
        client = self._client()
        assert ask(client, _PATH, "mobility-key").status == 200
        self._ingress.apply(state(flow, without="mobility-key"))
        assert ask(client, _PATH, "mobility-key").status == 401
        assert self._ask(key="platform-key").status == 200

    # -- servers -----------------------------------------------------------------------------------------------------

    def servers_share_by_weight(self) -> None:
        """Three to one, then all to one: weights change while it runs."""
        a, b = self._replica("job-a.1"), self._replica("job-b.1")
        self._ingress.apply(state(route(a.server(weight=150), b.server(weight=50))))
        assert 26 <= self._names(40).count("job-a.1") <= 34
        self._ingress.apply(state(route(a.server(weight=0), b.server(weight=50))))
        assert self._names(6) == ["job-b.1"] * 6

    def a_draining_server_finishes_and_takes_nothing_new(self) -> None:
        """`in_flight` tells when it is done."""
        old, new = self._replica("job-a.1"), self._replica("job-b.1")
        self._ingress.apply(state(route(old.server())))
        with old.held():
            thread, replies = self._in_background()
            old.wait_for(1)
            assert self._ingress.in_flight("job-a.1") == 1
            self._ingress.apply(state(route(old.server(draining=True), new.server())))
            assert self._names(6) == ["job-b.1"] * 6
            assert self._ingress.in_flight("job-a.1") == 1
        thread.join(10)
        assert [reply.json["replica"] for reply in replies] == ["job-a.1"]
        assert self._ingress.in_flight("job-a.1") == 0

    def a_server_taken_out_finishes_what_it_has(self) -> None:
        """Gone from the state is no reason to cut an answer off."""
        old, new = self._replica("job-a.1"), self._replica("job-b.1")
        self._ingress.apply(state(route(old.server())))
        with old.held():
            thread, replies = self._in_background()
            old.wait_for(1)
            self._ingress.apply(state(route(new.server())))
            assert self._names(4) == ["job-b.1"] * 4
            assert self._ingress.in_flight("job-a.1") == 1
        thread.join(10)
        assert [reply.status for reply in replies] == [200]

    def a_draining_server_can_be_taken_back(self) -> None:
        """Draining is a wish like any other."""
        a = self._replica("job-a.1")
        self._ingress.apply(state(route(a.server(draining=True))))
        assert self._ask().status == 503
        self._ingress.apply(state(route(a.server())))
        assert self._names(2) == ["job-a.1"] * 2

    def servers_are_swapped_under_load_without_a_failed_request(self) -> None:
        """New ones in, old ones draining, old ones out and dead: twice."""
        a, b, c = (self._replica(f"job-{n}.1") for n in "abc")
        self._ingress.apply(state(route(a.server())))
        with Load(self._url, _PATH, "mobility-key") as load:
            for old, new in ((a, b), (b, c)):
                load.wait_for_more(60)
                self._ingress.apply(state(route(old.server(draining=True), new.server())))
                load.wait_for_more(60)
                assert self._ingress.in_flight(old.name) == 0
                self._ingress.apply(state(route(new.server())))
                old.die()
            load.wait_for_more(60)
        assert load.failures == []

    def a_server_that_dies_is_skipped(self) -> None:
        """What it was working on is asked of another: inference changes nothing."""
        a, b = self._replica("job-a.1"), self._replica("job-b.1")
        self._ingress.apply(state(route(a.server(), b.server())))
        with Load(self._url, _PATH, "mobility-key") as load:
            load.wait_for_more(60)
            a.die()
            load.wait_for_more(200)
        assert len(load.failures) <= 1, load.failures  # a reset may cross an answer that has begun

    def a_full_server_leaves_its_work_to_the_others(self) -> None:
        """A 503 is tried elsewhere; only if all are full it reaches the client."""
        a, b = self._replica("job-a.1"), self._replica("job-b.1")
        self._ingress.apply(state(route(a.server(), b.server())))
        a.is_full = True
        assert self._names(6) == ["job-b.1"] * 6
        b.is_full = True
        assert self._ask().status == 503

    # -- the process -------------------------------------------------------------------------------------------------

    def a_killed_ingress_comes_back_with_its_state(self) -> None:
        """`is_alive` tells, `apply` repairs."""
        wanted = state(route(self._replica("job-a.1").server()), route(endpoint="price"))
        self._ingress.apply(wanted)
        self._kill()
        assert not self._ingress.is_alive()
        self._ingress.apply(wanted)
        assert self._ingress.is_alive()
        assert self._ask().status == 200
        assert self._ask("/mobility/price/v2").status == 503

    def a_start_after_a_death_serves_the_last_state(self) -> None:
        """The control plane may be away for a while."""
        self._ingress.apply(state(route(self._replica("job-a.1").server())))
        self._kill()
        self._make().start()
        assert self._ask().status == 200

    def another_runner_adopts_the_running_process(self) -> None:
        """Requests in flight do not notice, and the newcomer drives it."""
        replica, new = self._replica("job-a.1"), self._replica("job-b.1")
        self._ingress.apply(state(route(replica.server())))
        pid = self._ingress.pid
        with replica.held():
            thread, replies = self._in_background()
            replica.wait_for(1)
            second = self._make()
            assert second.start() == self._url
            assert (second.pid, second.is_alive()) == (pid, True)
            assert second.in_flight("job-a.1") == 1
            second.apply(state(route(new.server())))
            assert self._names(2) == ["job-b.1"] * 2
        thread.join(10)
        assert [reply.status for reply in replies] == [200]

    def a_frozen_process_is_replaced(self) -> None:
        """Alive for the kernel is not enough."""
        wanted = state(route(self._replica("job-a.1").server()))
        self._ingress.apply(wanted)
        frozen = self._ingress.pid
        assert frozen is not None
        freeze(frozen)
        self._ingress.apply(wanted)
        assert self._ingress.pid != frozen
        assert self._ask().status == 200

    def stopping_leaves_nothing_behind(self) -> None:
        """Whoever started it, and asked twice."""
        self._ingress.apply(state(route(self._replica("job-a.1").server())))
        pid = self._ingress.pid
        assert pid is not None
        second = self._make()
        second.stop()
        second.stop()
        assert not self._ingress.is_alive()
        assert self._ingress.pid is None
        assert not is_running(pid)


def freeze(pid: int) -> None:
    """Stop a process and wait until the kernel says that every thread of it stands."""
    os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + 5
    while any(
        stat.read_text().rpartition(")")[2].split()[0] != "T" for stat in Path(f"/proc/{pid}/task").glob("*/stat")
    ):
        assert time.monotonic() < deadline, "it does not stop"


BEHAVIOURS = behaviours_of(IngressSuite)
