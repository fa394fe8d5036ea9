"""How much do the tests notice? Change the code in small ways, run the tests that cover the change, count who fails.

Prints one JSON object on its last line: {mutants, killed, timeout, survived, uncovered, score}, before it every
survivor with its place and change. `score` = (killed + timeout) ÷ mutants; `uncovered` ones are part of the survivors.

A sample is drawn with a seed from all changes of the packages' files: comparisons and their boundaries, arithmetic,
`and`/`or`, negated conditions, numbers by one, booleans, `min`/`max`, removed statements, `break`/`continue`, returned
values. Texts, annotations, imports, `__all__` and what stands under `pragma: no cover` are left alone. Some changes
mean the same as before (a longer number of a cache, a tie that cannot occur), so that 100 % is out of reach.

Fast, so that 600 mutants take half an hour on two cores: a first run per package traces which test executes which
line; each mutant then gets a fork of this process, in which pytest and all third-party modules are loaded already, and
runs only the tests that execute the changed line, the quick ones first, up to the first failure.

Why not mutmut or cosmic-ray: mutmut 3 copies the project and has no seeded sample of several packages, cosmic-ray
starts a fresh pytest for every mutant.

Run it where nobody edits meanwhile (a clone, a worktree): files are read when their mutant's turn comes. With
`--results FILE` a run that was cut off goes on where it was.

    python -m benchmarks.mutation --package factory/scheduling --package factory/lifecycle --sample 600 --seed 1
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import pickle
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import CodeType, FrameType, ModuleType
from typing import Any

# loaded once, before the forks; nothing of the mutated packages may be among them
import hypothesis
import hypothesis.strategies
import numpy as np
import pytest

import factory.domain.jobs
import factory.errors

__all__ = ["Mutant", "main", "mutants_of"]

TESTS = ("tests/unit/{name}", "tests/properties/{name}")
SURVIVED, KILLED, TIMEOUT, UNCOVERED = "survived", "killed", "timeout", "uncovered"
_PRELOADED = (hypothesis.strategies, np, factory.domain.jobs, factory.errors)


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of one file: the `number`-th that `mutants_of` finds in it."""

    path: str
    number: int
    line: int
    change: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.change}"


