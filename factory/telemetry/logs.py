"""Logs of this process: one line per event on stderr, JSON or for a terminal, with request and job ids, never secrets.

Code below the composition root logs through the standard library (`logging.getLogger(__name__)`, facts in `extra`);
here every record, ours and the libraries', gets the bound ids and passes the redaction (rule 10).
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from contextvars import ContextVar
from typing import Any, TextIO

import structlog

__all__ = ["begin_request", "configure_logs", "note", "redact"]

# one dictionary per request, shared with the threads that work for it: a thread's context is a copy, its values not
_facts: ContextVar[dict[str, object] | None] = ContextVar("factory_request_facts", default=None)
_REDACTED = "[redacted]"
# API keys `fak_<id>_<secret>` keep their id, which is public; attempt tokens and bearer values go whole
_KEY = re.compile(r"\b(fak_[0-9A-Za-z-]{8})_[0-9A-Za-z_-]{8,}")
_TOKEN = re.compile(r"\bfat_[0-9A-Za-z.-]+")
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+(?!\[redacted\])[0-9a-z._~+/=-]{6,}")
_URL_PASSWORD = re.compile(r"(?<=://)([^\s:/@]+):[^\s@/]+@")
_SECRET_NAMES = frozenset({"authorization", "token", "secret", "password", "api_key", "cookie", "set-cookie"})


def begin_request(**facts: object) -> None:
    """Begin a new set of facts that every record of this request carries."""
    _facts.set(facts)


def note(**facts: object) -> None:
    """Add facts to the request's set; outside a request nothing happens."""
    known = _facts.get()
    if known is not None:
        known.update(facts)


def redact(value: object) -> object:
    """Return `value` without secrets, whatever nesting it has.

    >>> redact("Authorization: Bearer abcdefghijkl")
    'Authorization: Bearer [redacted]'
    >>> redact({"token": "x", "job": "job-1"})
    {'token': '[redacted]', 'job': 'job-1'}
    """
    if isinstance(value, str):
        text = _KEY.sub(rf"\1_{_REDACTED}", value)
        text = _TOKEN.sub(_REDACTED, text)
        text = _BEARER.sub(rf"\1 {_REDACTED}", text)
        return _URL_PASSWORD.sub(rf"\1:{_REDACTED}@", text)
    if isinstance(value, Mapping):
        return {k: _REDACTED if str(k).lower() in _SECRET_NAMES else redact(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [redact(v) for v in value]
    return value


def configure_logs(fmt: str = "json", level: str = "info", stream: TextIO | None = None) -> None:
    """Route every log record of this process to `stream` (default stderr), one line each."""
    shared: list[Any] = [
        _merge_facts,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    render: Any = (
        structlog.processors.JSONRenderer(sort_keys=True, default=str)
        if fmt == "json"
        else structlog.dev.ConsoleRenderer(colors=(stream or sys.stderr).isatty())
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _redact_event, render],
    )
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for chatty in ("httpx", "httpcore", "uvicorn.access", "alembic"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    for name in ("uvicorn", "uvicorn.error"):  # its own handlers would print a second time
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True


def _merge_facts(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in (_facts.get() or {}).items():
        event.setdefault(key, value)
    return event


def _redact_event(_logger: object, _method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    return {k: _REDACTED if k.lower() in _SECRET_NAMES else redact(v) for k, v in event.items()}
