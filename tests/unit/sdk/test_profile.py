"""Which factory the SDK talks to: arguments, environment, profile, in this order."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from factory import errors
from factory.sdk.profile import Profile, load_profile, write_profile


@pytest.fixture(autouse=True)
def own_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "profile.json"
    monkeypatch.setenv("FACTORY_PROFILE", str(path))
    for name in ("FACTORY_URL", "FACTORY_KEY", "FACTORY_TENANT"):
        monkeypatch.delenv(name, raising=False)
    return path


def test_the_profile_is_for_its_user_only(own_profile: Path) -> None:
    write_profile(Profile("http://a", "k"))
    assert stat.S_IMODE(own_profile.stat().st_mode) == 0o600


def test_without_arguments_the_profile_says_where() -> None:
    write_profile(Profile("http://a", "k", "water"))
    assert load_profile() == Profile("http://a", "k", "water")


def test_the_environment_goes_before_the_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    write_profile(Profile("http://a", "k"))
    monkeypatch.setenv("FACTORY_URL", "http://b/")
    monkeypatch.setenv("FACTORY_KEY", "l")
    assert load_profile() == Profile("http://b", "l")


def test_a_key_is_never_sent_to_another_factory() -> None:
    write_profile(Profile("http://a", "k"))
    with pytest.raises(errors.ConfigurationError, match="no factory key"):
        load_profile(url="http://evil")


def test_without_any_factory_the_error_says_how_to_start_one() -> None:
    with pytest.raises(errors.ConfigurationError) as caught:
        load_profile()
    assert "factory up" in caught.value.hint


def test_a_broken_profile_is_named(own_profile: Path) -> None:
    own_profile.write_text("{")
    with pytest.raises(errors.ConfigurationError, match=r"profile\.json"):
        load_profile()
