"""GGUF files run as the models that they were made of, by the format's library and by transformers' own reading."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import gguf
import gguf_models
import numpy as np
import pytest
import tiny_models
import torch
from gguf import GGMLQuantizationType as Type
from greedy import NUM_NEW_TOKENS, answers, prompts

from QEfficient import QEFFAutoModelForCausalLM
from QEfficient.errors import CheckpointNotFound, CorruptCheckpoint, OptionError, QEffError, UnsupportedModel
from QEfficient.exporter import packed_layout
from QEfficient.exporter.packed_layout import packed_forms
from QEfficient.exporter.transforms import pack_int4_linears
from QEfficient.store.housekeeping import prune
from QEfficient.transformers.checkpoint.from_checkpoint import weight_source
from QEfficient.transformers.checkpoint.gguf_header import read_gguf_header
from QEfficient.transformers.checkpoint.load import load_skeleton, load_tokenizer, resolve
from QEfficient.transformers.quantizers.gguf_blocks import TYPES

PLAIN: dict[str, Any] = {"rope_parameters": gguf_models.PLAIN_ROPE}
WIDE = {**PLAIN, "hidden_size": 256, "intermediate_size": 256}
"""Rows of whole blocks of the K-quants."""
FAR_ROPE = {"rope_type": "default", "rope_theta": 500000.0}
LLAMA3: dict[str, Any] = {"rope_parameters": tiny_models.LLAMA3_ROPE}
MODELS: dict[str, tuple[str, Type, dict[str, Any]]] = {
    "llama, rows of heads in another order": ("llama", Type.Q4_0, PLAIN),
    "llama, K-quants with minimums": ("llama", Type.Q4_K, WIDE),
    "llama, a type that is looked up": ("llama", Type.IQ2_XXS, WIDE),
    "qwen2, biases": ("qwen2", Type.Q8_0, {"use_sliding_window": False}),
    "qwen3, heads wider than their share": ("qwen3", Type.Q5_0, {}),
    "qwen3_moe, experts stacked": ("qwen3_moe", Type.Q4_1, {}),
    "gemma2, norms plus one": ("gemma2", Type.Q8_0, {"query_pre_attn_scalar": 32}),
    "gpt2, transposed": ("gpt2", Type.Q8_0, {}),
    "bloom, heads of a joint projection": ("bloom", Type.Q4_0, {}),
    "phi3, joint projections": ("phi3", Type.Q5_1, PLAIN),
    "falcon": ("falcon", Type.Q8_0, {}),
    "starcoder2, half precision": ("starcoder2", Type.F16, {"rope_parameters": FAR_ROPE}),
    "stablelm, heads rotated in part": (
        "stablelm",
        Type.Q8_0,
        {"rope_parameters": FAR_ROPE | {"partial_rotary_factor": 0.5}},
    ),
}


def parameters(model: Any) -> dict[str, torch.Tensor]:
    return dict(model.named_parameters())


@pytest.mark.parametrize("kind", [*TYPES, "IQ4_XS", "IQ2_XXS"])
def test_blocks_are_the_librarys_numbers(kind: str) -> None:
    weight = np.random.default_rng(0).normal(size=(8, 512)).astype(np.float32)
    data, expected = gguf_models.packed(weight, Type[kind])
    elements, num_bytes = gguf.GGML_QUANT_SIZES[Type[kind]]
    if kind not in TYPES:
        return
    blocks = torch.from_numpy(data).reshape(8, 512 // elements, num_bytes)
    values, scales, minimums = TYPES[kind].decode(blocks)
    assert int(values.min()) >= TYPES[kind].lowest
    assert int(values.max()) < TYPES[kind].lowest + 2 ** TYPES[kind].num_bits
    grouped = values.float().unflatten(-1, (-1, TYPES[kind].group_size)) * scales.unsqueeze(-1)
    elements_of = grouped if minimums is None else grouped - minimums.unsqueeze(-1)
    assert np.array_equal(elements_of.reshape(8, 512).numpy(), expected)
    assert scales.to(TYPES[kind].scales).equal(scales.to(TYPES[kind].scales).float())


@pytest.mark.parametrize("case", MODELS)
def test_weights_are_those_of_the_model_that_was_converted(tmp_path: Path, case: str) -> None:
    model_type, kind, changes = MODELS[case]
    path, expected = gguf_models.save(model_type, tmp_path / "model.gguf", gguf_models.matrices(kind), **changes)
    model = QEFFAutoModelForCausalLM.from_pretrained(path).model
    assert type(model) is type(expected)
    loaded = parameters(model)
    assert loaded.keys() == parameters(expected).keys()
    for name, parameter in parameters(expected).items():
        assert torch.equal(loaded[name], parameter.to(loaded[name].dtype)), name
    for (name, buffer), (_, other) in zip(model.named_buffers(), expected.named_buffers(), strict=True):
        assert torch.equal(buffer, other), name


def greedy(model: Any) -> list[list[int]]:
    options = {"max_new_tokens": NUM_NEW_TOKENS, "do_sample": False, "pad_token_id": 0}
    return [
        model.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.int64), **options)[
            0, len(ids) :
        ].tolist()
        for ids in prompts()
    ]


ON_CPU: dict[str, Any] = {"ctx_len": 160, "prefill_seq_len": 24, "precision": "fp32", "full_batch_size": 2}
ON_CARD: dict[str, Any] = {"target": "cloud-ai-100-sim", "prefill_seq_len": 24, "ctx_len": 160, "precision": "fp32"}


@pytest.mark.parametrize(
    ("model_type", "kind", "changes", "options"),
    [
        pytest.param("llama", Type.Q4_K, WIDE, ON_CPU, id="real zero points on cpu"),
        pytest.param("llama", Type.Q4_0, PLAIN, ON_CARD, id="integers on the card"),
        pytest.param("llama", Type.Q6_K, WIDE, ON_CPU, id="Q6_K on cpu", marks=pytest.mark.sweep),
        pytest.param("llama", Type.Q4_K, WIDE, ON_CARD, id="Q4_K on the card", marks=pytest.mark.sweep),
        pytest.param("qwen3_moe", Type.Q4_1, {}, ON_CPU, id="experts on cpu", marks=pytest.mark.sweep),
        pytest.param("gpt2", Type.Q8_0, {}, ON_CPU, id="gpt2 on cpu", marks=pytest.mark.sweep),
    ],
)
def test_greedy_tokens_are_those_of_the_dense_weights(
    tmp_path: Path, model_type: str, kind: Type, changes: dict[str, Any], options: dict[str, Any]
) -> None:
    path, expected = gguf_models.save(model_type, tmp_path / "m.gguf", gguf_models.matrices(kind), **changes)
    with QEFFAutoModelForCausalLM.from_pretrained(path) as model:
        model.compile(**options)
        assert answers(model, prompts()) == greedy(expected)


@pytest.mark.parametrize(("kind", "most"), [(Type.Q4_0, 0.6), (Type.Q4_K, 0.76), (Type.Q8_0, 1.1)])
def test_blocks_stay_packed(tmp_path: Path, kind: Type, most: float) -> None:
    from transformers import AutoModelForCausalLM

    path, _ = gguf_models.save("llama", tmp_path / "model.gguf", gguf_models.matrices(kind), **WIDE)
    source = weight_source(load_skeleton(AutoModelForCausalLM, resolve(path)))
    forms = packed_forms(source).values()
    assert len(forms) == 2 * 7 + 2
    for layout in map(packed_layout.layout_of, forms):
        assert layout is not None
        assert layout.num_bytes / (layout.num_rows * layout.num_columns) <= most
    on_card = [layout for layout in map(pack_int4_linears.layout_of, forms) if layout is not None]
    assert len(on_card) == (len(forms) if kind == Type.Q4_0 else 0)


def test_constant_groups_have_no_scale_to_divide_by() -> None:
    from QEfficient.transformers.checkpoint.packed import PackedRows

    values = torch.tensor([[3, 1, 2, 0]], dtype=torch.uint8)
    rows = PackedRows(values, torch.tensor([[0.0, 0.5]]), None, 2, minimums=torch.tensor([[0.75, 0.25]]))
    assert rows.expand().tolist() == [[-0.75, -0.75, 0.75, -0.25]]
    assert rows.without_minimums().expand().tolist() == rows.expand().tolist()


def with_factors(path: Path, factors: dict[str, np.ndarray], **metadata: Any) -> Path:
    """A file of a tiny Llama with other tensors and keys for rotary positions."""
    original = gguf.GGUFWriter.write_header_to_file

    def more(writer: Any, *args: Any) -> None:
        for name, values in factors.items():
            writer.add_tensor(name, values.astype(np.float32))
        for key, value in metadata.items():
            add = writer.add_string if isinstance(value, str) else writer.add_float32
            (writer.add_uint32 if isinstance(value, int) else add)(f"llama.rope.scaling.{key}", value)
        original(writer, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gguf.GGUFWriter, "write_header_to_file", more)
        return gguf_models.save("llama", path, gguf_models.matrices(Type.Q8_0), **PLAIN)[0]


def frequencies(path: Path) -> torch.Tensor:
    return QEFFAutoModelForCausalLM.from_pretrained(path).model.model.rotary_emb.inv_freq


def test_rotary_factors_are_read(tmp_path: Path) -> None:
    """Llama 3.1's scaling is in no key of the metadata, but in a tensor."""
    expected = tiny_models.causal_lm("llama", **LLAMA3).model.rotary_emb.inv_freq
    plain = tiny_models.causal_lm("llama", **PLAIN).model.rotary_emb.inv_freq
    path = with_factors(tmp_path / "model.gguf", {"rope_freqs.weight": (plain / expected).numpy()})
    torch.testing.assert_close(frequencies(path), expected)


