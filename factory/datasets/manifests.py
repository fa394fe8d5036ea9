"""Manifest ids: what makes two versions the same version.

The id is the sha256 of the manifest's canonical JSON. Names of files do not enter it, because they carry the version's
id: two registrations of the same bytes, contract and parents give the same id. Size, digest and rows of each file do,
in file order, since the order of rows is part of the data.
"""

from __future__ import annotations

import hashlib
import json

from factory.domain.datasets import Manifest
from factory.domain.ids import Digest

__all__ = ["canonical_manifest_json", "manifest_id"]


def canonical_manifest_json(manifest: Manifest) -> str:
    """Return the one JSON text of a manifest: sorted keys, no spaces, files without their paths."""
    document = {
        "dataset": manifest.dataset,
        "source_digest": manifest.source_digest,
        "columns": [[column.name, column.dtype] for column in manifest.columns],
        "rows": manifest.rows,
        "files": [
            {
                "size_bytes": file.size_bytes,
                "sha256": file.sha256,
                "rows": file.rows,
                "partition": json.loads(file.partition_json),
            }
            for file in manifest.files
        ],
        "contract_digest": manifest.contract_digest,
        "parents": sorted(manifest.parents),
    }
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def manifest_id(manifest: Manifest) -> Digest:
    """Return "sha256:<hex>" of the canonical JSON."""
    return Digest("sha256:" + hashlib.sha256(canonical_manifest_json(manifest).encode()).hexdigest())
