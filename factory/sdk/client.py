"""`Client`: the factory from Python."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from factory.schemas.platform import StatusView
from factory.sdk.datasets import Datasets
from factory.sdk.history import History
from factory.sdk.jobs import Jobs
from factory.sdk.models import Algorithms, Endpoints, Models
from factory.sdk.platform import Keys, Nodes, Pools, Queues, Tenants
from factory.sdk.profile import load_profile
from factory.sdk.transport import Transport

__all__ = ["Client"]

_default: Client | None = None


class Client:
    """A connection to one factory as one key. Thread-safe.

    Without arguments: environment (FACTORY_URL, FACTORY_KEY, FACTORY_TENANT), else the profile of `factory up`.
    Raises: ConfigurationError: no factory is known.
    """

    def __init__(
        self, url: str | None = None, key: str | None = None, *, tenant: str | None = None, timeout_s: float = 30.0
    ) -> None:
        self.profile = load_profile(url, key, tenant)
        self.transport = Transport(self.profile, timeout_s=timeout_s)
        self.jobs = Jobs(self.transport)
        self.history = History(self.transport)
        self.datasets = Datasets(self.transport)
        self.algorithms = Algorithms(self.transport)
        self.models = Models(self.transport)
        self.endpoints = Endpoints(self.transport)
        self.pools = Pools(self.transport)
        self.nodes = Nodes(self.transport)
        self.queues = Queues(self.transport)
        self.tenants = Tenants(self.transport)
        self.keys = Keys(self.transport)

    @classmethod
    def default(cls) -> Client:
        """The process's shared client, made from environment or profile at the first use."""
        global _default
        if _default is None:
            _default = cls()
        return _default

    def status(self) -> StatusView:
        """How the factory is."""
        return self.transport.get(StatusView, "/status")

    def close(self) -> None:
        """Close the connections."""
        self.transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
