"""`factory up`: the whole factory on one machine, kept alive, ended in order.

Children: control plane, MLflow, Ray's head, runner (which owns the node agents, replicas and the ingress). Their order
at the end is the reverse of what they need: the runner stops its attempts (`FactoryStopped`) while the control plane
still listens.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from factory.cli.commands.processes import needs_extra
from factory.cli.output import console
from factory.errors import ConfigurationError

__all__ = ["Addresses", "default_data", "up"]

_DEFAULT_PORTS = {"api": 8090, "mlflow": 0, "ray": 0, "ray_client": 0, "ingress": 8091}
_END_ORDER = ("runner", "ray", "mlflow", "server")


@dataclass(frozen=True, slots=True)
class Addresses:
    """The ports of one data folder; kept over restarts."""

    api: int
    mlflow: int
    ray: int
    ray_client: int  # nobody uses it, and `ray start` cannot leave it out
    ingress: int

    @property
    def url(self) -> str:
        """The control plane."""
        return f"http://127.0.0.1:{self.api}"


def default_data() -> Path:
    """Return $FACTORY_DATA, else the user's data folder."""
    given = os.environ.get("FACTORY_DATA")
    if given:
        return Path(given)
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "ai-factory"


def up(
    data: Annotated[
        Path | None, typer.Option(help="Data folder; by default $FACTORY_DATA or ~/.local/share/ai-factory.")
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port of the API; by default 8090 or a free one.")] = None,
    profile: Annotated[Path | None, typer.Option(help="Where to write the client profile.")] = None,
    cpus: Annotated[int | None, typer.Option(help="CPUs to share; by default all of this machine.")] = None,
) -> None:
    """Start the embedded factory and keep it alive; Ctrl-C ends every process of it."""
    with needs_extra("server,runner"):
        for package in ("fastapi", "mlflow", "ray", "torch", "duckdb"):  # what the children load; not loaded here
            if find_spec(package) is None:
                raise ModuleNotFoundError(name=package)
    folder = (data or default_data()).expanduser().resolve()
    (folder / "run").mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)
    with _only_one(folder):
        _run(folder, port, profile, cpus)


class _only_one:  # noqa: N801  # a context manager, used like a function
    """Hold the folder's supervisor lock. Raises: ConfigurationError: another `factory up` has it."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "run" / "up.lock"

    def __enter__(self) -> None:
        self._file = self._path.open("a+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.seek(0)
            pid = self._file.read().strip() or "?"
            raise ConfigurationError(
                f"a factory is running in {self._path.parent.parent} already (pid {pid})",
                hint="use it, end it with Ctrl-C there, or give --data another folder",
            ) from None
        self._file.truncate(0)
        self._file.write(str(os.getpid()))
        self._file.flush()

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _run(folder: Path, port: int | None, profile: Path | None, cpus: int | None) -> None:
    from factory.cli.processes import Supervisor, instance_id, raised_signals

    for name in [name for name in os.environ if name.startswith("RAY_")]:
        del os.environ[name]  # meant for another cluster
    addresses = _addresses(folder, port)
    started = time.monotonic()
    ready: set[str] = set()

    def say(name: str, what: str) -> None:
        console.print(Text.assemble((f"{name:<7}", "bold"), what))

    def on_ready(name: str) -> None:
        console.print(
            Text.assemble((f"{name:<7}", "bold"), ("ready", "green"), f"  {time.monotonic() - started:.1f} s")
        )
        if name == "server":
            _greet(folder, addresses, profile)
        ready.add(name)
        if len(ready) == len(_END_ORDER) and name != "all":
            ready.add("all")
            (folder / "run" / "ready").write_text(str(os.getpid()))
            console.print(Text("the factory is ready; Ctrl-C ends it", style="green"))

    console.print(Text.assemble("starting the factory in ", (str(folder), "bold")))
    supervisor = Supervisor(folder / "run", instance_id(folder), _children(folder, addresses, cpus), say)
    with raised_signals(supervisor.stop):
        try:
            supervisor.run(on_ready)
        finally:
            (folder / "run" / "ready").unlink(missing_ok=True)
            console.print("ending the factory …")
            left = supervisor.end_all(_END_ORDER)
            _reap_ray(folder)
    console.print(f"the factory has ended{f'; {left} left-over processes were killed' if left else ''}")


def _addresses(folder: Path, port: int | None) -> Addresses:
    """Read or choose the folder's ports; one that another program took since then is chosen anew."""
    from factory.cli.processes import instance_id, marked_pids

    path = folder / "run" / "ports.json"
    ours = bool(marked_pids(instance_id(folder)))  # parts of an earlier life still listen: they will be adopted
    try:
        known = {k: int(v) for k, v in json.loads(path.read_text()).items()}
    except (OSError, ValueError):
        known = {}
    chosen: dict[str, int] = {}
    for name, default in _DEFAULT_PORTS.items():
        if name == "api" and port:
            chosen[name] = port
            continue
        wanted = known.get(name, default)
        usable = wanted and (_is_free(wanted) or (ours and name in known))
        chosen[name] = wanted if usable else _free_port(set(chosen.values()) | set(known.values()))
    path.write_text(json.dumps(chosen))
    return Addresses(**chosen)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _free_port(taken: set[int]) -> int:
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port not in taken:
            return port


