"""The mutator changes one thing at a time, and nothing that has no meaning."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from benchmarks.mutation import mutants_of, mutated

SOURCE = '''
"""Text."""
from __future__ import annotations
__all__ = ["f"]
LIMIT: int = 3

def f(a: int | str, b: int) -> int:
    """More text with 1 number."""
    if a < b and not b:
        b += 1
        print(f"{a} of {b}")
    for _ in range(LIMIT):
        if a is None:
            break
    return min(a, b)  # pragma: no cover
'''


@pytest.fixture
def changes(tmp_path: Path) -> list[tuple[str, str]]:
    path = tmp_path / "module.py"
    path.write_text(SOURCE)
    return [(mutant.change, ast.unparse(mutated(mutant))) for mutant in mutants_of(path)]


def test_each_kind_of_change_is_made(changes: list[tuple[str, str]]) -> None:
    made = {change for change, _ in changes}
    assert made >= {
        "a < b -> a <= b",
        "a < b -> a >= b",
        "a < b and (not b) -> or",
        "not b -> without not",
        "b += 1 -> b -= 1",
        "removed: b += 1",
        "1 -> 2",
        "3 -> 4",
        "a is None -> a is not None",
        "break -> continue",
    }


def test_texts_annotations_and_lines_that_are_not_covered_are_left_alone(changes: list[tuple[str, str]]) -> None:
    made = " ".join(change for change, _ in changes)
    assert "int |" not in made
    assert "min" not in made
    assert "text" not in made


def test_every_change_is_another_program(changes: list[tuple[str, str]]) -> None:
    original = ast.unparse(ast.parse(SOURCE))
    programs = [program for _, program in changes]
    assert original not in programs
    assert len(set(programs)) == len(programs)


def test_every_change_of_the_retry_policy_compiles() -> None:
    found = mutants_of(Path("factory/lifecycle/retrying.py"))
    assert len(found) > 20
    for mutant in found:
        compile(mutated(mutant), mutant.path, "exec")
