"""Which key is which runner: a key is bound to the runner that it first joined as, and to no other.

Desired state holds tokens of attempts, so a runner's key must open its own runner only (rule 9, inside the platform):

- K1 The first join with a key of role runner binds the two: `Runner.key`.
- K2 A key that is bound to one runner joins as no other one, and a runner that is bound to a valid key is joined by no
  other key. Nothing but the key's end frees a runner: `factory keys revoke KEY`, or its expiry. The next key binds.
- K3 Every other call with a runner's key must name the runner that the key is bound to.
- K4 A platform key acts for every runner and binds none.
"""

from __future__ import annotations

from factory.domain.ids import KeyId, RunnerId
from factory.domain.jobs import Attempt, Job
from factory.domain.pools import Runner
from factory.domain.tenancy import PLATFORM, Principal, Role
from factory.domain.time import Instant
from factory.errors import ConflictError, ForbiddenError
from factory.pools.ports import FleetReader, PoolReader

__all__ = ["StaleRunnerError", "binding", "current_runner", "own_attempt", "own_runner"]


class StaleRunnerError(ConflictError):
    """A newer process of this runner has joined, or it never joined: this one must join again or stop."""

    code = "stale_runner"


def current_runner(reader: PoolReader, runner: RunnerId, incarnation: str) -> Runner:
    """Return the runner if `incarnation` is the present one. Raises: StaleRunnerError."""
    for found in reader.runners(PLATFORM):
        if found.id == runner and found.incarnation == incarnation:
            return found
        if found.id == runner:
            raise StaleRunnerError(
                f"a newer process of runner '{runner}' has joined",
                hint="stop this one; what runs is adopted by the newer one",
                facts={"runner": runner},
            )
    raise StaleRunnerError(f"runner '{runner}' has not joined", hint="join first", facts={"runner": runner})


def binding(reader: FleetReader, principal: Principal, runner: RunnerId, now: Instant) -> KeyId | None:
    """Return the key that `runner` is bound to after the caller's join.

    Raises: ForbiddenError: the key is bound to another runner; ConflictError: the runner is bound to another valid key.
    """
    runners = {r.id: r for r in reader.runners(PLATFORM)}
    known = runners.get(runner)
    if principal.role is Role.PLATFORM:  # rule K4
        return known.key if known is not None else None
    bound = next((r.id for r in runners.values() if r.key == principal.id), None)
    if bound is not None and bound != runner:  # rule K2
        raise ForbiddenError(
            f"this key is bound to runner '{bound}', it cannot join as '{runner}'",
            hint="give each runner a key of its own: factory keys create --role runner",
            facts={"runner": bound},
        )
    if known is not None and known.key is not None and known.key != principal.id:
        holder = reader.key(PLATFORM, known.key)
        if holder is not None and holder.is_valid(now):  # rule K2
            raise ConflictError(
                f"runner '{runner}' is bound to another key",
                hint=f"join with that key, or free the runner: factory keys revoke {known.key}",
                facts={"runner": runner, "key": known.key},
            )
    return KeyId(principal.id)  # rule K1


def own_runner(reader: PoolReader, principal: Principal, runner: RunnerId, incarnation: str) -> Runner:
    """Return the runner that the caller is, or speaks for (rules K3, K4).

    Raises: ForbiddenError: the key is bound to another runner; StaleRunnerError: it has not joined, or a newer process.
    """
    if principal.role is not Role.PLATFORM:
        bound = next((r.id for r in reader.runners(PLATFORM) if r.key == principal.id), None)
        if bound is None:  # the same answer whether or not there is a runner of that name
            raise StaleRunnerError(f"no runner '{runner}' has joined with this key", hint="join first")
        if bound != runner:
            raise ForbiddenError(
                f"this key is bound to runner '{bound}', it cannot speak for '{runner}'",
                hint="use the key that this runner joined with",
                facts={"runner": bound},
            )
    return current_runner(reader, runner, incarnation)


def own_attempt(reader: PoolReader, principal: Principal, job: Job | None, attempt: str) -> Attempt | None:
    """Return the attempt of `job` if it is there and its runner is one that the caller speaks for, else None."""
    found = next((a for a in job.attempts if a.id == attempt), None) if job is not None else None
    if found is None or principal.role is Role.PLATFORM:
        return found
    return found if any(r.id == found.runner and r.key == principal.id for r in reader.runners(PLATFORM)) else None
