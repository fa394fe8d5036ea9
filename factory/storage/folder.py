"""The data folder and a SQLite file are one user's and one control plane's.

Only the user who runs the factory may read them: they hold every tenant's rows and the secret that tokens are made
with. And an exclusive lock, which the kernel drops when its holder dies, however it dies, lets in one control plane.

Holding it proves that a leader before us in this folder is dead (DESIGN §1). Local file systems only, not NFS.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from pathlib import Path
from types import TracebackType

from sqlalchemy.engine import make_url

from factory.errors import ConfigurationError

__all__ = ["FolderLock", "folders_to_lock", "private_file", "private_folder"]


def folders_to_lock(data: Path, database_url: str) -> tuple[Path, ...]:
    """Return the folders whose locks prove that nobody else uses this data folder, nor this SQLite file.

    Two data folders can name one database file, so its own folder is locked too where it is another one. Links are
    followed: two names of one folder are one lock.

    Raises: ConfigurationError: the URL names a file in a way (`file:…`) that does not tell which one it is.
    """
    name = make_url(database_url).database
    if not name or name == ":memory:":
        return (data.resolve(),)  # this process's own
    if name.startswith("file:"):
        raise ConfigurationError(
            "a SQLite database is named by its path, not by a file: URI",
            hint="write FACTORY_DATABASE_URL=sqlite:////folder/factory.db",
        )
    return tuple(dict.fromkeys((data.resolve(), Path(name).resolve().parent)))


def private_folder(folder: Path) -> None:
    """Make the folder if it is not there, and shut out other users (0700), unless it is somebody else's: a volume."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    _shut(folder)


def private_file(path: Path) -> None:
    """Make the database file if it is not there, and shut out other users (0600), also from its WAL and index.

    SQLite gives those two the mode of the database file when it makes them. What cannot be made here is told by whoever
    opens it next.
    """
    # O_EXCL: to close a descriptor of a file that this process has open would drop the locks that SQLite holds on it
    with contextlib.suppress(OSError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    for each in (path, *(path.with_name(path.name + suffix) for suffix in ("-wal", "-shm"))):
        _shut(each)


def _shut(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        found = path.stat()
        if found.st_uid == os.geteuid() and found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            path.chmod(found.st_mode & stat.S_IRWXU)


class FolderLock:
    """`<folder>/factory.lock`, held from `acquire` to `release` or to the end of the process. It is not inherited by
    programs that the holder starts.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "factory.lock"
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take it. Raises: ConfigurationError: another process holds it; names its pid."""
        if self._descriptor is not None:
            raise RuntimeError(f"{self.path} is locked by this object already")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            holder = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            raise ConfigurationError(
                f"another factory (pid {holder}) runs in {self.path.parent}",
                hint="stop it first, or give this one a folder of its own",
                facts={"folder": str(self.path.parent), "pid": holder},
            ) from exc
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor

    def release(self) -> None:
        """Let go. Idempotent. The file stays: removing it would let two processes lock two files of one name."""
        if self._descriptor is not None:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> FolderLock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()
