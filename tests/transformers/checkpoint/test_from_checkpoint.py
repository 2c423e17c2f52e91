"""A model loaded without its weights is the model that transformers loads, bit for bit, once they are read."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from architectures.tiny import UNABLE, families, model_class, tiny_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM

from QEfficient.errors import CorruptCheckpoint, UnsupportedModel
from QEfficient.transformers.checkpoint import from_checkpoint, recorder, source
from QEfficient.transformers.checkpoint.from_checkpoint import (
    FromCheckpoint,
    copy_with_values,
    is_unread,
    read_parameters,
)
from QEfficient.transformers.checkpoint.load import load_model, load_skeleton
from QEfficient.transformers.checkpoint.pieces import aten, pieces
from QEfficient.transformers.checkpoint.source import Dense, FromModule
from QEfficient.transformers.checkpoint.unread import Made, Reader, Stored, UnreadParameter, evaluate
from QEfficient.transformers.checkpoint.weight_files import Header, WeightFile

WRITES = "transformers writes into a weight after it has read it"
READ_AT_ONCE = {
    ("causal_lm", "youtu"): WRITES,
    ("causal_lm", "zaya"): WRITES,
    ("sequence_classification", "funnel"): WRITES,
    ("text_encoder", "funnel"): WRITES,
}
"""Models whose weights are read when they are loaded, and why."""
ALWAYS = {
    ("causal_lm", "mixtral"),
    ("causal_lm", "bailing_hybrid"),
    ("causal_lm", "nemotron_h"),
    ("seq2seq", "marian"),
    ("text_encoder", "nomic_bert"),
    ("text_encoder", "funnel"),
}
"""Experts that are merged, weights that are concatenated or split, buffers in files, parameters in none, obstacles."""
DTYPES = [(torch.bfloat16, None), (torch.float32, None), (torch.float32, torch.float16)]
"""Saved in, and loaded in; None: as it is."""
CASES = [
    pytest.param(
        *(family, model_type, saved, asked),
        marks=() if (family, model_type) in ALWAYS and (saved, asked) == DTYPES[0] else pytest.mark.sweep,
    )
    for family, model_types in families().items()
    for model_type in model_types
    if (family, model_type) not in UNABLE
    for saved, asked in DTYPES
]


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "PIECE_BYTES", 4104)


@pytest.mark.usefixtures("own_home")
@pytest.mark.parametrize(("family", "model_type", "saved", "asked"), CASES)
def test_is_what_transformers_loads(
    family: str,
    model_type: str,
    saved: torch.dtype,
    asked: torch.dtype | None,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "QEfficient")
    tiny_model(family, model_type).to(saved).save_pretrained(tmp_path)
    options = {} if asked is None else {"dtype": asked}
    try:
        loaded = load_model(model_class(family, model_type), tmp_path, **options)
    except UnsupportedModel as error:
        pytest.skip(f"transformers does not load what it saved: {error}")
    skeleton = load_skeleton(model_class(family, model_type), tmp_path, **options)
    assert is_unread(skeleton) == ((family, model_type) not in READ_AT_ONCE)
    if not is_unread(skeleton):
        assert READ_AT_ONCE[family, model_type] in caplog.text
    check_same_modules(loaded, skeleton)
    weights = FromCheckpoint(skeleton)
    assert weights.digest() == FromModule(loaded).digest()
    assert weights.bytes_read <= size(loaded)
    for name, parameter in loaded.named_parameters(remove_duplicate=False):
        assert same(torch.cat(list(weights.read(name))).reshape(parameter.shape), parameter), name
    assert weights.bytes_read <= 2 * size(loaded) + size(loaded) * (len(tied(loaded)) > 0)
    read_parameters(skeleton)
    assert not is_unread(skeleton)
    for one, other in zip(loaded.parameters(), skeleton.parameters(), strict=True):
        assert same(one, other)
        assert one.requires_grad == other.requires_grad


def check_same_modules(loaded: Any, skeleton: Any) -> None:
    """All but the values of parameters."""
    assert [*dict(loaded.named_modules())] == [*dict(skeleton.named_modules())]
    assert shapes(loaded) == shapes(skeleton)
    assert tied(loaded) == tied(skeleton)
    buffers, others = dict(loaded.named_buffers()), dict(skeleton.named_buffers())
    assert buffers.keys() == others.keys()
    assert [name for name in buffers if not same(buffers[name], others[name])] == []
    assert loaded.config.to_dict() == skeleton.config.to_dict()
    assert repr(getattr(loaded, "generation_config", None)) == repr(getattr(skeleton, "generation_config", None))
    assert not skeleton.training


def shapes(model: nn.Module) -> list[tuple[str, torch.Size, torch.dtype]]:
    return [(name, value.shape, value.dtype) for name, value in model.named_parameters(remove_duplicate=False)]


def tied(model: nn.Module) -> set[str]:
    names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return names - {name for name, _ in model.named_parameters()}


def size(model: nn.Module) -> int:
    """Bytes of what a checkpoint has; stored numbers may be twice as wide as loaded ones."""
    buffers = [buffer for name, buffer in model.state_dict().items() if name in dict(model.named_buffers())]
    return 2 * sum(tensor.nbytes for tensor in [*model.parameters(), *buffers])


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return one.numel() == 0 or torch.equal(*(t.detach().contiguous().view(-1).view(torch.uint8) for t in (one, other)))


@pytest.fixture
def folder(tmp_path: Path, own_home: Path) -> Path:
    return tiny_models.save(tiny_models.causal_lm("gpt2"), tmp_path / "checkpoint")


def load(folder: Path) -> Any:
    return load_skeleton(AutoModelForCausalLM, folder)


def test_nothing_but_headers_is_read_before_it_is_asked_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("read")

    with monkeypatch.context() as patch:
        patch.setattr(Reader, "elements", never)
        for module in (recorder, from_checkpoint):
            patch.setattr(module, "mapped", never)
        model = load(folder)
        assert all(isinstance(parameter, UnreadParameter) for parameter in model.parameters())
    weights = FromCheckpoint(model)
    weights.digest()
    assert weights.bytes_read == sum(parameter.nbytes for parameter in model.parameters())


def test_second_process_knows_the_digest_without_reading(folder: Path) -> None:
    first = FromCheckpoint(load(folder)).digest()
    again = FromCheckpoint(load(folder))
    assert again.digest() == first
    assert again.bytes_read == 0
    elsewhere = FromCheckpoint(load(Path(shutil.copytree(folder, folder.parent / "copy"))))
    assert elsewhere.digest() == first
    assert elsewhere.bytes_read > 0


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_another_byte_is_another_digest(folder: Path) -> None:
    first = FromCheckpoint(load(folder)).digest()
    change_weights(folder, lambda tensors: tensors["transformer.h.1.ln_1.bias"][3:4].add_(1))
    assert FromCheckpoint(load(folder)).digest() != first


def test_file_that_changes_under_a_loaded_model_is_found(folder: Path) -> None:
    weights = FromCheckpoint(load(folder))
    weights.digest()
    change_weights(folder, lambda tensors: tensors["transformer.h.1.ln_1.bias"][3:4].add_(1))
    with pytest.raises(CorruptCheckpoint, match=r"model\.safetensors has changed"):
        weights.digest()
    (folder / "model.safetensors").unlink()
    with pytest.raises(CorruptCheckpoint, match="Load the checkpoint again"):
        weights.digest()


def test_blob_of_the_hub_is_known_by_its_name(folder: Path) -> None:
    """As its cache lies: a snapshot's files are links to blobs named by their sha256."""
    repository = folder.parent / "models--somebody--model"
    (repository / "blobs").mkdir(parents=True)
    snapshot = Path(shutil.copytree(folder, repository / "snapshots" / "main"))
    blob = repository / "blobs" / ("ab" * 32)
    (snapshot / "model.safetensors").rename(blob)
    (snapshot / "model.safetensors").symlink_to(f"../../blobs/{blob.name}")
    first = FromCheckpoint(load(snapshot)).digest()
    os.utime(blob, (1, 1))
    again = FromCheckpoint(load(snapshot))
    assert again.digest() == first
    assert again.bytes_read == 0
    shutil.copytree(blob.parent, folder / "blobs")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(Path("blobs", blob.name))
    elsewhere = FromCheckpoint(load(folder))
    assert elsewhere.digest() == first
    assert elsewhere.bytes_read > 0, "a file of such a name outside of the cache says nothing"


