"""Settings of the control plane: FACTORY_… variables, with defaults that suit one machine.

Every duration and size carries its unit in the name. Secrets are files in the data folder, never settings (rule 10).
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from factory.domain.resources import GIB, MIB
from factory.errors import ConfigurationError

__all__ = ["Settings", "check_bind"]

Seconds = Annotated[int, Field(ge=1)]
Bytes = Annotated[int, Field(ge=1)]


class Settings(BaseSettings):
    """How this control plane runs. Relative paths are taken from the working folder."""

    model_config = SettingsConfigDict(env_prefix="FACTORY_", env_ignore_empty=True, extra="ignore", frozen=True)

    # where it lives
    data: Path = Path("factory-data")  # the data folder
    host: str = "127.0.0.1"
    port: int = Field(8090, ge=0, le=65535)  # 0 = any free port; the address is then in <data>/run/server.json
    public_url: str = ""  # as users and nodes reach it; "" = http(s)://host:port
    tls_cert: Path | None = None
    tls_key: Path | None = None
    insecure_bind: bool = False  # allow a non-loopback address without TLS (behind a proxy that ends TLS)
    database_url: str = ""  # "" = SQLite in the data folder
    secret_file: Path | None = None  # what attempt tokens are made with; servers of one database share it
    mlflow_url: str = ""  # MLflow's own address, on loopback; "" = none
    shared_files: bool = True  # runners see this machine's files: answers carry file:// locations

    # limits
    json_limit_bytes: Bytes = MIB
    upload_limit_bytes: Bytes = 2 * GIB
    bundle_limit_bytes: Bytes = 64 * MIB
    model_limit_bytes: Bytes = 2 * GIB
    log_chunk_limit_bytes: Bytes = 4 * MIB
    log_quota_bytes: Bytes = GIB  # per attempt; what is beyond is dropped, with a mark
    mlflow_artifact_limit_bytes: Bytes = GIB

    # behaviour
    lease_ttl_s: Seconds = 15  # how long a leader leads without renewing
    lost_node_keep_s: Seconds = 3600  # a lost node that holds nothing is removed so long after its last report
    runner_silence_s: Seconds = 30  # after so long without a call a runner counts as silent
    min_runtime_s: int | None = Field(None, ge=0)  # an attempt runs so long before it may be preempted; as the policy
    max_preemptions: int | None = Field(None, ge=0)  # of one job, after that it is left alone; None = as the policy
    max_victims: int = Field(64, ge=1)  # attempts that may be preempted for one job
    preempts_for_share: bool = True  # also above quota: for a department whose share is less
    poll_s: Seconds = 25  # the longest wait of one long poll
    drain_s: Seconds = 10  # how long calls may go on after SIGTERM
    loop_stall_s: Seconds = 30  # a leader whose loop has not turned for so long is not ready
    warm_per_node: int = Field(1, ge=0, le=64)  # replicas kept ready on each node
    upload_keep_s: Seconds = 86_400  # an upload that nobody has registered by then is removed
    housekeeping_s: Seconds = 30  # between two looks for staged bytes that nobody needs any more
    projection_s: Seconds = 60  # between two looks at MLflow when no model changed: repairs what others moved there
    worker_threads: int = Field(16, ge=1, le=256)  # of the pool that runs blocking calls

    # logs of this process
    log_format: Literal["json", "console"] = "json"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @property
    def store_url(self) -> str:
        """The database's SQLAlchemy URL."""
        return self.database_url or f"sqlite:///{self.data.absolute() / 'factory.db'}"

    @property
    def is_sqlite(self) -> bool:
        """True if the file locks of data folder and database prove that no other control plane lives."""
        return self.store_url.startswith("sqlite")

    @property
    def has_tls(self) -> bool:
        """True if the server ends TLS itself."""
        return self.tls_cert is not None

    @property
    def objects(self) -> Path:
        """Folder of the object store."""
        return self.data.absolute() / "objects"

    @property
    def tables(self) -> Path:
        """Folder of the Delta tables: <tables>/<tenant>/<dataset>."""
        return self.data.absolute() / "tables"

    @property
    def run(self) -> Path:
        """Folder of addresses, keys for the supervisor, pid files and process logs."""
        return self.data.absolute() / "run"

    def url(self, port: int) -> str:
        """Return the address that users and nodes reach this server by."""
        if self.public_url:
            return self.public_url.rstrip("/")
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)  # noqa: S104  no bind: a name for clients
        return f"{'https' if self.has_tls else 'http'}://{host}:{port}"


def check_bind(settings: Settings) -> None:
    """Refuse an address that others reach in clear text.

    Raises: ConfigurationError: half a TLS pair, a file that is missing, or a non-loopback bind without TLS.
    """
    if (settings.tls_cert is None) != (settings.tls_key is None):
        raise ConfigurationError(
            "TLS needs a certificate and its key; only one of them is set",
            hint="set both FACTORY_TLS_CERT and FACTORY_TLS_KEY",
        )
    for path in (settings.tls_cert, settings.tls_key):
        if path is not None and not path.is_file():
            raise ConfigurationError(
                f"the TLS file {path} does not exist", hint="check FACTORY_TLS_CERT, FACTORY_TLS_KEY"
            )
    if settings.has_tls or settings.insecure_bind or _is_loopback(settings.host):
        return
    raise ConfigurationError(
        f"other machines reach the address {settings.host}, and without TLS keys would travel in clear text",
        hint="set FACTORY_TLS_CERT and FACTORY_TLS_KEY, or FACTORY_INSECURE_BIND=true behind a proxy that ends TLS",
    )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # a name: it may resolve to anything
