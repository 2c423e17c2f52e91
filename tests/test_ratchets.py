"""Measures of the code that may only get better: a limit goes down with the change that earns it, and never up."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from collected import CASE_COUNTS
from test_house import MODULES, imports

MAX_IMPORT_CYCLES = 0
MAX_ANY_SHARE = 0.027
"""Of the parameters of public functions and methods."""
MAX_VAGUE_WORDS = 4
VAGUE = re.compile(r"\b(?:found|given|own|held)\b")
"""Names, and words of docstrings, that do not say what a value is."""
CASES = Path(__file__).parent / "cases.txt"


def dependencies() -> dict[str, set[str]]:
    """Module -> modules of the package that it imports, also inside functions."""
    graph: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        graph[module] = {name for name in imports(path) if name in MODULES and name != module}
    return graph


def components(graph: dict[str, set[str]]) -> list[list[str]]:
    """Strongly connected components of more than one node, by Tarjan's algorithm."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    cycles: list[list[str]] = []

    def visit(node: str) -> None:
        order[node] = low[node] = len(order)
        stack.append(node)
        for target in sorted(graph[node]):
            if target not in order:
                visit(target)
            if target in stack:
                low[node] = min(low[node], low[target])
        if low[node] == order[node]:
            component = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(component) > 1:
                cycles.append(sorted(component))

    for node in sorted(graph):
        if node not in order:
            visit(node)
    return cycles


def test_cycles_are_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}, "e": {"f"}, "f": {"e"}}
    assert components(graph) == [["a", "b", "c"], ["e", "f"]]


def test_no_new_import_cycle() -> None:
    cycles = components(dependencies())
    assert len(cycles) <= MAX_IMPORT_CYCLES, "\n".join(" ".join(cycle) for cycle in cycles)


def public_parameters(path: Path) -> Iterator[tuple[str, str]]:
    """``(function.parameter, annotation)`` of public functions and of public methods of public classes."""

    def visit(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, str]]:
        for node in body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                yield from visit(node.body, f"{prefix}{node.name}.")
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if node.name.startswith("_") and node.name != "__init__":
                continue
            arguments = node.args
            variadic = [argument for argument in (arguments.vararg, arguments.kwarg) if argument is not None]
            for argument in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, *variadic]:
                if argument.arg not in ("self", "cls"):
                    annotation = ast.unparse(argument.annotation) if argument.annotation else ""
                    yield f"{prefix}{node.name}.{argument.arg}", annotation

    yield from visit(ast.parse(path.read_text(encoding="utf-8")).body, f"{path.stem}:")


def test_few_public_parameters_are_any() -> None:
    parameters = [parameter for path in MODULES.values() for parameter in public_parameters(path)]
    untyped = [name for name, annotation in parameters if re.fullmatch(r"Any( \| None)?", annotation)]
    assert len(untyped) / len(parameters) <= MAX_ANY_SHARE, f"{len(untyped)} of {len(parameters)}: {untyped}"


def test_words_say_what_a_value_is() -> None:
    texts = (path.read_text(encoding="utf-8") for path in MODULES.values())
    assert sum(len(VAGUE.findall(text)) for text in texts) <= MAX_VAGUE_WORDS


def test_no_test_is_lost(request: pytest.FixtureRequest) -> None:
    """Tests move and get more cases; none of those in ``cases.txt`` goes."""
    if request.config.args != request.config.getini("testpaths") or request.config.option.keyword:
        pytest.skip("only a part of the tests is run")
    counts = request.config.stash[CASE_COUNTS]
    expected = dict(line.rsplit(" ", 1) for line in CASES.read_text(encoding="utf-8").splitlines())
    assert {name: number for name, number in expected.items() if counts[name] < int(number)} == {}
