"""What strangers write: JSON values, documents with one of their values replaced, names, arguments."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from QEfficient.errors import QEffError

JsonPath = tuple[str | int, ...]

NUMBERS = st.sampled_from(
    [-1, 0, 1, 2, 3, 7, 2**31, 2**63, 2**70, -(2**70), 0.5, -0.0, 1e308, float("nan"), float("inf")]
)
TEXTS = st.one_of(
    st.text(max_size=6),
    st.sampled_from(["", "no", "64", "../x", "/etc/passwd", "a\0b", "\ud800", "ä" * 300, "{{ x }}", "auto", "float16"]),
)
PLAIN = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
VALUES = st.recursive(
    PLAIN, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=2)), max_leaves=5
)
"""JSON values, NaN and infinity included."""
DEEP = ["[" * 100_000, '{"a":' * 5000 + "1" + "}" * 5000, "[" * 900 + "]" * 900]
DOCUMENTS = st.one_of(
    VALUES.map(lambda value: json.dumps(value).encode()),
    st.binary(max_size=12),
    st.sampled_from([*(text.encode() for text in DEEP), b"", b"{", b"9" * 5000, b'{"a": 1, "a": 2}', b"\xff\xfe{}"]),
)
"""The bytes of files that should hold JSON."""

ARGUMENTS = st.one_of(
    VALUES,
    st.sampled_from([b"x", bytearray(b"x"), {1, 2}, frozenset({5}), object(), 10**30, 1e-308, 5e-324, range(3)]),
    st.sampled_from([np.array(5), np.array([1.5]), np.array([[[1]]]), np.array([True]), np.array([]), np.array("x")]),
    st.sampled_from([torch.tensor(5), torch.tensor([1.5]), torch.zeros(2, 2), torch.tensor([True]), torch.zeros(0)]),
)
"""Values that a Python caller may pass."""


def paths(document: object, path: JsonPath = ()) -> Iterator[JsonPath]:
    """The places of a JSON document."""
    items: list[tuple[Any, Any]] = []
    if isinstance(document, dict):
        items = list(document.items())
    elif isinstance(document, list):
        items = list(enumerate(document[:3]))
    for name, value in items:
        yield (*path, name)
        yield from paths(value, (*path, name))


def replaced(document: Any, path: JsonPath, value: object) -> Any:
    """The document with another value at one place; ``...`` drops it."""
    changed = copy.deepcopy(document)
    inner = changed
    for name in path[:-1]:
        inner = inner[name]
    if value is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return changed


def is_typed(call: Callable[[], object]) -> bool:
    """Whether a call succeeds (True) or raises an error of the library (False); any other error is a fault."""
    try:
        call()
    except QEffError:
        return False
    return True