def _children(folder: Path, addresses: Addresses, cpus: int | None) -> list:
    from factory.cli.processes import ChildSpec
    from factory.models.mlflow_process import mlflow_command
    from factory.runner.ray_process import ensure_ray_token, ray_head_command, ray_instance, ray_temp_dir

    run = folder / "run"
    (folder / "mlflow").mkdir(mode=0o700, exist_ok=True)
    token = ensure_ray_token(run / "ray.token")
    ray_argv, ray_env = ray_head_command(
        instance=ray_instance(folder),
        port=addresses.ray,
        client_port=addresses.ray_client,
        temp_dir=ray_temp_dir(folder),
        token_path=token,
        num_cpus=cpus or os.cpu_count() or 1,
    )
    mlflow_argv, mlflow_env = mlflow_command(folder, addresses.mlflow)
    join = run / "runner.join.json"
    _write_private(
        join,
        json.dumps(
            {
                "url": addresses.url,
                "runner": "local",
                "key_file": str(run / "runner.key"),
                "ray_address": f"127.0.0.1:{addresses.ray}",
                "ray_token_path": str(token),
                "node_dir": str(folder / "node"),
                "ingress_port": addresses.ingress,
                "cpus": cpus,
            }
        ),
    )
    server_env = {
        "FACTORY_DATA": str(folder),
        "FACTORY_PORT": str(addresses.api),
        "FACTORY_HOST": "127.0.0.1",
        "FACTORY_MLFLOW_URL": f"http://127.0.0.1:{addresses.mlflow}",
    }
    python = (sys.executable, "-m", "factory.cli.main")
    own = set(os.environ.items())
    return [
        ChildSpec(
            "server", (*python, "server"), server_env, stop_s=15.0, is_ready=lambda: _answers(f"{addresses.url}/readyz")
        ),
        ChildSpec(
            "ray",
            tuple(ray_argv),
            dict(set(ray_env.items()) - own),
            stop_s=5.0,
            is_ready=lambda: _listens(addresses.ray),
            before_start=lambda: _reap_ray(folder),
        ),
        ChildSpec(
            "runner",
            (*python, "runner", "--join-file", str(join)),
            stop_s=30.0,
            after=("server", "ray"),
            is_ready=lambda: _is_at_work(run),
            before_start=lambda: _renew_ingress(folder, join),
            restart_with=("ray",),
        ),
        ChildSpec(
            "mlflow",
            tuple(mlflow_argv),
            dict(set(mlflow_env.items()) - own),
            after=("server",),  # two cores: what a person waits for comes first
            is_ready=lambda: _answers(f"http://127.0.0.1:{addresses.mlflow}/health"),
        ),
    ]


def _renew_ingress(folder: Path, join: Path) -> None:
    """Give the runner another ingress port if a stranger took it; our own HAProxy outlives the runner and keeps it."""
    import psutil

    from factory.cli.processes import instance_id, marked_pids

    told = json.loads(join.read_text())
    ours = set(marked_pids(instance_id(folder)))
    for connection in psutil.net_connections("tcp4"):
        port = connection.laddr.port if connection.laddr else 0
        if connection.status == psutil.CONN_LISTEN and port == told["ingress_port"] and connection.pid not in ours:
            told["ingress_port"] = _free_port(set())
            _write_private(join, json.dumps(told))
            ports = folder / "run" / "ports.json"
            ports.write_text(json.dumps(json.loads(ports.read_text()) | {"ingress": told["ingress_port"]}))
            return


def _reap_ray(folder: Path) -> None:
    """Leave no process and no session file of an earlier Ray of this folder behind."""
    from factory.runner.ray_process import ray_instance, ray_temp_dir, reap

    reap(ray_instance(folder))
    shutil.rmtree(ray_temp_dir(folder), ignore_errors=True)


def _write_private(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    temporary.replace(path)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1.0) as answer:  # noqa: S310  # our own loopback address
            return answer.status == 200
    except (OSError, urllib.error.URLError, ValueError):
        return False


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _is_at_work(run: Path) -> bool:
    """True once the runner that lives now has joined; an earlier one's mark names another pid."""
    try:
        return (run / "runner.ready").read_text().strip() == str(json.loads((run / "runner.pid").read_text())["pid"])
    except (OSError, ValueError, KeyError):
        return False


def _is_remote(profile: Path) -> bool:
    """True if the profile holds a key of a factory on another machine: it would be lost."""
    try:
        url = str(json.loads(profile.read_text())["url"])
    except (OSError, ValueError, KeyError):
        return False
    return urllib.parse.urlsplit(url).hostname not in {"127.0.0.1", "localhost", "::1"}


def _greet(folder: Path, addresses: Addresses, profile: Path | None) -> None:
    """Write the client profile, and show the admin key if it is new."""
    from factory.sdk.profile import Profile, load_profile, profile_path, write_profile

    own = folder / "profile.json"
    fresh = folder / "run" / "admin.key"
    if fresh.exists():
        key = fresh.read_text().strip()
        write_profile(Profile(addresses.url, key), own)
        fresh.unlink()
        console.print(Text.assemble("admin key (shown once)  ", (key, "bold yellow")), soft_wrap=True)
    if own.exists():
        stored = json.loads(own.read_text())
        kept = replace(load_profile(stored["url"], stored["key"]), url=addresses.url)
        write_profile(kept, own)
        target = profile or profile_path()
        if _is_remote(target):
            target = own
            console.print(f"your profile names another factory and stays; use FACTORY_PROFILE={own}", soft_wrap=True)
        else:
            write_profile(kept, target)
        console.print(Text.assemble("profile  ", (str(target), "bold")), soft_wrap=True)
    console.print(Text.assemble("API docs ", (f"{addresses.url}/docs", "bold")), soft_wrap=True)
    console.print(Text.assemble("MLflow   ", (f"{addresses.url}/mlflow", "bold"), "  (tracking URI)"), soft_wrap=True)
