"""Tensors that are not read yet, in pieces: as few bytes at a time as the operators that make them allow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from QEfficient.transformers.checkpoint import source
from QEfficient.transformers.checkpoint.packed import Parts, Quantized
from QEfficient.transformers.checkpoint.source import split
from QEfficient.transformers.checkpoint.unread import Made, Reader, Stored, Unread, evaluate

aten = torch.ops.aten

Part = Callable[[Reader, int, int], torch.Tensor]
"""``(reader, start, stop)`` to a part of a tensor."""

_BY_ELEMENT = frozenset({aten._to_copy.default, aten.detach.default, aten.alias.default, aten.clone.default})
_VIEWS = frozenset({aten.view.default, aten._unsafe_view.default})
_SPLITS = frozenset({aten.split.Tensor, aten.split_with_sizes.default})


def pieces(unread: Unread, reader: Reader) -> Iterator[torch.Tensor]:
    """The elements of a tensor in order, as flat pieces of at most :data:`source.PIECE_BYTES`.

    In memory there is about a piece; of a tensor that is made of others, a row along its first axis; all of it only
    where an operator mixes rows.
    """
    shape, item_bytes = torch.Size(unread.tensor.shape), unread.tensor.dtype.itemsize
    if not shape.numel():
        yield torch.empty(0, dtype=unread.tensor.dtype)
    elif elements := _elements_of(unread):
        stored_bytes = max(item_bytes, _stored_in(unread).tensor.dtype.itemsize)
        step = max(1, source.PIECE_BYTES // stored_bytes)
        for start in range(0, shape.numel(), step):
            yield from split(elements(reader, start, min(start + step, shape.numel())))
    elif rows := _rows_of(unread):
        step = max(1, source.PIECE_BYTES // max(1, shape[1:].numel() * item_bytes))
        for start in range(0, shape[0], step):
            yield from split(rows(reader, start, min(start + step, shape[0])))
    else:
        yield from split(evaluate(unread, reader.whole))


def _stored_in(unread: Unread) -> Unread:
    while isinstance(unread, Made):
        unread = unread.args[0]
    return unread


def _elements_of(unread: Unread) -> Part | None:
    """Reads elements of a tensor that is a stored one but for casts and copies."""
    if isinstance(unread, Stored):
        return lambda reader, start, stop: reader.elements(unread, start, stop)
    if isinstance(unread, Quantized):
        return None
    inner = _elements_of(unread.args[0]) if unread.operator in _BY_ELEMENT else None
    return None if inner is None else _after(inner, unread)


def without_copies(unread: Unread) -> Unread:
    """What a tensor is, element for element, but for casts and copies."""
    while isinstance(unread, Made) and unread.operator in _BY_ELEMENT:
        unread = unread.args[0]
    return unread


def _after(inner: Part, made: Made) -> Part:
    """``inner`` and the operator over what it reads."""
    return lambda reader, start, stop: made.operator(inner(reader, start, stop), *made.args[1:], **made.kwargs)


def _rows_of(unread: Unread) -> Part | None:
    """Reads rows along the first axis, or None where a row is made of others."""
    if not unread.tensor.shape:
        return None
    if isinstance(unread, Stored):
        return lambda reader, start, stop: reader.rows(unread, start, stop)
    if isinstance(unread, Quantized):
        return _quantized_rows(unread)
    operator, args = unread.operator, unread.args
    if operator in (aten.stack.default, aten.cat.default):
        return _joined_rows(unread, operator, list(args[0]), *args[1:], **unread.kwargs)
    if operator in _SPLITS:
        return _split_rows(unread, *args, **unread.kwargs)
    inner = _rows_of(args[0]) if isinstance(args[0], Unread) else None
    if inner is None:
        return None
    if operator in _BY_ELEMENT or (operator == aten.transpose.int and 0 not in _axes(unread, *args[1:])):
        return _after(inner, unread)
    if operator in _VIEWS and unread.tensor.shape[0] == args[0].tensor.shape[0]:
        return lambda reader, start, stop: inner(reader, start, stop).reshape(-1, *unread.tensor.shape[1:])
    return None


def _axes(unread: Unread, *axes: int) -> list[int]:
    return [axis % len(unread.tensor.shape) for axis in axes]


def _quantized_rows(quantized: Quantized) -> Part:
    """Keeps the parts that it has to read as a whole."""
    opened: list[Parts] = []

    def read(reader: Reader, start: int, stop: int) -> torch.Tensor:
        if not opened:
            opened.append(Parts(quantized.parts, reader.rows))
        return quantized.rows(opened[0], start, stop)

    return read


def _joined_rows(made: Made, operator: Any, inputs: list[Unread], dim: int = 0) -> Part | None:
    """Of stacked or concatenated tensors."""
    (axis,) = _axes(made, dim)
    if axis == 0 and operator == aten.stack.default:  # one input is one row
        return lambda reader, start, stop: torch.stack([evaluate(i, reader.whole) for i in inputs[start:stop]])
    parts = [_rows_of(each) for each in inputs]
    rows = [part for part in parts if part is not None]
    if len(rows) < len(parts):
        return None
    if axis == 0:
        return _one_after_the_other(rows, [each.tensor.shape[0] for each in inputs])
    return lambda reader, start, stop: operator([part(reader, start, stop) for part in rows], axis)


def _one_after_the_other(parts: list[Part], lens: list[int]) -> Part:
    """Of tensors that are concatenated along the first axis."""

    def read(reader: Reader, start: int, stop: int) -> torch.Tensor:
        rows, begin = [], 0
        for part, length in zip(parts, lens, strict=True):
            first, last = max(start - begin, 0), min(stop - begin, length)
            if first < last:
                rows.append(part(reader, first, last))
            begin += length
        return torch.cat(rows)

    return read


def _split_rows(made: Made, whole: Unread, sizes: int | list[int], dim: int = 0) -> Part | None:
    """Of one part of a tensor that was split."""
    rows, (axis,) = _rows_of(whole), _axes(made, dim)
    if rows is None:
        return None
    first = made.output * sizes if isinstance(sizes, int) else sum(sizes[: made.output])
    if axis == 0:
        return lambda reader, start, stop: rows(reader, first + start, first + stop)
    length = made.tensor.shape[axis]
    return lambda reader, start, stop: rows(reader, start, stop).narrow(axis, first, length)
