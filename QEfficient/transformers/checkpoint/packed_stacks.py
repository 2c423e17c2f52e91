"""Stacks of packed matrices, such as a layer's experts: of whatever stored weights the model joins in one parameter.

It knows how tensors are joined, and neither formats nor what becomes of the numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch

from QEfficient.transformers.checkpoint.packed import (
    ROWS_BYTES,
    PackedRows,
    PackedStack,
    Parts,
    Quantized,
    Stored,
)
from QEfficient.transformers.checkpoint.pieces import without_copies
from QEfficient.transformers.checkpoint.unread import Made, Unread

aten = torch.ops.aten
LoadRows = Callable[[Stored, int, int], torch.Tensor]


def packed_stack(unread: Unread, load_rows: LoadRows) -> PackedStack | None:
    """The matrices that a tensor is a stack of; None if it is none, or they are not packed in one form."""
    kept = without_copies(unread)
    if isinstance(kept, Quantized):
        return _Whole(kept, load_rows) if len(kept.tensor.shape) == 3 and _is_plain(kept) else None
    if not isinstance(kept, Made) or kept.operator not in (aten.stack.default, aten.cat.default):
        return None
    inputs, *axes = kept.args
    axis = (kept.kwargs.get("dim", axes[0] if axes else 0)) % len(kept.tensor.shape)
    if kept.operator == aten.stack.default:
        matrices = [_matrix(each, load_rows) for each in inputs] if axis == 0 else []
        known = [matrix for matrix in matrices if matrix is not None]
        return _Stacked(known) if known and len(known) == len(inputs) and _same_form(known) else None
    stacks = [packed_stack(each, load_rows) for each in inputs] if axis == 1 else []
    joined = [stack for stack in stacks if stack is not None]
    return _Joined(joined) if joined and len(joined) == len(inputs) and _same_form(joined) else None


def _matrix(unread: Unread, load_rows: LoadRows) -> _Whole | None:
    kept = without_copies(unread)
    is_matrix = isinstance(kept, Quantized) and len(kept.tensor.shape) == 2 and _is_plain(kept)
    return _Whole(kept, load_rows) if is_matrix and isinstance(kept, Quantized) else None


def _is_plain(weight: Quantized) -> bool:
    """Whether its groups are of consecutive columns, as a stack of several weights can say."""
    form = weight.packing.form
    return not (form.is_transposed or form.is_float or any(name.endswith("g_idx") for name in weight.parts))


def _same_form(stacks: list[_Whole] | list[PackedStack]) -> bool:
    return len({replace(stack.form, shape=stack.form.shape[2:]) for stack in stacks}) == 1


class _Whole:
    """One stored weight: a matrix, or several."""

    def __init__(self, weight: Quantized, load_rows: LoadRows):
        form = weight.packing.form
        self.form = replace(form, shape=(1, *form.shape) if len(form.shape) == 2 else form.shape)
        self._weight, self._parts = weight, Parts(weight.parts, load_rows)
        self._is_stack = len(form.shape) == 3

    def rows(self, matrix: int, start: int, stop: int) -> Iterator[PackedRows]:
        """See :class:`PackedStack`."""
        if self._is_stack:  # read as wholes
            yield _rows_of(self._weight.packing.rows(self._parts, matrix, matrix + 1), start, stop)
            return
        step = max(1, ROWS_BYTES // (4 * self.form.shape[2]))
        for first in range(start, stop, step):
            yield self._weight.packing.rows(self._parts, first, min(first + step, stop))


def _rows_of(stack: PackedRows, start: int, stop: int) -> PackedRows:
    """Rows of the only matrix of a stack."""

    def rows(tensor: torch.Tensor) -> torch.Tensor:
        return tensor[0, start:stop]

    zero_points, minimums = (None if each is None else rows(each) for each in (stack.zero_points, stack.minimums))
    return replace(
        stack, values=rows(stack.values), scales=rows(stack.scales), zero_points=zero_points, minimums=minimums
    )


class _Stacked:
    """A matrix from each of several weights."""

    def __init__(self, matrices: list[_Whole]):
        self._matrices = matrices
        self.form = replace(matrices[0].form, shape=(len(matrices), *matrices[0].form.shape[1:]))

    def rows(self, matrix: int, start: int, stop: int) -> Iterator[PackedRows]:
        """See :class:`PackedStack`."""
        return self._matrices[matrix].rows(0, start, stop)


class _Joined:
    """Stacks of as many matrices, each matrix below the one of the stack before."""

    def __init__(self, stacks: list[PackedStack]):
        self._stacks = stacks
        num_matrices, _, num_columns = stacks[0].form.shape
        num_rows = sum(stack.form.shape[1] for stack in stacks)
        self.form = replace(stacks[0].form, shape=(num_matrices, num_rows, num_columns))

    def rows(self, matrix: int, start: int, stop: int) -> Iterator[PackedRows]:
        """See :class:`PackedStack`."""
        begin = 0
        for stack in self._stacks:
            num_rows = stack.form.shape[1]
            first, last = max(start - begin, 0), min(stop - begin, num_rows)
            if first < last:
                yield from stack.rows(matrix, first, last)
            begin += num_rows
