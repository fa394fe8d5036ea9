"""HAProxy's runtime API, as far as we use it. Source: HAProxy 2.8 management guide, section 9.3.

One connection per command: a unix connect costs microseconds and every answer then ends with the connection.
"""

from __future__ import annotations

import csv
import io
import re
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from factory.errors import UnavailableError

__all__ = ["AdminSocket", "ServerFact"]

_FORCED_MAINTENANCE = 0x01  # SRV_ADMF_FMAINT
_FORCED_DRAIN = 0x08  # SRV_ADMF_FDRAIN
_LINES_PER_PAYLOAD = 200  # of 130 bytes: stays below tune.bufsize


@dataclass(frozen=True, slots=True)
class ServerFact:
    """What HAProxy knows of a server."""

    backend: str
    name: str
    host: str
    port: int
    weight: int
    is_draining: bool
    is_in_maintenance: bool
    in_flight: int  # requests


class AdminSocket:
    """Commands to one HAProxy process. Each raises UnavailableError if it does not answer or says no."""

    def __init__(self, path: str, timeout_s: float = 5.0) -> None:
        self._path = path
        self._timeout_s = timeout_s

    def ask(self, command: str) -> str:
        """Send a command; return what it says."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(self._timeout_s)
                connection.connect(self._path)
                connection.sendall(command.encode() + b"\n")
                parts: list[bytes] = []
                while part := connection.recv(1 << 16):
                    parts.append(part)
        except OSError as exc:
            raise UnavailableError(f"HAProxy's admin socket does not answer: {exc}") from exc
        return b"".join(parts).decode(errors="replace").strip()

    def tell(self, command: str, answer: str = "") -> None:
        """Send a command that must answer with this."""
        if (said := self.ask(command)) != answer:
            what = " ".join(command.split("\n", 1)[0].split()[:3])
            raise UnavailableError(f"HAProxy refused `{what}`: {said[:200]}")

    def pid(self) -> int:
        """Return the pid of the process that answers."""
        match = re.search(r"^Pid: (\d+)$", self.ask("show info"), re.MULTILINE)
        if match is None:
            raise UnavailableError("HAProxy's admin socket gives no pid")
        return int(match[1])

    # -- servers -----------------------------------------------------------------------------------------------------

    def servers(self) -> list[ServerFact]:
        """Return all servers of all backends."""
        in_flight = {(row["pxname"], row["svname"]): int(row["scur"] or 0) for row in self._statistics()}
        facts: list[ServerFact] = []
        # a line of format 1: be_id be_name srv_id srv_name srv_addr op_state admin_state uweight …; srv_port is 19th
        for line in self.ask("show servers state").splitlines():
            columns = line.split()
            if len(columns) < 19 or columns[0] == "#":
                continue
            backend, name, admin = columns[1], columns[3], int(columns[6])
            facts.append(
                ServerFact(
                    backend,
                    name,
                    columns[4],
                    int(columns[18]),
                    int(columns[7]),
                    bool(admin & _FORCED_DRAIN),
                    bool(admin & _FORCED_MAINTENANCE),
                    in_flight.get((backend, name), 0),
                )
            )
        return facts

    def _statistics(self) -> Iterator[dict[str, str]]:
        text = self.ask("show stat -1 4 -1").removeprefix("# ")  # every proxy, type 4 = servers, every id
        return csv.DictReader(io.StringIO(text))

    def add_server(self, backend: str, name: str, address: str, settings: str, state: str) -> None:
        """Add a server in a state: `ready` or `drain`."""
        self.tell(f"add server {backend}/{name} {address} {settings}", "New server registered.")
        self.tell(f"enable health {backend}/{name}")
        self.set_state(backend, name, state)

    def set_state(self, backend: str, name: str, state: str) -> None:
        """`ready`, `drain` or `maint`."""
        self.tell(f"set server {backend}/{name} state {state}")

    def set_weight(self, backend: str, name: str, weight: int) -> None:
        """0 … 256."""
        self.tell(f"set server {backend}/{name} weight {weight}")

    def delete_server(self, backend: str, name: str) -> bool:
        """Remove a drained server; False if HAProxy still holds something of it (then it stays in maintenance)."""
        self.set_state(backend, name, "maint")
        return self.ask(f"del server {backend}/{name}") == "Server deleted."

    # -- maps --------------------------------------------------------------------------------------------------------

    def map(self, path: Path) -> dict[str, str]:
        """Return a map's entries."""
        lines = (line.split() for line in self.ask(f"show map {path}").splitlines())
        return {parts[1]: parts[2] for parts in lines if len(parts) == 3}

    def set_entry(self, path: Path, key: str, value: str) -> None:
        """Add an entry."""
        self.tell(f"add map {path} {key} {value}")

    def delete_entry(self, path: Path, key: str) -> None:
        """Remove an entry."""
        self.tell(f"del map {path} {key}")

    def replace_map(self, path: Path, entries: Mapping[str, str]) -> None:
        """Exchange all entries in one step: no request sees half of it."""
        said = self.ask(f"prepare map {path}")
        match = re.fullmatch(r"New version created: (\d+)", said)
        if match is None:
            raise UnavailableError(f"HAProxy refused `prepare map`: {said[:200]}")
        for lines in _batches(f"{key} {value}" for key, value in entries.items()):
            self.tell(f"add map @{match[1]} {path} <<\n{lines}\n")
        self.tell(f"commit map @{match[1]} {path}")


def _batches(lines: Iterable[str]) -> Iterator[str]:
    batch: list[str] = []
    for line in lines:
        batch.append(line)
        if len(batch) == _LINES_PER_PAYLOAD:
            yield "\n".join(batch)
            batch = []
    if batch:
        yield "\n".join(batch)
