"""Writes QEfficient/option_types.py from the option dataclasses: ``python -m option_types`` (in tests/)."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from textwrap import indent

from QEfficient import generation_options, options
from QEfficient.generation import text_options
from QEfficient.generation.speech_rules import SpeechOptions
from QEfficient.options import CompileOptions, Options, SamplingOptions

TARGET = Path(options.__file__).with_name("option_types.py")
_HEAD = '''"""The options as keyword arguments, for editors and type checkers. Made of the option dataclasses by
``python -m option_types`` in ``tests/``; a test compares the two."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from QEfficient.generation_options import Streamer
from QEfficient.options import Precision, WeightFormat

if TYPE_CHECKING:
    from transformers import GenerationConfig
'''
_WIDTH = 116
"""Of a line in a class."""
_PATHS = ("mdp_load_partition_config", "node_precision_info", "qnn_config")
_PASSED = {
    "tuple[int, ...]": "int | Sequence[int]",
    "tuple[str, ...]": "str | Sequence[str]",
    "tuple[tuple[int, ...], ...]": "Sequence[Sequence[int]]",
    "tuple[tuple[tuple[int, ...], float], ...]": "Mapping[tuple[int, ...], float] | Sequence[Any]",
    "tuple[int, float]": "Sequence[float]",
    "tuple[tuple[int, float], ...]": "Mapping[int, float] | Mapping[str, float]",
}
"""How a caller may write the value of an option of an answer, by the form that it is brought into."""


@dataclass(frozen=True)
class Written:
    """A class of keyword arguments.

    Attributes:
        kind: the options.
        name: of the class.
        base: the name of the class that it extends.
        per_prompt: the options that are one value, or one for each prompt.
    """

    kind: type[Options]
    name: str
    base: str
    per_prompt: frozenset[str] = frozenset()


def _written() -> list[Written]:
    of_compile = [kind for kind in vars(options).values() if _is_options(kind, CompileOptions)]
    listed = [Written(kind, _args(kind), _args(kind.__bases__[0])) for kind in of_compile]
    answer = _names(generation_options.GenerationOptions) - {"num_return_sequences"}
    of_text = [kind for kind in vars(text_options).values() if _is_options(kind, text_options.TextOptions)]
    return [
        *listed,
        Written(SamplingOptions, "SamplingArgs", "", answer),
        Written(generation_options.GenerationOptions, "GenerationArgs", "SamplingArgs", answer),
        Written(generation_options.StreamArguments, "StreamArgs", "GenerationArgs", frozenset({"adapter"})),
        Written(generation_options.RunArguments, "RunArgs", "StreamArgs"),
        Written(generation_options.CallArguments, "GenerateArgs", "RunArgs"),
        Written(SpeechOptions, "SpeechArgs", "GenerateArgs", _names(SpeechOptions)),
        *(Written(kind, _args(kind), _args(kind.__bases__[0])) for kind in of_text),
    ]


def _is_options(kind: object, base: type[Options]) -> bool:
    return isinstance(kind, type) and issubclass(kind, base)


def _args(kind: type) -> str:
    return "" if kind is Options else kind.__name__.removesuffix("Options") + "Args"


def _names(kind: type[Options]) -> frozenset[str]:
    return frozenset(item.name for item in fields(kind))


def written() -> str:
    """The module's text."""
    return _HEAD + "".join(map(_typed_dict, _written()))


def _typed_dict(each: Written) -> str:
    home = f"{each.kind.__module__}.{each.kind.__name__}"
    lines = [f'\n\nclass {each.name}({each.base or "TypedDict"}, total=False):\n    """Of :class:`{home}`."""\n\n']
    inherited = {item.name for base in each.kind.__bases__ for item in fields(base)}
    (body,) = (node.body for node in _classes(each.kind) if node.name == each.kind.__name__)
    for field, doc in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(doc, ast.Expr):
            if field.target.id in inherited:
                continue  # a TypedDict cannot declare again what it inherits
            lines.append(indent(_field(each, field.target.id, ast.unparse(field.annotation)), "    "))
            lines.append(f'    """{ast.literal_eval(doc.value)}"""\n')
    return "".join(lines) if len(lines) > 1 else lines[0].rstrip("\n") + "\n"


def _classes(kind: type) -> list[ast.ClassDef]:
    tree = ast.parse(inspect.getsource(sys.modules[kind.__module__]))
    return [node for node in tree.body if isinstance(node, ast.ClassDef)]


def _field(each: Written, name: str, annotation: str) -> str:
    """A line; one that is too long is put into brackets, as ruff's format has it."""
    line = f"{name}: {_type(each, name, annotation)}\n"
    if len(line) <= _WIDTH + 1:
        return line
    kind = line.partition(": ")[2].rstrip("\n")
    if len(kind) > _WIDTH - 4:
        kind = "\n    | ".join(_alternatives(ast.parse(kind, mode="eval").body))
    return f"{name}: (\n    {kind}\n)\n"


def _alternatives(kind: ast.expr) -> list[str]:
    """Of a union of types."""
    if isinstance(kind, ast.BinOp):
        return [*_alternatives(kind.left), ast.unparse(kind.right)]
    return [ast.unparse(kind)]


def _type(each: Written, name: str, annotation: str) -> str:
    """What a caller may pass: any sequence, any path; for answers one value, or a list with one for each prompt."""
    annotation = annotation.replace("'", '"')
    if name in each.per_prompt:
        form = annotation.removesuffix(" | None")
        value = _PASSED.get(form, form)
        return f"{value} | Sequence[{value} | None] | None"
    annotation = re.sub(r"tuple\[(\w+), \.\.\.\]", r"Sequence[\1]", annotation)
    return annotation.replace("str", "str | os.PathLike[str]", 1) if name in _PATHS else annotation


if __name__ == "__main__":
    TARGET.write_text(written(), encoding="utf-8")