@pytest.mark.parametrize(
    ("metadata", "rope"),
    [
        ({"type": "linear", "factor": 4.0}, {"rope_type": "linear", "factor": 4.0}),
        ({"factor": 4.0}, {"rope_type": "linear", "factor": 4.0}),
        (
            {"type": "yarn", "factor": 4.0, "original_context_length": 128},
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
        ),
    ],
)
def test_rotary_scaling_is_read(tmp_path: Path, metadata: dict[str, Any], rope: dict[str, Any]) -> None:
    model = tiny_models.causal_lm("llama", rope_parameters={**rope, "rope_theta": 10000.0})
    path = with_factors(tmp_path / "model.gguf", {}, **metadata)
    torch.testing.assert_close(frequencies(path), model.model.rotary_emb.inv_freq)


@pytest.mark.parametrize(
    ("key", "value", "error", "message"),
    [
        ("attention.scale", 0.5, UnsupportedModel, r"llama\.attention\.scale is 0\.5"),
        ("attention.causal", False, UnsupportedModel, r"llama\.attention\.causal is False"),
        ("rope.freq_base", float("nan"), CorruptCheckpoint, r"llama\.rope\.freq_base is nan"),
        ("attention.layer_norm_rms_epsilon", -1.0, CorruptCheckpoint, "expected a positive number"),
        ("block_count", 0, CorruptCheckpoint, r"llama\.block_count is 0, expected at least 1"),
        (
            "block_count",
            100_000,
            CorruptCheckpoint,
            r"model\.gguf: num_hidden_layers is 100000, expected at most 1,024",
        ),
        ("vocab_size", 100, CorruptCheckpoint, r"model\.gguf do not fit its metadata"),
    ],
)
def test_metadata_that_no_model_has(tmp_path: Path, key: str, value: Any, error: type[Exception], message: str) -> None:
    original = gguf.GGUFWriter.write_header_to_file

    def with_value(writer: Any, *args: Any) -> None:
        writer.kv_data[0].pop(f"llama.{key}", None)
        add = {bool: writer.add_bool, float: writer.add_float32, int: writer.add_uint32}[type(value)]
        add(f"llama.{key}", value)
        original(writer, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gguf.GGUFWriter, "write_header_to_file", with_value)
        path, _ = gguf_models.save("llama", tmp_path / "model.gguf", gguf_models.matrices(Type.Q8_0), **PLAIN)
    with pytest.raises(error, match=message):
        QEFFAutoModelForCausalLM.from_pretrained(path)


