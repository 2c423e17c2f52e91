"""A source of weights: pieces of any tensor, one digest for one content, and no number that is none."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from QEfficient.errors import CorruptCheckpoint, ExportError
from QEfficient.transformers.checkpoint import source
from QEfficient.transformers.checkpoint.source import Dense, FromModule, split


class Tied(nn.Module):
    """Two names of one weight, a buffer that a checkpoint has and one that it has not."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(7, 5)
        self.head = nn.Linear(5, 7)
        self.head.weight = self.embed.weight
        self.register_buffer("scale", torch.ones(3))
        self.register_buffer("table", torch.ones(4), persistent=False)


@pytest.mark.parametrize("piece_bytes", [1, 12, 20, 64, 1 << 20])
@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(35.0).reshape(5, 7),
        torch.arange(35.0).reshape(5, 7).T,
        torch.arange(60).reshape(3, 4, 5)[:, ::2],
        torch.arange(8).to(torch.bfloat16)[::3],
        torch.tensor(3.0),
        torch.zeros(0, 4),
        torch.zeros(3, 4)[:, :0].T,
        torch.tensor([True, False, True]),
    ],
    ids=["contiguous", "transposed", "strided", "bfloat16", "scalar", "empty", "no columns", "bool"],
)
def test_pieces_are_the_tensor_in_order(
    tensor: torch.Tensor, piece_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "PIECE_BYTES", piece_bytes)
    pieces = list(split(tensor))
    assert all(piece.ndim == 1 for piece in pieces)
    assert all(piece.nbytes <= max(piece_bytes, tensor.element_size()) for piece in pieces)
    assert torch.equal(torch.cat(pieces), tensor.reshape(-1))


def test_tied_weights_have_one_name_and_are_read_once() -> None:
    model = Tied()
    weights = FromModule(model)
    assert set(weights.tensors) == {"embed.weight", "head.weight", "head.bias", "scale"}
    assert weights.tensors["head.weight"] == Dense((7, 5), torch.float32)
    assert weights.name_of(model.head.weight) == weights.name_of(model.embed.weight) == "embed.weight"
    weights.digest()
    assert weights.bytes_read == 4 * (35 + 7 + 3)


def test_parameter_of_another_model_is_refused() -> None:
    with pytest.raises(ExportError, match=r"\(7, 5\)"):
        FromModule(Tied()).name_of(Tied().embed.weight)


def test_digest_is_of_the_content_and_not_of_the_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    one = FromModule(Tied()).digest()
    monkeypatch.setattr(source, "PIECE_BYTES", 12)
    assert FromModule(Tied()).digest() == one


def change_buffer(model: Tied) -> None:
    model.scale[1] = 2.0  # type: ignore[index,operator]


def retype(model: Tied) -> None:
    model.to(torch.bfloat16)


def untie(model: Tied) -> None:
    model.head.weight = nn.Parameter(model.head.weight + 1)


def rename(model: Tied) -> None:
    model.other = model.embed


@pytest.mark.parametrize("change", [change_buffer, retype, untie, rename])
def test_digest_tells_models_apart(change: Callable[[Tied], None]) -> None:
    model = Tied()
    before = FromModule(model).digest()
    with torch.no_grad():
        change(model)
    assert FromModule(model).digest() != before


def test_digest_is_remembered_until_a_weight_changes() -> None:
    model = Tied()
    weights = FromModule(model)
    first = weights.digest()
    read = weights.bytes_read
    assert weights.digest() == first
    assert weights.bytes_read == read
    with torch.no_grad():
        model.embed.weight[2, 3] += 1
    assert weights.digest() != first
    assert weights.bytes_read == 2 * read


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_number_that_is_none_is_found_in_any_piece(value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "PIECE_BYTES", 16)
    model = Tied()
    with torch.no_grad():
        model.embed.weight[6, 4] = value
    with pytest.raises(CorruptCheckpoint, match=r"'embed\.weight' \(7, 5\)"):
        FromModule(model).digest()


def test_buffers_may_be_infinite() -> None:
    model = Tied()
    before = FromModule(model).digest()
    model.scale[0] = float("-inf")  # type: ignore[index,operator]
    assert FromModule(model).digest() != before
