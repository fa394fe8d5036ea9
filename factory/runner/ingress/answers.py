"""What the ingress itself answers, and what it lets through: the same words in both adapters.

The bodies are problems as the API's (`schemas.common.Problem`). "Not there" and "not yours" are one answer (rule 9).
"""

from __future__ import annotations

import ipaddress
import json
import logging
import re
from dataclasses import dataclass, replace
from typing import Any

from factory.domain.ids import EndpointName, TenantId, is_name
from factory.serving.ports import IngressState, Route, Server

__all__ = [
    "BAD_GATEWAY",
    "BAD_REQUEST",
    "GATEWAY_TIMEOUT",
    "INGRESS_HEADER",
    "NOT_FOUND",
    "NO_KEY",
    "NO_SERVER",
    "PROBLEM_TYPE",
    "REQUEST_TIMEOUT",
    "RETRY_AFTER_S",
    "TOO_LARGE",
    "WRONG_KEY",
    "Answer",
    "decode_state",
    "encode_state",
    "route_key",
    "sound",
]

PROBLEM_TYPE = "application/problem+json"
INGRESS_HEADER = "x-factory-ingress"  # carries the secret that replicas ask for (worker/serving.py)
RETRY_AFTER_S = 2
_SERVER_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """A problem that the ingress gives by itself. No quotes, apostrophes, `%` or `@` in it (HAProxy's syntax)."""

    status: int
    title: str
    code: str
    detail: str
    hint: str

    def body(self, request_id: str) -> str:
        """Return the JSON body; `request_id` may be a placeholder of the proxy's own."""
        problem: dict[str, Any] = {"type": "about:blank", "title": self.title, "status": self.status}
        problem |= {"code": self.code, "detail": self.detail, "hint": self.hint, "request_id": request_id, "facts": {}}
        return json.dumps(problem)

    def headers(self) -> tuple[tuple[str, str], ...]:
        """Return the headers that belong to it, beside type and length."""
        if self.status == 401:
            return (("WWW-Authenticate", "Bearer"),)
        return (("Retry-After", str(RETRY_AFTER_S)),) if self.status == 503 else ()


NO_KEY = Answer(
    401, "Not authenticated", "unauthenticated", "this needs a key",
    "send the header Authorization: Bearer fak_... (see: factory keys create)",
)  # fmt: skip
WRONG_KEY = Answer(
    401, "Not authenticated", "unauthenticated", "this key is not known, expired, revoked, or may not call endpoints",
    "see: factory keys list",
)  # fmt: skip
NOT_FOUND = Answer(
    404, "Not found", "not_found", "there is no such endpoint, or it is not yours",
    "the path is /TENANT/ENDPOINT/v2/... (see: factory endpoints list)",
)  # fmt: skip
NO_SERVER = Answer(
    503, "Unavailable", "unavailable", "no replica of this endpoint answers now",
    "try again soon (see: factory endpoints list)",
)  # fmt: skip
BAD_REQUEST = Answer(400, "Bad request", "bad_request", "this is no valid HTTP request", "")
REQUEST_TIMEOUT = Answer(408, "Request timeout", "request_timeout", "the request did not come in time", "send it again")
TOO_LARGE = Answer(431, "Too large", "bad_request", "the headers of this request are too large", "send fewer")
BAD_GATEWAY = Answer(
    502, "Bad gateway", "bad_gateway", "the replica ended before it had answered", "send the request again",
)  # fmt: skip
GATEWAY_TIMEOUT = Answer(
    504, "Gateway timeout", "gateway_timeout", "the replica did not answer in time", "send less at once, or try again",
)  # fmt: skip


def route_key(tenant: str, endpoint: str) -> str:
    """Return how a route is looked up: the first two parts of the path."""
    return f"{tenant}/{endpoint}"


def sound(state: IngressState) -> IngressState:
    """Return the state without what must not reach a configuration file or an admin command.

    Hosts and ports come from replicas, so from tenants' processes: one that lies must neither harm the ingress nor
    keep the other routes from being served. What is left out is logged.
    """
    routes: list[Route] = []
    for route in state.routes:
        if not (is_name(route.tenant) and is_name(route.endpoint)):
            _log.error(
                "route left out: bad name", extra={"event": "ingress.bad_route", "endpoint": repr(route.endpoint)}
            )
            continue
        servers = tuple(server for server in route.servers if _is_sound(server))
        if len(servers) < len(route.servers):
            left_out = sorted({repr(s.name) for s in route.servers} - {repr(s.name) for s in servers})
            _log.error("servers left out: bad address", extra={"event": "ingress.bad_server", "servers": left_out})
        routes.append(replace(route, servers=servers))
    keys = tuple((d, t) for d, t in state.keys if _DIGEST.fullmatch(d) and (t == "*" or is_name(t)))
    return IngressState(tuple(routes), keys)


def _is_sound(server: Server) -> bool:
    try:
        ipaddress.ip_address(server.host)
    except ValueError:
        return False
    return bool(_SERVER_NAME.fullmatch(server.name)) and 0 < server.port < 65536 and 0 <= server.weight <= 256


def encode_state(state: IngressState) -> dict[str, Any]:
    """Return the state as JSON values; it holds hashes of keys, no keys."""
    return {
        "routes": [
            {
                "tenant": route.tenant,
                "endpoint": route.endpoint,
                "servers": [
                    {"name": s.name, "host": s.host, "port": s.port, "weight": s.weight, "draining": s.draining}
                    for s in route.servers
                ],
            }
            for route in state.routes
        ],
        "keys": dict(state.keys),
    }


def decode_state(value: dict[str, Any]) -> IngressState:
    """Return what `encode_state` was given."""
    routes = tuple(
        Route(TenantId(r["tenant"]), EndpointName(r["endpoint"]), tuple(Server(**s) for s in r["servers"]))
        for r in value["routes"]
    )
    return IngressState(routes, tuple(sorted(value["keys"].items())))
