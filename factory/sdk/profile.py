"""Which factory to talk to: arguments, else environment, else the profile that `factory up` wrote.

Environment: FACTORY_URL, FACTORY_KEY, FACTORY_TENANT; FACTORY_PROFILE names another profile file.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from factory.errors import ConfigurationError

__all__ = ["Profile", "load_profile", "profile_path", "write_profile"]


@dataclass(frozen=True, slots=True)
class Profile:
    """Where and as whom."""

    url: str
    key: str
    tenant: str | None = None  # for platform keys: the tenant to act in


def profile_path() -> Path:
    """Return the profile file's path."""
    given = os.environ.get("FACTORY_PROFILE")
    if given:
        return Path(given)
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "ai-factory" / "profile.json"


def load_profile(url: str | None = None, key: str | None = None, tenant: str | None = None) -> Profile:
    """Join arguments, environment and file, in this order.

    Raises: ConfigurationError: no factory is named anywhere, or the file cannot be read.
    """
    stored: dict[str, str] = {}
    path = profile_path()
    url = url or os.environ.get("FACTORY_URL")
    key = key or os.environ.get("FACTORY_KEY")
    if (url is None or key is None) and path.exists():
        try:
            stored = json.loads(path.read_text())
        except (OSError, ValueError) as exc:
            raise ConfigurationError(
                f"the profile {path} cannot be read: {exc}", hint="start `factory up`, which writes it anew"
            ) from exc
        if url is not None and url != stored.get("url"):
            stored = {}  # a key belongs to the factory that made it
    found_url, found_key = url or stored.get("url"), key or stored.get("key")
    if not found_url or not found_key:
        missing = "URL" if not found_url else "key"
        raise ConfigurationError(
            f"no factory {missing} is known",
            hint="start one with `factory up`, or set FACTORY_URL and FACTORY_KEY",
        )
    return Profile(found_url.rstrip("/"), found_key, tenant or os.environ.get("FACTORY_TENANT") or stored.get("tenant"))


def write_profile(profile: Profile, path: Path | None = None) -> Path:
    """Write the profile for this user only (0600), atomically; return its path."""
    path = path or profile_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.unlink(missing_ok=True)
    body = {"url": profile.url, "key": profile.key} | ({"tenant": profile.tenant} if profile.tenant else {})
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(body, file)
    temporary.replace(path)
    return path
