"""Writes QEfficient/option_types.py from the option dataclasses: ``python -m option_types`` (in tests/)."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from QEfficient import options

TARGET = Path(options.__file__).with_name("option_types.py")
_HEAD = '''"""The options as keyword arguments, for editors and type checkers. Made of :mod:`QEfficient.options` by
``python -m option_types`` in ``tests/``; a test compares the two."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from QEfficient.options import Precision, WeightFormat
'''
_PATHS = ("mdp_load_partition_config", "node_precision_info", "qnn_config")


def written() -> str:
    """The module's text."""
    tree = ast.parse(Path(options.__file__).read_text(encoding="utf-8"))
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name.endswith("CompileOptions")]
    return _HEAD + "".join(_typed_dict(node) for node in classes)


def _typed_dict(node: ast.ClassDef) -> str:
    name, base = _renamed(node.name), _renamed(ast.unparse(node.bases[0]))
    own = "TypedDict, total=False" if base == "Options" else f"{base}, total=False"
    lines = [f'\n\nclass {name}({own}):\n    """Of :class:`QEfficient.options.{node.name}`."""\n\n']
    inherited = _inherited(ast.unparse(node.bases[0]))
    for field, doc in zip(node.body, node.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(doc, ast.Expr):
            if field.target.id in inherited:
                continue  # a TypedDict cannot declare again what it inherits
            text = ast.literal_eval(doc.value)
            lines.append(f"    {field.target.id}: {_type(field.target.id, ast.unparse(field.annotation))}\n")
            lines.append(f'    """{text}"""\n')
    return "".join(lines) if len(lines) > 1 else lines[0].rstrip("\n") + "\n"


def _inherited(name: str) -> set[str]:
    base = getattr(options, name)
    return set(getattr(base, "__dataclass_fields__", ()))


def _renamed(name: str) -> str:
    return name.replace("CompileOptions", "CompileArgs") if name != "Options" else name


def _type(name: str, annotation: str) -> str:
    """What a caller may pass: any sequence, any path."""
    annotation = re.sub(r"tuple\[(\w+), \.\.\.\]", r"Sequence[\1]", annotation).replace("'", '"')
    return annotation.replace("str", "str | os.PathLike[str]", 1) if name in _PATHS else annotation


if __name__ == "__main__":
    TARGET.write_text(written(), encoding="utf-8")
