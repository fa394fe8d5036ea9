"""Code bundles: the caller's code as a zip whose name is its content's sha256.

What goes in: the top-level package of the function's module, or the folder of a plain script; .gitignore is honoured.
Equal files give equal bytes (sorted names, fixed times), so that a bundle is uploaded once.
"""

from __future__ import annotations

import hashlib
import io
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factory.errors import InvalidRequestError, PayloadTooLargeError

__all__ = ["BUNDLE_LIMIT_BYTES", "Bundle", "FunctionRef", "bundle_folder", "locate"]

BUNDLE_LIMIT_BYTES = 64 << 20
_ALWAYS_OUT = ("__pycache__/", "*.pyc", ".git/", ".venv/", "node_modules/", ".ipynb_checkpoints/", "*.egg-info/")


@dataclass(frozen=True, slots=True)
class Bundle:
    """Zipped code."""

    digest: str  # "sha256:…"
    content: bytes


@dataclass(frozen=True, slots=True)
class FunctionRef:
    """How a worker finds the function: import `module` from the bundle, take `qualname`."""

    module: str
    qualname: str
    root: Path | None  # folder that goes on sys.path; None = installed, no bundle needed
    only: str | None  # name below root that is bundled; None = the whole folder


def locate(function: Callable[..., Any]) -> FunctionRef | None:
    """Return where the function's code is, or None for one without a file (a notebook's or a REPL's)."""
    module = sys.modules.get(function.__module__)
    name = function.__module__
    spec = getattr(module, "__spec__", None)
    if name == "__main__" and spec is not None:  # python -m package.module
        name = spec.name.removesuffix(".__main__")
    file = getattr(module, "__file__", None)
    if file is None or "<locals>" in function.__qualname__ or "<lambda>" in function.__qualname__:
        return None
    path = Path(file).resolve()
    if name == "__main__":
        name = path.stem
    if not name.replace(".", "").isidentifier():
        return None
    depth = name.count(".") + (1 if path.name == "__init__.py" else 0)
    root = path.parents[depth]
    if "site-packages" in root.parts or (root == Path(__file__).resolve().parents[2] and name.startswith("factory.")):
        return FunctionRef(name, function.__qualname__, None, None)
    return FunctionRef(name, function.__qualname__, root, name.split(".")[0] if "." in name else None)


def bundle_folder(root: Path, only: str | None = None, *, limit_bytes: int = BUNDLE_LIMIT_BYTES) -> Bundle:
    """Zip a folder (or the entry `only` of it).

    Raises: PayloadTooLargeError: over the limit; names the largest files. InvalidRequestError: nothing to bundle.
    """
    buffer = io.BytesIO()
    sizes: list[tuple[int, str]] = []
    total = 0
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for path in _files(root, only):
            data = path.read_bytes()
            name = path.relative_to(root).as_posix()
            sizes.append((len(data), name))
            total += len(data)
            if total > limit_bytes:
                worst = ", ".join(f"{n} ({s / 1e6:.1f} MB)" for s, n in sorted(sizes, reverse=True)[:3])
                raise PayloadTooLargeError(
                    f"the code in {root / (only or '')} is over {limit_bytes >> 20} MiB; largest: {worst}",
                    hint="name data and outputs in .gitignore, or register data as a dataset",
                )
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)
    if not sizes:
        raise InvalidRequestError(f"there is no code to bundle in {root}", hint="is everything in .gitignore?")
    content = buffer.getvalue()
    return Bundle(f"sha256:{hashlib.sha256(content).hexdigest()}", content)


def _files(root: Path, only: str | None) -> Iterator[Path]:
    from pathspec import GitIgnoreSpec

    lines = list(_ALWAYS_OUT)
    for folder in (root, root / only if only else root):
        ignore = folder / ".gitignore"
        if ignore.is_file():
            lines += ignore.read_text().splitlines()
    spec = GitIgnoreSpec.from_lines(dict.fromkeys(lines))
    start = root / only if only else root
    if start.is_file():
        yield start
        return
    pending = [start]
    while pending:
        folder = pending.pop()
        for path in sorted(folder.iterdir()):
            name = path.relative_to(root).as_posix()
            if path.is_symlink():
                continue
            if path.is_dir():
                if not spec.match_file(f"{name}/"):
                    pending.append(path)
            elif path.is_file() and not spec.match_file(name):
                yield path
