"""Which ingress this machine gets: HAProxy where it runs, else the asyncio proxy."""

from __future__ import annotations

import logging
import os
import secrets
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from factory.runner.ingress.haproxy import HaproxyIngress, haproxy_binary
from factory.runner.ingress.proxy import ProxyIngress

__all__ = ["choose_ingress", "ensure_ingress_secret"]

_log = logging.getLogger(__name__)


def choose_ingress(
    folder: Path,
    port: int,
    host: str = "127.0.0.1",
    env: Mapping[str, str] = MappingProxyType({}),
    *,
    secret: str = "",
) -> HaproxyIngress | ProxyIngress:
    """Return the ingress for a folder; both kinds end what the other one left there."""
    binary = haproxy_binary()
    if binary is not None and _runs(binary):
        return HaproxyIngress(folder, port, host, env, secret=secret, binary=binary)
    _log.warning("no HAProxy runs here; using the asyncio proxy", extra={"event": "ingress.fallback"})
    return ProxyIngress(folder, port, host, env, secret=secret)


def ensure_ingress_secret(path: Path) -> str:
    """Return the secret between ingress and replicas from its file (0600), made if it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
        try:
            os.link(temporary, path)  # fails if another process was first: its secret counts
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
    return path.read_text().strip()


def _runs(binary: Path) -> bool:
    try:
        return subprocess.run([binary, "-v"], capture_output=True, timeout=10, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
