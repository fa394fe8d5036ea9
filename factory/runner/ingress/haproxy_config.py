"""HAProxy's configuration: keys checked at the edge, generic backends that routes are assigned to while it runs.

2.8 cannot add a backend at run time, so a number of empty ones (`slots`) is declared and the map `routes` says which
one a path belongs to; more are needed seldom and come by a seamless reload.

Replays: a request is sent again, to another server, when the connection failed, when it ended without an answer, or
when the answer is 503 (a replica's queue is full and another may have room: worker/serving.py). Inference changes
nothing, so repeating a POST is safe; bodies above `tune.bufsize` are not kept and so not repeated. Measured: kill -9 of
one of two replicas under load then costs at most one request; the price is some throughput (notes/serving.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

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
    WRONG_KEY,
    Answer,
)

__all__ = ["HEALTH_PATH", "REPLAY_BYTES", "SERVER_SETTINGS", "Layout", "backend_name", "render"]

HEALTH_PATH = "/v2/health/ready"
REPLAY_BYTES = 65536
_REQUEST_ID = "%[var(txn.id)]"
# A refused connection is known at once (two of them in a row take the server out); a replica that hangs after 3 checks.
# A busy replica may be slow to answer a check: its interpreter computes.
SERVER_SETTINGS = (
    "check inter 1s fastinter 500ms downinter 500ms fall 3 rise 1 observe layer4 error-limit 2 on-error mark-down"
)


@dataclass(frozen=True, slots=True)
class Layout:
    """What a HAProxy process is started with and cannot change while it runs."""

    host: str
    port: int
    secret: str  # "": replicas ask for none
    slots: int
    threads: int
    routes: Path  # map: "<tenant>/<endpoint>" -> backend
    keys: Path  # map: SHA-256 of a secret, upper-case hex -> tenant or "*"


def backend_name(slot: int) -> str:
    """Return the name of a generic backend."""
    return f"route-{slot:04d}"


def render(layout: Layout, admin: Path | str, servers: Mapping[str, Sequence[str]]) -> str:
    """Return the configuration file.

    Args:
        admin: path of the admin socket.
        servers: backend -> "name address settings" of those that it begins with.
    """
    backends = [
        f"backend {name}\n{''.join(f'  server {line}' + chr(10) for line in servers.get(name, ()))}"
        for name in map(backend_name, range(layout.slots))
    ]
    return f"{_global(layout, admin)}\n{_defaults(layout)}\n{_frontend(layout)}\n" + "\n".join(backends)


def _global(layout: Layout, admin: Path | str) -> str:
    return f"""global
  # no SO_REUSEPORT: a second process on this port must fail, not take half of the requests
  noreuseport
  stats socket {admin} mode 600 level admin expose-fd listeners
  stats timeout 10s
  fd-hard-limit 16384
  nbthread {layout.threads}
  tune.bufsize {REPLAY_BYTES}
  tune.http.maxhdr 128
  hard-stop-after 310s
"""


def _defaults(layout: Layout) -> str:
    secret = f' hdr {INGRESS_HEADER} "{layout.secret}"' if layout.secret else ""
    errors = "\n".join(
        f"  http-error status {a.status} {_body(a)}"
        for a in (BAD_REQUEST, REQUEST_TIMEOUT, BAD_GATEWAY, NO_SERVER, GATEWAY_TIMEOUT)
    )
    return f"""defaults
  mode http
  balance roundrobin
  timeout connect 1s
  timeout http-request 15s
  timeout http-keep-alive 75s
  timeout client 60s
  timeout server 300s
  timeout check 3s
  retries 2
  option redispatch 1
  # a replay needs the whole request before its first byte goes out
  option http-buffer-request
  retry-on conn-failure empty-response 503
  option httpchk
  http-check send meth GET uri {HEALTH_PATH}{secret}
{errors}
"""


def _frontend(layout: Layout) -> str:
    secret = (
        f'http-request set-header {INGRESS_HEADER} "{layout.secret}"'
        if layout.secret
        else f"http-request del-header {INGRESS_HEADER}"
    )
    return f"""frontend ingress
  bind {layout.host}:{layout.port}
  http-request set-var(txn.id) req.hdr(x-request-id) if {{ req.hdr(x-request-id) -m reg ^[A-Za-z0-9._-]{{8,64}}$ }}
  http-request set-var(txn.id) uuid() unless {{ var(txn.id) -m found }}
  http-request set-header x-request-id {_REQUEST_ID}
  http-after-response set-header x-request-id {_REQUEST_ID}
  http-request set-var(txn.key) http_auth_bearer
  http-request return {_answer(NO_KEY)} unless {{ var(txn.key) -m len ge 1 }}
  http-request set-var(txn.owner) var(txn.key),sha2(256),hex,map({layout.keys})
  http-request return {_answer(WRONG_KEY)} unless {{ var(txn.owner) -m found }}
  http-request set-var(txn.tenant) path,field(2,/)
  http-request set-var(txn.backend) path,field(2,/,2),map({layout.routes})
  acl owns var(txn.owner) -m str *
  acl owns var(txn.owner),strcmp(txn.tenant) eq 0
  http-request return {_answer(NOT_FOUND)} unless owns {{ var(txn.backend) -m found }}
  http-request return {_answer(NO_SERVER)} if {{ var(txn.backend),nbsrv eq 0 }}
  # replicas run tenants' models: the caller's key is not for them
  http-request del-header authorization
  {secret}
  http-request replace-path ^/[^/]+/[^/]+/?(.*) /\\1
  use_backend %[var(txn.backend)]
"""


def _answer(answer: Answer) -> str:
    return f"status {answer.status} {_body(answer)}"


def _body(answer: Answer) -> str:
    body = answer.body("@")
    assert not set("'%") & set(body), "HAProxy's quoting"
    headers = "".join(f' hdr {name} "{value}"' for name, value in answer.headers())
    return f"content-type {PROBLEM_TYPE} lf-string '{body.replace('@', _REQUEST_ID)}'{headers}"