@pytest.mark.parametrize("differ", [False, True])
def test_weights_that_may_be_tied_are_if_they_are_equal(folder: Path, differ: bool) -> None:
    def untie(tensors: dict[str, torch.Tensor]) -> None:
        tensors["lm_head.weight"] = tensors["transformer.wte.weight"] + differ

    change_weights(folder, untie)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    loaded, skeleton = load_model(AutoModelForCausalLM, folder), load(folder)
    assert tied(skeleton) == tied(loaded) == (set() if differ else {"lm_head.weight"})
    assert FromCheckpoint(skeleton).digest() == FromModule(loaded).digest()


def test_number_that_is_none_is_named(folder: Path) -> None:
    change_weights(folder, lambda tensors: tensors["transformer.h.1.mlp.c_fc.weight"].view(-1)[7:8].fill_(float("nan")))
    with pytest.raises(CorruptCheckpoint, match=r"'transformer\.h\.1\.mlp\.c_fc\.weight' \(64, 256\)"):
        FromCheckpoint(load(folder)).digest()


def test_copy_with_values_runs_and_leaves_the_model_unread(folder: Path) -> None:
    model = load(folder)
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        logits = copy_with_values(model)(ids).logits
        assert torch.equal(logits, load_model(AutoModelForCausalLM, folder)(ids).logits)
    assert is_unread(model)


