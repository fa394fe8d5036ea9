"""Bundles: what is unpacked and what is refused."""

from __future__ import annotations

import hashlib
import io
import stat
import zipfile
from pathlib import Path

import pytest

from factory.errors import InvalidRequestError
from factory.worker.attempt import AttemptApi
from factory.worker.code import fetch_code, unpack
from factory.worker.folders import NodeFolder


def archive(path: Path, *entries: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, content in entries:
            bundle.writestr(name, content)
    return path


def link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


def test_a_bundle_is_unpacked_with_its_folders(tmp_path: Path) -> None:
    unpack(archive(tmp_path / "b.zip", ("package/a.py", b"x = 1"), ("main.py", b"")), tmp_path / "code")

    assert (tmp_path / "code" / "package" / "a.py").read_bytes() == b"x = 1"


@pytest.mark.parametrize("name", ["../evil.py", "/etc/evil.py", "a/../../evil.py", "a\\..\\evil.py"])
def test_an_entry_that_leaves_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidRequestError, match="leaves its folder"):
        unpack(archive(tmp_path / "b.zip", (zipfile.ZipInfo(name), b"x")), tmp_path / "code")
    assert not (tmp_path / "evil.py").exists()


def test_a_link_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="neither file nor folder"):
        unpack(archive(tmp_path / "b.zip", (link("passwd"), b"/etc/passwd")), tmp_path / "code")


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="100 times"):
        unpack(archive(tmp_path / "b.zip", ("zeros", bytes(64 << 20))), tmp_path / "code")
    assert not (tmp_path / "code" / "zeros").exists()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_doubled_entry_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="twice"):
        unpack(archive(tmp_path / "b.zip", ("a", b"1"), ("./a", b"2")), tmp_path / "code")


def test_a_damaged_entry_is_the_callers_fault(tmp_path: Path) -> None:
    path = archive(tmp_path / "b.zip", ("a.py", b"x = 1\n" * 100))
    content = bytearray(path.read_bytes())
    start = zipfile.ZipFile(path).infolist()[0].header_offset + 30 + len("a.py")
    content[start : start + 4] = b"\xff\xff\xff\xff"  # no deflate block begins so
    path.write_bytes(content)
    with pytest.raises(InvalidRequestError, match="no zip that can be unpacked"):
        unpack(path, tmp_path / "code")


def test_a_name_that_no_file_system_takes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="too long"):
        unpack(archive(tmp_path / "b.zip", ("a" * 300, b"x")), tmp_path / "code")


def test_what_is_no_zip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "b.zip").write_bytes(b"no zip at all")
    with pytest.raises(InvalidRequestError, match="no zip"):
        unpack(tmp_path / "b.zip", tmp_path / "code")


class Sends(AttemptApi):
    """Sends these bytes, whatever is asked for, and counts."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.calls = 0

    def code(self, digest: str, target: Path) -> None:
        self.calls += 1
        target.write_bytes(self.content)


def test_code_is_fetched_once_per_node_and_checked_at_every_use(tmp_path: Path) -> None:
    node = NodeFolder(tmp_path)
    node.create()
    buffer = io.BytesIO(b"bundle")
    digest = f"sha256:{hashlib.sha256(buffer.getvalue()).hexdigest()}"
    api = Sends(buffer.getvalue())

    first, second = fetch_code(api, node, digest), fetch_code(api, node, digest)
    assert (first, api.calls) == (second, 1)

    first.write_bytes(b"changed by somebody")
    assert fetch_code(api, node, digest).read_bytes() == b"bundle"
    assert api.calls == 2


def test_code_that_is_not_what_its_digest_says_is_refused(tmp_path: Path) -> None:
    node = NodeFolder(tmp_path)
    node.create()
    with pytest.raises(InvalidRequestError, match="is not sha256:"):
        fetch_code(Sends(b"other"), node, f"sha256:{hashlib.sha256(b'wanted').hexdigest()}")
    assert list(node.cache.iterdir()) == []
