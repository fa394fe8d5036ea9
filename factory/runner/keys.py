"""The runner's key as a file: its secret is on no command line and in no argument that Ray keeps.

Arguments of actors are in Ray's GCS, where every program with the cluster's token reads them, job code too. What
travels is the path; the runner and the agent of each node read the file, which must be there on every node.
"""

from __future__ import annotations

import os
import secrets
import time
from pathlib import Path

from factory.errors import ConfigurationError

__all__ = ["keep_key", "wait_for_key"]

_WAIT_S = 60.0


def wait_for_key(path: Path, *, wait_s: float = _WAIT_S) -> str:
    """Return the key in a file, which may appear later: the control plane makes it when it first starts.

    Raises: ConfigurationError: there is none within `wait_s` seconds.
    """
    deadline = time.monotonic() + wait_s
    while True:
        try:
            key = path.read_text().strip()
        except OSError:
            key = ""
        if key:
            return key
        if time.monotonic() > deadline:
            raise ConfigurationError(
                f"there is no runner key in {path}",
                hint="did the control plane start? Each node of the cluster needs the file at this very path (0600)",
            )
        time.sleep(0.1)


def keep_key(path: Path, key: str) -> Path:
    """Write a key that was given as such into a file that only this user reads (0600); return its path."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(key)
    temporary.replace(path)
    return path