def stored(tensor: torch.Tensor, path: Path) -> Stored:
    path.write_bytes(b"head" + tensor.contiguous().numpy().tobytes())
    return Stored(WeightFile(path, {}, Header({}, 4)), "it", 4, Dense(tuple(tensor.shape), tensor.dtype))


def made(operator: Any, args: tuple[Any, ...], output: int = 0, **kwargs: Any) -> Made:
    shape = evaluate(Made(operator, args, kwargs, output, Dense((), torch.float32)), Reader().whole)
    return Made(operator, args, kwargs, output, Dense(tuple(shape.shape), shape.dtype))


def test_parts_of_what_is_made_are_those_of_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, c = (stored(torch.randn(4, 6, 5), tmp_path / name) for name in "abc")
    half = made(aten._to_copy.default, (a,), dtype=torch.bfloat16)
    merged = made(
        aten.cat.default, ([made(aten.stack.default, ([a, b, c],)), made(aten.stack.default, ([b, c, a],))], 2)
    )
    transposed = made(aten.transpose.int, (a, 1, 2))
    interleaved = made(aten.clone.default, (transposed,), memory_format=torch.contiguous_format)
    cases = [
        half,
        made(aten.detach.default, (half,)),
        made(aten.stack.default, ([a, b, c],)),
        made(aten.stack.default, ([a, b, c], -1)),
        made(aten.cat.default, ([a, b, c],)),
        made(aten.cat.default, ([a, b, c], -1)),
        merged,
        made(aten._to_copy.default, (merged,), dtype=torch.float16),
        made(aten.transpose.int, (merged, 1, -1)),
        made(aten.transpose.int, (merged, 0, 1)),
        *(made(aten.split.Tensor, (a, 3), index) for index in (0, 1)),
        *(made(aten.split.Tensor, (a, 2, -1), index) for index in (0, 1, 2)),
        *(made(aten.split_with_sizes.default, (a, [1, 3]), index) for index in (0, 1)),
        made(aten._unsafe_view.default, (interleaved, [4, 3, 10])),
        made(aten.view.default, (a, [8, 3, 5])),
        made(aten.neg.default, (a,)),
    ]
    for case in cases:
        whole = evaluate(case, Reader().whole)
        for piece_bytes in (1, 20, 100, 1 << 20):
            monkeypatch.setattr(source, "PIECE_BYTES", piece_bytes)
            parts = list(pieces(case, Reader()))
            assert all(part.nbytes <= max(piece_bytes, part.element_size()) for part in parts)
            assert same(torch.cat(parts).reshape(whole.shape), whole)


def test_experts_are_read_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = [stored(torch.randn(6, 5), tmp_path / str(index)) for index in range(8)]
    gates, ups = (made(aten.stack.default, (tensors[start::2],)) for start in (0, 1))
    experts = made(aten.cat.default, ([gates, ups], 1))
    monkeypatch.setattr(source, "PIECE_BYTES", 2 * 6 * 5 * 4)
    reader = Reader()
    for number, _ in enumerate(pieces(experts, reader), start=1):
        assert reader.bytes_read == number * 2 * 6 * 5 * 4
    assert number == 4


def test_truncated_file_is_an_error(tmp_path: Path) -> None:
    whole = stored(torch.randn(4, 6), tmp_path / "a")
    whole.file.path.write_bytes(whole.file.path.read_bytes()[:-5])
    with pytest.raises(CorruptCheckpoint, match="ends inside 'it'"):
        list(pieces(whole, Reader()))
