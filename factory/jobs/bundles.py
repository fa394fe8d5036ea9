"""Code in the object store: a zip or a pickle under its digest, per tenant. Nothing is opened here (rule 10)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator

from factory.domain.ids import Digest, TenantId
from factory.errors import InvalidRequestError, NotFoundError
from factory.jobs.ports import CodeObjects

__all__ = ["BUNDLE_LIMIT_BYTES", "Bundles", "bundle_key", "check_digest"]

BUNDLE_LIMIT_BYTES = 64 << 20
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def check_digest(text: str) -> Digest:
    """Return it as a digest. Raises: InvalidRequestError: it is not "sha256:" and 64 hex digits."""
    if _DIGEST.fullmatch(text) is None:
        raise InvalidRequestError(f"'{text}' is not a digest", hint="write it as sha256: and 64 hex digits")
    return Digest(text)


def bundle_key(tenant: TenantId, digest: str) -> str:
    """Return where a bundle of a tenant is stored."""
    return f"bundles/{tenant}/{digest.removeprefix('sha256:')}"


class Bundles:
    """Adapter of `jobs.ports.BundleStore` on the object store."""

    def __init__(self, objects: CodeObjects) -> None:
        self._objects = objects

    def has(self, tenant: TenantId, digests: Iterable[str]) -> frozenset[str]:
        return frozenset(d for d in digests if self._objects.info(bundle_key(tenant, check_digest(d))) is not None)

    def put(self, tenant: TenantId, digest: str, chunks: Iterable[bytes]) -> bool:
        """Store code under its digest; True if it is new.

        Raises: InvalidRequestError: the bytes have another digest; PayloadTooLargeError. Nothing is stored then.
        """
        key = bundle_key(tenant, check_digest(digest))
        is_new = self._objects.info(key) is None
        self._objects.put(key, _verified(chunks, digest), limit_bytes=BUNDLE_LIMIT_BYTES)
        return is_new

    def open(self, tenant: TenantId, digest: str) -> Iterator[bytes]:
        """Yield the bytes. Raises: NotFoundError."""
        key = bundle_key(tenant, check_digest(digest))
        if self._objects.info(key) is None:
            raise NotFoundError("bundle", digest, hint="upload it first: PUT /api/v1/bundles/{digest}")
        return self._objects.get(key)


def _verified(chunks: Iterable[bytes], digest: str) -> Iterator[bytes]:
    # the check is inside the stream, so that a wrong body fails the put and leaves nothing
    seen = hashlib.sha256()
    for chunk in chunks:
        seen.update(chunk)
        yield chunk
    found = f"sha256:{seen.hexdigest()}"
    if found != digest:
        raise InvalidRequestError(
            f"the body has the digest {found}, not {digest}", hint="send the bytes whose digest the address names"
        )
