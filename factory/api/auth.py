"""Who calls, and may they: every route states the least role it needs, as its dependency. There is no other way in.

Roles of a tenant form a ladder (viewer < operator < admin < platform); `runner` and `metrics` stand beside it. A
platform key acts in the tenant of the header `X-Factory-Tenant`; without it, in the tenant "default" where the route
makes or names a tenant's things, and over all tenants where it lists or finds by id.
"""

from __future__ import annotations

import re
from dataclasses import replace
from enum import StrEnum
from typing import Annotated

from fastapi import Depends, Header, Request
from fastapi.security import HTTPBearer

from factory.api.serving import plane_of
from factory.bootstrap import ControlPlane
from factory.domain.ids import AttemptId, TenantId, is_name
from factory.domain.tenancy import PLATFORM, Principal, Role
from factory.errors import ForbiddenError, InvalidRequestError, NotFoundError, UnauthenticatedError
from factory.jobs.service import LiveAttempt
from factory.telemetry.logs import note
from factory.tenants.tokens import TOKEN_PREFIX

__all__ = [
    "DEFAULT_TENANT",
    "AttemptEndedError",
    "Caller",
    "Reach",
    "Worker",
    "is_let_in",
    "live_attempt",
    "mlflow_caller",
    "needs",
]

DEFAULT_TENANT = TenantId("default")
_LADDER = (Role.VIEWER, Role.OPERATOR, Role.ADMIN, Role.PLATFORM)
_BEARER = re.compile(r"(?i)bearer +([\x21-\x7e]{1,512}) *")
# only documents the scheme in OpenAPI; the dependencies below read the header themselves
_scheme = HTTPBearer(auto_error=False, scheme_name="key", description="An API key (fak_…) or an attempt token (fat_…).")


class AttemptEndedError(UnauthenticatedError):
    """The attempt is over: whatever it wants to say comes too late."""

    code = "attempt_ended"


class Reach(StrEnum):
    """Where a platform key without `X-Factory-Tenant` acts."""

    TENANT = "tenant"  # in the tenant "default"
    ALL = "all"  # over all tenants


def _secret(request: Request) -> str:
    match = _BEARER.fullmatch(request.headers.get("authorization", ""))
    if match is None:
        raise UnauthenticatedError(
            "this needs a key", hint="send the header `Authorization: Bearer fak_…` (factory keys create)"
        )
    return match[1]


class needs:  # noqa: N801  # reads as a statement: Depends(needs(Role.VIEWER))
    """The dependency that lets only keys of a role, or above it, through. Returns the Principal."""

    def __init__(self, least: Role, reach: Reach = Reach.TENANT) -> None:
        self.least = least
        self.reach = reach

    def __call__(
        self,
        request: Request,
        _documented: Annotated[object, Depends(_scheme)] = None,
        x_factory_tenant: Annotated[str | None, Header(description="Platform keys: the tenant to act in.")] = None,
    ) -> Principal:
        """Raises: UnauthenticatedError, ForbiddenError; NotFoundError: a platform key names no tenant there is."""
        plane = plane_of(request)
        secret = _secret(request)
        if secret.startswith(TOKEN_PREFIX):
            raise ForbiddenError("an attempt's token opens only /api/v1/attempt and /mlflow", hint="use an API key")
        principal = plane.tenants.authenticate(secret, now=plane.clock.now())
        self._check(principal)
        note(key=principal.id)
        return acting(plane, principal, x_factory_tenant, self.reach)

    def _check(self, principal: Principal) -> None:
        role = principal.role
        if role is Role.PLATFORM or role is self.least:
            return
        if role in _LADDER and self.least in _LADDER and _LADDER.index(role) > _LADDER.index(self.least):
            return
        raise ForbiddenError(
            f"a key of role {role.value} may not do this", hint=f"it needs the role {self.least.value} or above"
        )


def acting(plane: ControlPlane, principal: Principal, asked: str | None, reach: Reach) -> Principal:
    """Return the principal in the tenant it acts in.

    Raises: ForbiddenError: a tenant's key that asks for another tenant; NotFoundError: no such tenant.
    """
    if principal.role is not Role.PLATFORM:
        if asked is not None and asked != principal.tenant:
            raise ForbiddenError(
                "this key acts in its own tenant only", hint="leave out X-Factory-Tenant, or use a platform key"
            )
        return principal
    if asked is None:
        return principal if reach is Reach.ALL else replace(principal, tenant=DEFAULT_TENANT)
    if not is_name(asked):
        raise InvalidRequestError(f"'{asked[:64]}' is no tenant's name", hint="see: factory tenants")
    known = plane.store.read(lambda tx: [t.id for t in tx.tenants(PLATFORM)])
    if asked not in known:
        raise NotFoundError("tenant", asked, known, hint="see: factory tenants")
    return replace(principal, tenant=TenantId(asked))


class live_attempt:  # noqa: N801  # see `needs`
    """The dependency of the worker's routes: a token of ours whose attempt is live."""

    def __call__(self, request: Request, _documented: Annotated[object, Depends(_scheme)] = None) -> LiveAttempt:
        """Raises: AttemptEndedError; UnauthenticatedError: no token of ours."""
        plane = plane_of(request)
        attempt = _attempt_of(plane, _secret(request))
        found = _live(plane, attempt)
        note(job=found.job.id, attempt=attempt)
        request.state.is_let_in = True
        return found


def is_let_in(request: Request) -> bool:
    """True if `live_attempt` has found the caller's attempt live."""
    return getattr(request.state, "is_let_in", False)


class mlflow_caller:  # noqa: N801  # see `needs`
    """The dependency of /mlflow: an API key of a tenant (or platform), or a live attempt's token."""

    least = Role.VIEWER

    def __call__(self, request: Request, x_factory_tenant: Annotated[str | None, Header()] = None) -> Principal:
        """Raises: as `needs` and `live_attempt`."""
        plane = plane_of(request)
        secret = _secret(request)
        if secret.startswith(TOKEN_PREFIX):
            attempt = _attempt_of(plane, secret)
            found = _live(plane, attempt)
            note(job=found.job.id, attempt=attempt)
            return Principal(attempt, Role.OPERATOR, found.job.tenant)
        return needs(Role.VIEWER)(request, None, x_factory_tenant)


def _attempt_of(plane: ControlPlane, token: str) -> AttemptId:
    attempt = plane.tokens.attempt_of(token)
    if attempt is None:
        raise UnauthenticatedError("this is no attempt's token", hint="workers use the token of their work order")
    return attempt


def _live(plane: ControlPlane, attempt: AttemptId) -> LiveAttempt:
    try:
        return plane.jobs.live_attempt(attempt)
    except UnauthenticatedError as exc:
        raise ended(exc) from exc


def ended(exc: UnauthenticatedError) -> AttemptEndedError:
    """Return the same error with the code that workers know."""
    return AttemptEndedError(exc.message, hint=exc.hint, facts=exc.facts)


Caller = Annotated[Principal, Depends(needs(Role.VIEWER))]
Worker = Annotated[LiveAttempt, Depends(live_attempt())]
