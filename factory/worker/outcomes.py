"""What the end of an entry means: exceptions and exit codes as outcomes.

Decisions on causes: an exception of user code (import of its modules included) is `UserError`; a module that is not
installed is `EnvironmentFailed` with the user's fault (the environment lacks it: another try would end the same way); a
broken bundle likewise; a control plane that did not answer for two minutes is `EnvironmentFailed`, ours, retried. A
command that ends by SIGKILL was killed by somebody else (the kernel, a person): `WorkerLost`, retried.
"""

from __future__ import annotations

import os
import signal
import traceback
from pathlib import Path

from factory.domain.jobs import EndReason, FaultDomain, Outcome
from factory.errors import FactoryError, InvalidRequestError, UnauthenticatedError, UnavailableError

__all__ = ["exit_outcome", "outcome_of", "traceback_tail"]

_TAIL_LINES = 30
_TAIL_CHARACTERS = 8_000
_PACKAGE = str(Path(__file__).resolve().parents[1]) + os.sep


def exit_outcome(code: int, tail: str) -> Outcome:
    """Return what a command's exit code means; negative = ended by that signal."""
    if code == 0:
        return Outcome(EndReason.COMPLETED, exit_code=0)
    if code > 0:
        return Outcome(EndReason.USER_ERROR, f"the command ended with exit code {code}", exit_code=code, tail=tail)
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    reason = EndReason.WORKER_LOST if -code == signal.SIGKILL else EndReason.USER_ERROR
    return Outcome(reason, f"the command was ended by {name}", signal=-code, tail=tail)


def outcome_of(exc: BaseException, *, began: bool) -> Outcome:
    """Return what an exception that ended the entry means."""
    tail = traceback_tail(exc)
    what = f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__
    match exc:
        case UnauthenticatedError():
            return Outcome(EndReason.WORKER_LOST, "the attempt's token was revoked: it had been given up")
        case UnavailableError():
            return Outcome(EndReason.ENVIRONMENT_FAILED, exc.message, exc.hint, tail=tail)
        case ModuleNotFoundError():
            hint = f"'{exc.name}' is not installed on the workers; put it into the bundle or the image"
            return Outcome(EndReason.ENVIRONMENT_FAILED, what, hint, tail=tail, fault=FaultDomain.USER)
        case MemoryError():
            return Outcome(EndReason.OUT_OF_MEMORY, what, "ask for more memory", tail=tail)
        case InvalidRequestError() if not began:
            return Outcome(EndReason.ENVIRONMENT_FAILED, exc.message, exc.hint, fault=FaultDomain.USER)
        case FactoryError():
            if not began:
                return Outcome(EndReason.ENVIRONMENT_FAILED, exc.message, exc.hint, tail=tail)
            return Outcome(EndReason.USER_ERROR, exc.message, exc.hint, tail=tail)
        case SystemExit() if exc.code in (None, 0):
            return Outcome(EndReason.COMPLETED, "it called sys.exit()", exit_code=0)
        case SystemExit():
            number = exc.code if isinstance(exc.code, int) else 1
            return Outcome(EndReason.USER_ERROR, f"it called sys.exit({exc.code!r})", exit_code=number, tail=tail)
        case _ if not began:
            return Outcome(EndReason.ENVIRONMENT_FAILED, what, tail=tail)
        case _:
            return Outcome(EndReason.USER_ERROR, what, tail=tail)


def traceback_tail(exc: BaseException) -> str:
    """Return the traceback's last lines, without the frames of the factory that led to the user's code."""
    text = traceback.TracebackException.from_exception(exc)
    link: traceback.TracebackException | None = text
    while link is not None:
        while link.stack and link.stack[0].filename.startswith((_PACKAGE, "<frozen importlib")):
            del link.stack[0]
        link = link.__cause__ or link.__context__
    if isinstance(exc, FactoryError) and not text.stack:
        return ""  # raised by the factory's own code: its message says all
    lines = "".join(text.format()).rstrip().splitlines()
    return "\n".join(lines[-_TAIL_LINES:])[-_TAIL_CHARACTERS:]
