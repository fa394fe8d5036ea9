"""One control plane per data folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from factory.errors import ConfigurationError
from factory.storage.folder import FolderLock, folders_to_lock

HOLD = """
import sys
from pathlib import Path
from factory.storage.folder import FolderLock
FolderLock(Path(sys.argv[1])).acquire()
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_process_is_refused_with_the_pid_of_the_first_until_that_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(ConfigurationError, match=rf"pid {holder.pid}\b"):
            FolderLock(tmp_path).acquire()
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    with FolderLock(tmp_path) as lock:
        assert lock.path.read_text() == f"{os.getpid()}\n"


def test_a_released_folder_can_be_locked_again(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    with FolderLock(folder), pytest.raises(ConfigurationError):
        FolderLock(folder).acquire()
    with FolderLock(folder):
        pass


def test_a_program_that_the_holder_starts_does_not_keep_the_lock(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    lock.acquire()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False) as child:
        lock.release()
        with FolderLock(tmp_path):
            assert child.poll() is None
        child.communicate(b"\n")


def test_two_data_folders_that_name_one_database_share_its_lock(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "shared")
    first = folders_to_lock(tmp_path / "a", f"sqlite:///{tmp_path}/shared/factory.db")
    second = folders_to_lock(tmp_path / "b", f"sqlite:///{tmp_path}/link/factory.db")
    assert first == (tmp_path / "a", tmp_path / "shared")
    with FolderLock(first[1]), pytest.raises(ConfigurationError, match="another factory"):
        FolderLock(second[1]).acquire()


def test_a_database_in_its_data_folder_needs_one_lock(tmp_path: Path) -> None:
    assert folders_to_lock(tmp_path, f"sqlite:///{tmp_path}/factory.db") == (tmp_path,)


def test_a_database_named_by_a_uri_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="by its path"):
        folders_to_lock(tmp_path, f"sqlite:///file:{tmp_path}/factory.db?uri=true")
