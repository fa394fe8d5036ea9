"""Code bundles: what goes in, that equal code gives equal bytes, and what is refused."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest

from factory import errors
from factory.sdk.bundles import bundle_folder, locate


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "steps.py").write_text("def run(): ...\n")
    (tmp_path / "app" / "__pycache__").mkdir()
    (tmp_path / "app" / "__pycache__" / "steps.pyc").write_bytes(b"x")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "big.csv").write_text("1,2\n")
    (tmp_path / ".gitignore").write_text("data/\n*.tmp\n")
    (tmp_path / "note.tmp").write_text("no")
    return tmp_path


def _names(content: bytes) -> list[str]:
    return zipfile.ZipFile(io.BytesIO(content)).namelist()


def test_gitignore_is_honoured_and_caches_stay_out(project: Path) -> None:
    assert set(_names(bundle_folder(project).content)) == {".gitignore", "app/steps.py"}


def test_equal_code_gives_equal_bytes(project: Path) -> None:
    first = bundle_folder(project)
    (project / "app" / "steps.py").touch()
    assert bundle_folder(project) == first


def test_one_package_of_a_folder_can_be_bundled_alone(project: Path) -> None:
    assert _names(bundle_folder(project, "app").content) == ["app/steps.py"]


def test_too_much_code_names_the_largest_files(project: Path) -> None:
    (project / "weights.bin").write_bytes(b"0" * 5000)
    with pytest.raises(errors.PayloadTooLargeError, match=r"weights\.bin") as caught:
        bundle_folder(project, limit_bytes=4000)
    assert ".gitignore" in caught.value.hint


def test_a_folder_without_code_is_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidRequestError, match="no code"):
        bundle_folder(tmp_path)


def test_links_do_not_lead_out_of_the_folder(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    secret = tmp_path_factory.mktemp("other") / "secret.py"
    secret.write_text("KEY = 1\n")
    (project / "app" / "link.py").symlink_to(secret)
    assert "app/link.py" not in _names(bundle_folder(project).content)


def test_a_function_of_a_module_is_found_by_reference() -> None:
    ref = locate(_names)
    assert ref is not None
    assert ref.qualname == "_names"
    assert ref.root is not None


def test_a_lambda_has_no_reference() -> None:
    assert locate(lambda: None) is None


def test_a_function_of_an_installed_package_needs_no_bundle() -> None:
    ref = locate(pytest.approx)
    assert ref is not None
    assert ref.root is None
