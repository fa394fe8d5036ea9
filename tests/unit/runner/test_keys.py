"""The runner's key as a file on every node."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from factory.errors import ConfigurationError
from factory.runner.keys import keep_key, wait_for_key


def test_a_key_that_was_given_is_kept_for_this_user_only_and_read_again(tmp_path: Path) -> None:
    kept = keep_key(tmp_path / "node" / "runner.key", "fak_secret")
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert wait_for_key(kept, wait_s=0) == "fak_secret"


@pytest.mark.parametrize("content", [None, "", " \n"])
def test_a_node_without_the_key_says_which_path_it_needs(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "runner.key"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigurationError, match="at this very path") as refusal:
        wait_for_key(path, wait_s=0)
    assert str(path) in str(refusal.value)
