"""AI Factory: shares a city's GPUs and CPUs, governs its data, algorithms and models, runs its jobs on Ray.

import factory

@factory.job(cpu=1)
def double(x): return 2 * x

double.submit(21).result()
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from factory.sdk.client import Client
    from factory.sdk.decorators import job

__all__ = ["Client", "__version__", "job"]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name == "Client":
        from factory.sdk.client import Client

        return Client
    if name == "job":
        from factory.sdk.decorators import job

        return job
    raise AttributeError(f"module 'factory' has no attribute '{name}'")