def test_names_of_files(small: Path, tmp_path: Path) -> None:
    (tmp_path / "MODEL.GGUF").write_bytes(small.read_bytes())
    assert parameters(QEFFAutoModelForCausalLM.from_pretrained(tmp_path / "MODEL.GGUF").model)
    with pytest.raises(CheckpointNotFound, match=r"There is no file '.*none\.gguf'"):
        resolve(tmp_path / "none.gguf")
    (tmp_path / "model.txt").touch()
    with pytest.raises(CheckpointNotFound, match=r"is a file: .* ends in \.gguf"):
        resolve(tmp_path / "model.txt")
    for name in (str(small), "", "other.gguf"):
        with pytest.raises(OptionError, match="must be the name of a file"):
            resolve(small if name == "other.gguf" else tmp_path, gguf_file=name)


def test_an_unknown_scaling_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=r"llama\.rope\.scaling\.type is 'dynamic'"):
        resolve(with_factors(tmp_path / "model.gguf", {}, type="dynamic", factor=2.0))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "small-Q8_0.gguf"
    return gguf_models.save("llama", path, gguf_models.matrices(Type.Q8_0), **PLAIN)[0]


def test_the_tokenizer_comes_from_the_file(small: Path) -> None:
    folder = resolve(small)
    tokenizer, expected = load_tokenizer(folder), tiny_models.tiny_tokenizer()
    text = "The quick brown fox, 123!"
    assert tokenizer is not None
    assert tokenizer(text, add_special_tokens=False).input_ids == expected(text, add_special_tokens=False).input_ids
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 2)
    assert json.loads((folder / "config.json").read_text())["eos_token_id"] == 2


