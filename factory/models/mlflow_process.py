"""How an MLflow server of our own is started: on loopback, alone, with everything off that we do not use.

Nothing but the control plane talks to it (its routes are not a tenant wall, notes/reliability.md §6). Switched off: job
execution (it was a remote code execution), pickle loading, telemetry, the model catalogue's download, multipart
uploads. The AI gateway, webhooks and scorers have no switch; the proxy has no route to them.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

__all__ = ["mlflow_command"]


def mlflow_command(data_dir: Path, port: int) -> tuple[tuple[str, ...], Mapping[str, str]]:
    """Return the argument list, and the environment on top of ours, of an MLflow server.

    It keeps its SQLite file and artifacts below `<data_dir>/mlflow` (made by the caller, 0700) and listens on
    127.0.0.1:`port`. One uvicorn worker: gunicorn and waitress would drop its security middleware.
    """
    home = data_dir.absolute() / "mlflow"
    argv = (
        sys.executable, "-m", "mlflow", "server",
        "--host", "127.0.0.1",
        "--port", str(port),
        "--workers", "1",
        "--backend-store-uri", f"sqlite:///{home / 'mlflow.db'}",
        "--serve-artifacts",
        "--artifacts-destination", (home / "artifacts").as_uri(),
        "--default-artifact-root", "mlflow-artifacts:/",
        "--allowed-hosts", f"127.0.0.1:{port},localhost:{port}",
        "--cors-allowed-origins", f"http://127.0.0.1:{port}",
        "--x-frame-options", "DENY",
    )  # fmt: skip
    env = {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_MODEL_CATALOG_URI": "",
        "MLFLOW_SKIP_PIP_REQUIREMENTS_CHECK": "true",
        "MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD": "false",
        "DO_NOT_TRACK": "1",
        "GIT_PYTHON_REFRESH": "quiet",
    }
    return argv, env
