"""Identifiers and names.

Ids are opaque strings with a kind prefix (`job-…`), made by an `IdSource` so that the kernel needs no randomness of its
own. Names are chosen by people and follow RFC 1123 labels, so that they fit Kubernetes, URLs and file names.
"""

from __future__ import annotations

import re
from typing import NewType, Protocol

__all__ = [
    "NAME_PATTERN",
    "AttemptId",
    "DatasetName",
    "Digest",
    "EndpointName",
    "IdSource",
    "JobId",
    "KeyId",
    "ModelName",
    "NodeId",
    "PoolName",
    "QueueName",
    "RunnerId",
    "TenantId",
    "UploadId",
    "VersionId",
    "is_name",
]

TenantId = NewType("TenantId", str)  # the tenant's name: "mobility"
QueueName = NewType("QueueName", str)
PoolName = NewType("PoolName", str)
NodeId = NewType("NodeId", str)  # stable over restarts of Ray on the same machine and folder
RunnerId = NewType("RunnerId", str)
JobId = NewType("JobId", str)  # "job-…"
AttemptId = NewType("AttemptId", str)  # "<job id>.<ordinal>": deterministic, so that a repeated start is recognised
DatasetName = NewType("DatasetName", str)
VersionId = NewType("VersionId", str)  # "dsv-…"
UploadId = NewType("UploadId", str)  # "upl-…"
ModelName = NewType("ModelName", str)
EndpointName = NewType("EndpointName", str)
KeyId = NewType("KeyId", str)
Digest = NewType("Digest", str)  # "sha256:<64 hex>"

NAME_PATTERN = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"


def is_name(text: str) -> bool:
    """True if `text` may name a tenant, queue, pool, dataset, model or endpoint.

    >>> is_name("footfall-raw"), is_name("Footfall"), is_name("-x")
    (True, False, False)
    """
    return re.fullmatch(NAME_PATTERN, text) is not None


class IdSource(Protocol):
    """Makes new ids; seeded in simulation, uuid7 in production."""

    def new(self, kind: str) -> str:
        """Return a fresh id `"<kind>-<letters>"` that sorts by creation."""
        ...