def test_a_folder_with_one_model(small: Path, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(small.read_bytes())
    assert resolve(tmp_path) == resolve(tmp_path / "model.gguf") == resolve(tmp_path, gguf_file="model.gguf")
    (tmp_path / "model-Q4.gguf").write_bytes(small.read_bytes())
    with pytest.raises(CheckpointNotFound, match=r"several GGUF models: model-Q4\.gguf, model\.gguf.*gguf_file"):
        resolve(tmp_path)
    with pytest.raises(CheckpointNotFound, match=r"no file .*other\.gguf"):
        resolve(tmp_path, gguf_file="other.gguf")


def test_a_changed_file_is_another_checkpoint(small: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(small.read_bytes())
    before = resolve(path)
    path.write_bytes(small.read_bytes())
    assert resolve(path) != before


def test_pruning_forgets_files_that_are_gone(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QEFF_HOME", str(tmp_path / "home"))
    path = tmp_path / "model.gguf"
    path.write_bytes(small.read_bytes())
    kept, forgotten = resolve(small), resolve(path)
    path.unlink()
    prune(tmp_path / "home" / "store")
    assert (kept.is_dir(), forgotten.is_dir()) == (True, False)


def test_files_that_belong_together(tmp_path: Path) -> None:
    whole, expected = gguf_models.save("llama", tmp_path / "whole.gguf", gguf_models.matrices(Type.Q8_0), **PLAIN)
    reader = gguf.GGUFReader(whole)
    for number, tensors in enumerate((reader.tensors[:9], reader.tensors[9:]), 1):
        writer = gguf.GGUFWriter(tmp_path / f"split-{number:05}-of-00002.gguf", "llama")
        if number == 1:
            for field in reader.fields.values():
                if field.name.startswith(("llama.", "tokenizer.")):
                    sub_type = field.types[-1] if len(field.types) > 1 else None
                    writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=sub_type)
        for tensor in tensors:
            is_block = tensor.tensor_type not in (Type.F32, Type.F16)
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type if is_block else None)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    whole.unlink()
    loaded = parameters(QEFFAutoModelForCausalLM.from_pretrained(tmp_path).model)
    for name, parameter in parameters(expected).items():
        assert torch.equal(loaded[name], parameter), name
    (tmp_path / "split-00001-of-00002.gguf").unlink()
    with pytest.raises(CheckpointNotFound, match="lacks split-00001-of-00002"):
        resolve(tmp_path)


def numbers_at(content: bytes, name: str) -> int:
    """Where what follows a tensor's name in a header begins."""
    return content.index(name.encode()) + len(name)


def lying(content: bytes, change: str) -> bytes:
    place = numbers_at(content, "blk.0.ffn_gate.weight")
    edits = {
        "no GGUF": (0, b"GGML"),
        "version": (4, (9).to_bytes(4, "little")),
        "many tensors": (8, (2**40).to_bytes(8, "little")),
        "many keys": (16, (2**63).to_bytes(8, "little")),
        "axes": (place, (9).to_bytes(4, "little")),
        "width": (place + 4, (2**40).to_bytes(8, "little")),
        "part of a block": (place + 4, (65).to_bytes(8, "little")),
        "other rows": (place + 12, (64).to_bytes(8, "little")),
        "type": (place + 20, (250).to_bytes(4, "little")),
        "offset": (place + 24, (2**50).to_bytes(8, "little")),
        "overlap": (place + 24, (32).to_bytes(8, "little")),
        "unknown tensor": (place - len("gate.weight"), b"gatx.weight"),
        "twice": (numbers_at(content, "blk.0.ffn_up.weight") - 18, b"blk.0.ffn_up.weight"[1:]),
    }
    start, octets = edits[change]
    return content[:start] + octets + content[start + len(octets) :]


LIES = {
    "no GGUF": "does not begin with GGUF",
    "version": "version 9",
    "many tensors": "1099511627776 tensors",
    "many keys": "pairs of key and value",
    "axes": "has 9 axes",
    "width": "expected from",
    "part of a block": "rows are of blocks of 32",
    "other rows": r"'model\.layers\.0\.mlp\.gate_proj\.weight' has shape",
    "type": "ggml's type 250",
    "offset": "expected from",
    "overlap": "expected from",
    "unknown tensor": r"what 'blk\.0\.ffn_gatx\.weight' is",
}


@pytest.mark.parametrize("change", LIES)
def test_a_lying_header_is_an_error(small: Path, tmp_path: Path, change: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(lying(small.read_bytes(), change))
    with pytest.raises((CorruptCheckpoint, UnsupportedModel), match=LIES[change]):
        QEFFAutoModelForCausalLM.from_pretrained(path)


def test_a_scale_that_is_no_number(small: Path, tmp_path: Path) -> None:
    header = read_gguf_header(small)
    content = bytearray(small.read_bytes())
    start = header.data_offset + header.tensors["blk.1.ffn_up.weight"].begin
    content[start : start + 2] = np.float16("nan").tobytes()
    (tmp_path / "model.gguf").write_bytes(content)
    model = QEFFAutoModelForCausalLM.from_pretrained(tmp_path / "model.gguf")
    with pytest.raises(CorruptCheckpoint, match=r"model\.gguf: 'blk\.1\.ffn_up\.weight' .*NaN"):
        model.compile(ctx_len=64)


def test_any_damage_is_a_typed_error(small: Path, tmp_path: Path) -> None:
    content = small.read_bytes()
    header_len = read_gguf_header(small).data_offset
    rng = np.random.default_rng(0)
    path = tmp_path / "model.gguf"
    for _ in range(300):
        damaged = bytearray(content)
        for place in rng.integers(0, header_len, rng.integers(1, 4)):
            damaged[place] = rng.integers(0, 256)
        path.write_bytes(damaged[: rng.integers(0, len(damaged))] if rng.random() < 0.3 else damaged)
        with suppress(QEffError):
            read_gguf_header(path)
