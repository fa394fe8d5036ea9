"""The table of settings in docs/architecture.md is the one of factory/settings.py."""

from __future__ import annotations

import re
from pathlib import Path

import factory
from factory.settings import Settings

PAGE = Path(factory.__file__).parents[1] / "docs" / "architecture.md"
ROW = re.compile(r"^\| `(FACTORY_\w+)` \| (–|`[^`]*`)[^|]* \| (.+) \|$", re.MULTILINE)


def as_text(value: object) -> str:
    """A default as the table writes it; what is empty, or not there, as a dash."""
    if value is None or value == "":
        return "–"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def test_every_setting_has_its_row_with_its_default_and_every_row_its_setting() -> None:
    rows = {name: default for name, default, _ in ROW.findall(PAGE.read_text())}
    settings = {f"FACTORY_{n.upper()}": as_text(field.default) for n, field in Settings.model_fields.items()}
    assert rows == settings


def test_the_rows_stand_in_the_order_of_the_settings() -> None:
    rows = [name for name, _, _ in ROW.findall(PAGE.read_text())]
    assert rows == [f"FACTORY_{name.upper()}" for name in Settings.model_fields]


def test_a_size_in_words_is_the_number_beside_it() -> None:
    sizes = re.findall(r"`(\d+)` \((\d+) (MiB|GiB)\)", PAGE.read_text())
    assert sizes
    for number, count, unit in sizes:
        assert int(number) == int(count) << {"MiB": 20, "GiB": 30}[unit]
