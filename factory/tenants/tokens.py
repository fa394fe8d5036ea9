"""Tokens of attempts: the bearer of a worker's calls, made from the attempt's id and a secret, never stored.

Having the right form proves nothing about the attempt being live: callers ask the job for that.
"""

from __future__ import annotations

import hashlib
import hmac
import re

from factory.domain.ids import AttemptId

__all__ = ["TOKEN_PREFIX", "AttemptTokens"]

TOKEN_PREFIX = "fat_"  # noqa: S105  the public part
_TOKEN = re.compile(r"fat_([a-z0-9.-]{1,100})\.([0-9a-f]{64})")


class AttemptTokens:
    """`fat_<attempt id>.<hex HMAC-SHA256(secret, attempt id)>`.

    >>> tokens = AttemptTokens(b"secret")
    >>> tokens.attempt_of(tokens.token_of(AttemptId("job-1.2")))
    'job-1.2'
    >>> tokens.attempt_of("fat_job-1.2." + "0" * 64) is None
    True
    """

    def __init__(self, secret: bytes) -> None:
        if len(secret) < 1:
            raise ValueError("the secret is empty")
        self._secret = secret

    def token_of(self, attempt: AttemptId) -> str:
        """Return the attempt's token."""
        return f"{TOKEN_PREFIX}{attempt}.{self._mac(attempt)}"

    def attempt_of(self, token: str) -> AttemptId | None:
        """Return the attempt that a token names, None if we did not make it. Compares in constant time."""
        match = _TOKEN.fullmatch(token)
        if match is None or not hmac.compare_digest(match[2], self._mac(match[1])):
            return None
        return AttemptId(match[1])

    def _mac(self, attempt: str) -> str:
        return hmac.new(self._secret, attempt.encode(), hashlib.sha256).hexdigest()