def main(arguments: list[str] | None = None) -> int:
    """Draw, run, print. Exit 1 if the tests fail without any change."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mutation", description="mutation testing")
    parser.add_argument("--package", action="append", help="a folder; default: factory/scheduling factory/lifecycle")
    parser.add_argument("--sample", type=int, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--limit-s", type=float, default=60, help="for the tests of one mutant, at most")
    parser.add_argument("--results", type=Path, help="append each result here; those already there are not run again")
    given = parser.parse_args(arguments)
    began = time.perf_counter()
    packages = [Path(package) for package in given.package or ("factory/scheduling", "factory/lifecycle")]
    found = [m for package in packages for path in sorted(package.rglob("*.py")) for m in mutants_of(path)]
    drawn = Random(given.seed).sample(found, min(given.sample, len(found)))
    drawn.sort(key=lambda mutant: (mutant.path, mutant.number))
    covers: dict[str, dict[int, list[tuple[float, str]]]] = {}
    for package in packages:
        traced = _in_fork(_trace, package)
        if traced is None:
            print(f"the tests of {package} fail without any change: pytest {' '.join(_test_folders(package))}")
            return 1
        covers |= traced
        tests = {test for lines in traced.values() for all_of_them in lines.values() for _, test in all_of_them}
        print(f"{package}: {len(tests)} tests traced after {time.perf_counter() - began:.0f} s", flush=True)
    results = _run_all(drawn, covers, given.processes, given.limit_s, given.results)
    for mutant in drawn:
        if results[mutant] in (SURVIVED, UNCOVERED):
            print(f"{results[mutant]}: {mutant}")
    counted = Counter(results.values())
    caught = counted[KILLED] + counted[TIMEOUT]
    by_package = {
        str(package): round(
            sum(results[m] in (KILLED, TIMEOUT) for m in drawn if Path(m.path).is_relative_to(package))
            / max(1, sum(Path(m.path).is_relative_to(package) for m in drawn)),
            4,
        )
        for package in packages
    }
    figures: dict[str, Any] = {
        "mutants": len(drawn),
        "of": len(found),
        "killed": counted[KILLED],
        "timeout": counted[TIMEOUT],
        "survived": counted[SURVIVED] + counted[UNCOVERED],
        "uncovered": counted[UNCOVERED],
        "score": round(caught / max(1, len(drawn)), 4),
        "score_by_package": by_package,
        "seed": given.seed,
        "wall_s": round(time.perf_counter() - began, 1),
    }
    print(json.dumps(figures))
    return 0


# -- changes -----------------------------------------------------------------------------------------------------------

_COMPARE: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}
_NAMES = {"min": "max", "max": "min", "any": "all", "all": "any"}


def mutants_of(path: Path) -> list[Mutant]:
    """Return every change of a file, in a stable order."""
    return [Mutant(str(path), n, line, change) for n, (line, change, _) in enumerate(_sites(path.read_text()))]


def mutated(mutant: Mutant) -> ast.Module:
    """Return the tree of the file with the change made."""
    for number, (_, _, apply) in enumerate(_sites(Path(mutant.path).read_text())):
        if number == mutant.number:
            return apply()
    raise ValueError(f"no such change: {mutant}")


def _sites(source: str) -> Iterator[tuple[int, str, Any]]:
    """Iterate over (line, change, function that gives the changed tree)."""
    tree = ast.parse(source)
    skipped = _skipped_lines(source)
    places = list(_places(tree))
    for index, (node, parents) in enumerate(places):
        line = getattr(node, "lineno", 0)
        if line in skipped:
            continue
        for change, replacement in _changes(node, parents):

            def apply(index: int = index, replacement: ast.AST = replacement) -> ast.Module:
                fresh = ast.parse(source)
                target, above = list(_places(fresh))[index]
                _swap(above[-1], target, ast.copy_location(copy.deepcopy(replacement), target))
                return ast.fix_missing_locations(fresh)

            yield line, change, apply


def _places(tree: ast.AST, above: tuple[ast.AST, ...] = ()) -> Iterator[tuple[ast.AST, tuple[ast.AST, ...]]]:
    """Walk over what may be changed, depth first; texts, annotations, imports and declarations are passed over."""
    for name, value in ast.iter_fields(tree):
        if name in ("annotation", "returns", "decorator_list", "bases", "type_params"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST):
                continue
            if isinstance(child, ast.Import | ast.ImportFrom | ast.JoinedStr | ast.expr_context | ast.AnnAssign):
                if isinstance(child, ast.AnnAssign) and child.value is not None:
                    yield from _places(child, (*above, tree))
                continue
            if isinstance(child, ast.Assign) and _is_declaration(child):
                continue
            if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
                continue  # a docstring or `...`
            if isinstance(child, ast.Call) and getattr(child.func, "id", "") in ("assert_never", "cast", "TypeVar"):
                continue
            if isinstance(child, ast.If) and getattr(child.test, "id", "") == "TYPE_CHECKING":
                continue
            yield child, (*above, tree)
            yield from _places(child, (*above, tree))


def _is_declaration(node: ast.Assign) -> bool:
    return any(getattr(target, "id", "") == "__all__" for target in node.targets)


def _skipped_lines(source: str) -> set[int]:
    return {n for n, line in enumerate(source.splitlines(), 1) if "pragma: no cover" in line}


def _changes(node: ast.AST, parents: tuple[ast.AST, ...]) -> Iterator[tuple[str, ast.AST]]:
    match node:
        case ast.Compare(left=left, ops=ops, comparators=rest):
            for at, op in enumerate(ops):
                for other in _COMPARE[type(op)]:
                    changed = [*ops[:at], other(), *ops[at + 1 :]]
                    new = ast.Compare(left, changed, rest)
                    yield f"{ast.unparse(node)} -> {ast.unparse(new)}", new
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC and not _is_type(node, parents):
            new = ast.BinOp(left, _ARITHMETIC[type(op)](), right)
            yield f"{ast.unparse(node)} -> {ast.unparse(new)}", new
        case ast.AugAssign(target=target, op=op, value=value):
            if type(op) in _ARITHMETIC:
                new = ast.AugAssign(target, _ARITHMETIC[type(op)](), value)
                yield f"{ast.unparse(node)} -> {ast.unparse(new)}", new
            yield f"removed: {ast.unparse(node)}", ast.Pass()
        case ast.BoolOp(op=op, values=values):
            new = ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), values)
            yield f"{_short(node)} -> {'or' if isinstance(op, ast.And) else 'and'}", new
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield f"{_short(node)} -> without not", operand
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            yield f"{_short(node)} -> without minus", operand
        case ast.If(test=test, body=body, orelse=orelse) if not isinstance(test, ast.Compare | ast.UnaryOp):
            yield f"if {_short(test)} -> if not", ast.If(ast.UnaryOp(ast.Not(), test), body, orelse)
        case ast.IfExp(test=test, body=body, orelse=orelse):
            yield f"{_short(node)} -> branches swapped", ast.IfExp(test, orelse, body)
        case ast.While(test=test, body=body, orelse=orelse) if not isinstance(test, ast.Compare | ast.Constant):
            yield f"while {_short(test)} -> never", ast.While(ast.Constant(False), body, orelse)
        case ast.Constant(value=bool() as value):
            yield f"{value} -> {not value}", ast.Constant(not value)
        case ast.Constant(value=int() as value):
            yield f"{value} -> {value + 1}", ast.Constant(value + 1)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords) if name in _NAMES:
            yield f"{_short(node)} -> {_NAMES[name]}", ast.Call(ast.Name(_NAMES[name], ast.Load()), args, keywords)
        case ast.Expr(value=ast.Call()):
            yield f"removed: {_short(node)}", ast.Pass()
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield f"removed: {_short(node)}", ast.Pass()
        case ast.Delete():
            yield f"removed: {_short(node)}", ast.Pass()
        case ast.Break():
            yield "break -> continue", ast.Continue()
        case ast.Continue():
            yield "continue -> break", ast.Break()
        case ast.Return(value=value) if value is not None and not isinstance(value, ast.Constant):
            yield f"{_short(node)} -> return None", ast.Return(ast.Constant(None))
        case _:
            return


def _is_type(node: ast.AST, parents: tuple[ast.AST, ...]) -> bool:
    """`int | str` in isinstance, a match, or an alias at module level."""
    if not isinstance(getattr(node, "op", None), ast.BitOr):
        return False
    inside = any(isinstance(p, ast.Call) and getattr(p.func, "id", "") == "isinstance" for p in parents)
    return inside or isinstance(parents[-1], ast.Module | ast.AnnAssign)


def _short(node: ast.AST) -> str:
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def _swap(parent: ast.AST, old: ast.AST, new: ast.AST) -> None:
    for name, value in ast.iter_fields(parent):
        if value is old:
            setattr(parent, name, new)
        elif isinstance(value, list):
            setattr(parent, name, [new if child is old else child for child in value])


# -- runs --------------------------------------------------------------------------------------------------------------


class _Loader(importlib.machinery.SourceFileLoader):
    def __init__(self, name: str, path: str, mutant: Mutant) -> None:
        super().__init__(name, path)
        self._mutant = mutant

    def get_code(self, fullname: str) -> CodeType:
        return compile(mutated(self._mutant), self.path, "exec")


class _Finder(importlib.abc.MetaPathFinder):
    """Gives one module in its changed form."""

    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant
        self._name = _module_name(mutant.path)

    def find_spec(
        self, fullname: str, path: object, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._name:
            return None
        where = str(Path(self._mutant.path).resolve())
        return importlib.util.spec_from_file_location(fullname, where, loader=_Loader(fullname, where, self._mutant))


class _Selection:
    """Runs only these tests, in this order."""

    def __init__(self, tests: list[str]) -> None:
        self._place = {test: place for place, test in enumerate(tests)}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted(
            (item for item in items if item.nodeid in self._place), key=lambda item: self._place[item.nodeid]
        )


class _Tracer:
    """Notes which test executes which lines of a package, and how long it takes."""

    def __init__(self, package: Path) -> None:
        self._root = str(package.resolve()) + os.sep
        self._lines: set[tuple[str, int]] = set()
        self.covers: defaultdict[str, defaultdict[int, list[tuple[float, str]]]] = defaultdict(
            lambda: defaultdict(list)
        )

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._lines = set()
        began = time.perf_counter()
        sys.settrace(self._call)
        yield
        sys.settrace(None)
        took = time.perf_counter() - began
        for path, line in self._lines:
            self.covers[os.path.relpath(path)][line].append((took, item.nodeid))

    def _call(self, frame: FrameType, event: str, arg: object) -> Any:
        if not frame.f_code.co_filename.startswith(self._root):
            return None
        self._line(frame, "line", arg)
        return self._line

    def _line(self, frame: FrameType, event: str, arg: object) -> Any:
        if event == "line":
            self._lines.add((frame.f_code.co_filename, frame.f_lineno))
        return self._line


def _trace(package: Path) -> dict[str, dict[int, list[tuple[float, str]]]] | None:
    tracer = _Tracer(package)
    if _pytest(_test_folders(package), tracer) != 0:
        return None
    return {path: dict(lines) for path, lines in tracer.covers.items()}


def _pytest(targets: list[str], plugin: object) -> int:
    hypothesis.settings.register_profile("mutation", derandomize=True, database=None, deadline=None)
    hypothesis.settings.load_profile("mutation")
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        return int(pytest.main([*targets, "-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"], plugins=[plugin]))


def _test_folders(package: Path) -> list[str]:
    folders = [template.format(name=package.name) for template in TESTS]
    return [folder for folder in folders if Path(folder).is_dir()]


def _module_name(path: str) -> str:
    parts = Path(path).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _in_fork(function: Any, *arguments: Any) -> Any:
    """Call in a child, so that what it imports stays out of this process."""
    with tempfile.NamedTemporaryFile() as answer:
        child = os.fork()
        if child == 0:
            code = 1
            with contextlib.suppress(BaseException):
                Path(answer.name).write_bytes(pickle.dumps(function(*arguments)))
                code = 0
            os._exit(code)
        _, status = os.waitpid(child, 0)
        return pickle.loads(Path(answer.name).read_bytes()) if status == 0 else None


def _run_all(
    drawn: list[Mutant],
    covers: dict[str, dict[int, list[tuple[float, str]]]],
    processes: int,
    limit_s: float,
    store: Path | None,
) -> dict[Mutant, str]:
    results = _known(store, drawn)
    waiting = [mutant for mutant in drawn if mutant not in results]
    waiting.reverse()
    alive: dict[int, tuple[Mutant, float]] = {}
    while waiting or alive:
        while waiting and len(alive) < processes:
            mutant = waiting.pop()
            tests = _tests_of(mutant, covers)
            if not tests:
                _note(results, mutant, UNCOVERED, store)
                continue
            budget = min(limit_s, 10 + 5 * sum(took for took, _ in tests))
            alive[_start(mutant, [test for _, test in tests])] = (mutant, time.monotonic() + budget)
        for child, (mutant, deadline) in list(alive.items()):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                del alive[child]
                _note(results, mutant, SURVIVED if status == 0 else KILLED, store)
            elif time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                del alive[child]
                _note(results, mutant, TIMEOUT, store)
        time.sleep(0.02)
    return results


def _tests_of(mutant: Mutant, covers: dict[str, dict[int, list[tuple[float, str]]]]) -> list[tuple[float, str]]:
    """Return the tests that execute the changed line, the quickest first; for what runs at import, all of the file."""
    lines = covers.get(mutant.path, {})
    found = lines.get(mutant.line)
    if found is None and _runs_at_import(mutant):
        found = [entry for entries in lines.values() for entry in entries]
    if found is None:  # a statement over several lines: the tracer may name another of them
        found = [entry for near in range(mutant.line - 4, mutant.line + 3) for entry in lines.get(near, [])]
    quickest: dict[str, float] = {}
    for took, test in found:
        quickest[test] = min(took, quickest.get(test, took))
    return sorted((took, test) for test, took in quickest.items())


def _runs_at_import(mutant: Mutant) -> bool:
    tree = ast.parse(Path(mutant.path).read_text())
    functions = (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
    return not any(n.body[0].lineno <= mutant.line <= (n.end_lineno or n.lineno) for n in functions)


def _start(mutant: Mutant, tests: list[str]) -> int:
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 1
    with contextlib.suppress(BaseException):
        sys.meta_path.insert(0, _Finder(mutant))
        files = list(dict.fromkeys(test.partition("::")[0] for test in tests))
        code = _pytest(files, _Selection(tests))
    os._exit(0 if code == 0 else 1)


def _note(results: dict[Mutant, str], mutant: Mutant, result: str, store: Path | None) -> None:
    results[mutant] = result
    if store is not None:
        with store.open("a") as file:
            file.write(json.dumps([mutant.path, mutant.number, mutant.line, mutant.change, result]) + "\n")


def _known(store: Path | None, drawn: list[Mutant]) -> dict[Mutant, str]:
    if store is None or not store.exists():
        return {}
    wanted = set(drawn)
    entries = [json.loads(line) for line in store.read_text().splitlines()]
    return {m: entry[4] for entry in entries if (m := Mutant(*entry[:4])) in wanted}


if __name__ == "__main__":
    for name in [name for name in sys.modules if name.startswith(("factory.scheduling", "factory.lifecycle"))]:
        raise SystemExit(f"{name} is loaded already: its changes would not be seen")
    sys.exit(main())
