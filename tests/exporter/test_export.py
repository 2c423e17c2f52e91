"""The exported graph: what it promises by name and shape, that ONNX Runtime runs it as it stands, and its weights."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import tiny_models
import torch
from onnx.external_data_helper import ExternalDataInfo

from QEfficient import QEFFAutoModelForCausalLM
from QEfficient.errors import CorruptCheckpoint
from QEfficient.exporter.export import MODEL_FILE, WEIGHTS_FILE
from QEfficient.transformers.checkpoint.source import FromModule

pytestmark = pytest.mark.xdist_group("export")

VOCAB, HEADS, DIM, CTX_LEN, WINDOW, ROWS = 320, 2, 16, 48, 16, 5
GRAPHS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "mistral, continuous batching": ("mistral", {"full_batch_size": ROWS}),
}


class Exported:
    """One model in PyTorch, in ONNX and in ONNX Runtime."""

    def __init__(self, model: Any, folder: Path, **options: Any):
        self.hf = model
        self.path = QEFFAutoModelForCausalLM(model).export(
            folder, target="cloud-ai-100-sim", ctx_len=CTX_LEN, **options
        )
        self.onnx = onnx.load(self.path, load_external_data=False)
        self.has_rows = "full_batch_size" in options
        self.slots = WINDOW if model.config.model_type == "mistral" else CTX_LEN

    def session(self) -> onnxruntime.InferenceSession:
        return onnxruntime.InferenceSession(self.path, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module", params=GRAPHS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    name, options = GRAPHS[request.param]
    return Exported(tiny_models.causal_lm(name), tmp_path_factory.mktemp("onnx") / "folder", **options)


class Rows:
    """Sequences over the state's rows, in ONNX Runtime; every step's logits are compared with Hugging Face's."""

    def __init__(self, exported: Exported, num_rows: int):
        self.exported, self.session = exported, exported.session()
        random = np.random.default_rng(0)
        names = [value.name for value in self.session.get_inputs() if value.name.startswith("past_")]
        # What an earlier sequence left in the state must never be seen.
        self.state = {
            name: random.normal(0, 3, (num_rows, HEADS, exported.slots, DIM)).astype(np.float32) for name in names
        }
        self.tokens: dict[int, list[int]] = {row: [] for row in range(num_rows)}

    def step(self, chunks: list[tuple[int, list[int]]], width: int) -> None:
        """Feed ``(state row, new tokens)``, padded to ``width``; no new tokens is a row of padding."""
        ids = np.full((len(chunks), width), 7, np.int64)
        positions = np.full((len(chunks), width), -1, np.int64)
        for batch_row, (row, new) in enumerate(chunks):
            past = len(self.tokens[row])
            ids[batch_row, : len(new)] = new
            positions[batch_row, : len(new)] = np.arange(past, past + len(new))
            self.tokens[row] += new
        inputs = {"input_ids": ids, "position_ids": positions, **self.state}
        if self.exported.has_rows:
            inputs["batch_index"] = np.array([[row] for row, _ in chunks], np.int64)
        names = [value.name for value in self.session.get_outputs()]
        logits, *state = self.session.run(names, inputs)
        idle = [row for row in self.tokens if not dict(chunks).get(row)]
        for name, new_state in zip(self.state, state, strict=True):
            assert np.isfinite(new_state).all()
            assert np.array_equal(new_state[idle], self.state[name][idle]), "a row without tokens keeps its state"
            self.state[name] = new_state
        assert logits.shape == (len(chunks), 1, VOCAB)
        for (row, new), found in zip(chunks, logits[:, 0], strict=True):
            if new:
                np.testing.assert_allclose(found, self.expected(row), rtol=1e-3, atol=1e-4)

    def expected(self, row: int) -> np.ndarray:
        with torch.no_grad():
            return self.exported.hf(torch.tensor([self.tokens[row]])).logits[0, -1].numpy()


def test_prefill_in_chunks_and_decode_in_onnx_runtime(exported: Exported) -> None:
    """Rows of unequal lengths, some all padding, over and beyond the sliding window; one graph for all steps."""
    random = np.random.default_rng(1)

    def new(count: int) -> list[int]:
        return random.integers(3, VOCAB, count).tolist()

    rows = Rows(exported, num_rows=3)
    rows.step([(0, new(9)), (1, new(4)), (2, [])], width=9)
    rows.step([(0, new(9)), (1, []), (2, new(1))], width=9)
    rows.step([(0, new(2)), (1, new(5)), (2, new(9))], width=9)
    rows.step([(0, new(20)), (1, []), (2, new(7))], width=24)
    for _ in range(3):
        rows.step([(0, new(1)), (1, []), (2, new(1))], width=1)
    rows.step([(0, new(1)), (1, new(1)), (2, new(1))], width=1)
    rows.tokens[2] = []
    rows.step([(0, new(1)), (1, new(1)), (2, new(12))], width=12)
    rows.step([(0, new(1)), (1, new(1)), (2, new(1))], width=1)
    assert [len(rows.tokens[row]) for row in range(3)] == [46, 12, 13]


def test_any_rows_in_any_order_with_a_batch_index(exported: Exported) -> None:
    random = np.random.default_rng(2)
    if not exported.has_rows:
        assert "batch_index" not in {value.name for value in exported.onnx.graph.input}
        return
    rows = Rows(exported, num_rows=ROWS)
    for batch in ([3], [4, 1], [1, 3, 0], [0, 4], [2, 1, 4, 3, 0], [2]):
        rows.step([(row, random.integers(3, VOCAB, int(random.integers(1, 9))).tolist()) for row in batch], width=8)


def test_contract_of_names_and_axes(exported: Exported) -> None:
    row_axis = "full_batch_size" if exported.has_rows else "batch_size"
    slots = "sliding_window" if exported.slots == WINDOW else "ctx_len"
    state = {
        name: [row_axis, HEADS, slots, DIM] for layer in (0, 1) for name in (f"past_key.{layer}", f"past_value.{layer}")
    }
    tokens: dict[str, list[Any]] = {name: ["batch_size", "seq_len"] for name in ("input_ids", "position_ids")}
    rows: dict[str, list[Any]] = {"batch_index": ["batch_size", 1]} if exported.has_rows else {}
    assert shapes(exported.onnx.graph.input) == [*tokens.items(), *state.items(), *rows.items()]
    assert shapes(exported.onnx.graph.output) == [
        ("logits", ["batch_size", 1, VOCAB]),
        *((f"{name}_RetainedState", shape) for name, shape in state.items()),
    ]
    kinds = {value.name: value.type.tensor_type.elem_type for value in exported.onnx.graph.input}
    assert all(kinds[name] == onnx.TensorProto.INT64 for name in (*tokens, *rows))
    assert all(kinds[name] == onnx.TensorProto.FLOAT for name in state)
    assert exported.onnx.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT


def shapes(values: Any) -> list[tuple[str, list[Any]]]:
    return [
        (value.name, [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]) for value in values
    ]


def test_graph_is_valid_and_brings_every_function_it_calls(exported: Exported) -> None:
    onnx.checker.check_model(exported.path, full_check=True)
    called = {(node.domain, node.op_type) for node in exported.onnx.graph.node if node.domain}
    assert called == {(function.domain, function.name) for function in exported.onnx.functions}
    assert {domain for domain, _ in called} == {"com.qualcomm.cloud", "com.qti.aisw.onnx"}


def test_layers_end_where_the_manifest_says(exported: Exported) -> None:
    produced = {name for node in exported.onnx.graph.node for name in node.output}
    assert {"layer.0", "layer.1"} <= produced


def test_weights_lie_outside_the_graph(exported: Exported) -> None:
    folder = exported.path.parent
    assert {path.name for path in folder.iterdir()} == {MODEL_FILE, WEIGHTS_FILE, "manifest.json"}
    assert exported.path.stat().st_size < 1_000_000
    inside = [tensor for tensor in exported.onnx.graph.initializer if tensor not in external(exported.onnx)]
    assert all(len(tensor.raw_data) <= 256 for tensor in inside), "norms of a tiny model at most"
    assert (folder / WEIGHTS_FILE).stat().st_size > weights_bytes(exported.hf) * 0.98


def weights_bytes(model: Any) -> int:
    return sum(p.numel() * p.element_size() for p in model.parameters())


def test_graph_tells_nothing_about_this_machine(exported: Exported, tmp_path: Path) -> None:
    content = exported.path.read_bytes()
    for trace in (b".py", b"site-packages", b"Traceback", b'File "', str(exported.path.parent).encode()):
        assert trace not in content, trace
    assert not re.search(rb"/[a-z_]+/[a-z_]+/[a-z_]+", content)
    locations = {ExternalDataInfo(tensor).location for tensor in external(exported.onnx)}
    assert locations == {WEIGHTS_FILE}


def external(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    return [tensor for tensor in model.graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL]


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """bfloat16, its head tied to its embedding."""
    model = tiny_models.causal_lm("llama", tie_word_embeddings=True).to(torch.bfloat16)
    model.tie_weights()
    return Exported(model, tmp_path_factory.mktemp("onnx") / "half")


def test_half_precision_is_stored_as_it_is(half: Exported) -> None:
    stored = external(half.onnx)
    assert {tensor.data_type for tensor in stored} == {onnx.TensorProto.BFLOAT16}
    size = (half.path.parent / WEIGHTS_FILE).stat().st_size
    assert size < weights_bytes(half.hf) * 1.05 + 4096 * len(stored)
    bits = {name: p.detach().view(torch.int16).numpy().tobytes() for name, p in half.hf.named_parameters()}
    graph = onnx.load(half.path).graph
    found = [tensor.raw_data for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.BFLOAT16]
    assert set(found) == set(bits.values()), "equal ones may be one"


def test_tied_weights_are_stored_once(half: Exported) -> None:
    assert half.hf.lm_head.weight is half.hf.model.embed_tokens.weight
    assert sum(tuple(tensor.dims) in ((VOCAB, 64), (64, VOCAB)) for tensor in half.onnx.graph.initializer) == 1


def test_half_precision_computes_in_float32(half: Exported) -> None:
    in_float = copy.copy(half)
    in_float.hf = copy.deepcopy(half.hf).float()
    rows = Rows(in_float, num_rows=2)
    rows.step([(0, [5, 6, 7]), (1, [8, 9])], width=3)
    rows.step([(0, [10]), (1, [11])], width=1)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weight_that_is_no_number_is_found(value: float, dtype: torch.dtype) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Embedding(0, 4), torch.nn.Linear(5, 2)).to(dtype)
    FromModule(model).digest()
    with torch.no_grad():
        model[2].weight[1, 4] = value
    with pytest.raises(CorruptCheckpoint, match=r"'2\.weight' \(2, 5\)"):
        FromModule(model).digest()


def test_weight_that_is_no_number_is_never_written(tmp_path: Path) -> None:
    model = tiny_models.causal_lm("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 4] = float("nan")
    with pytest.raises(CorruptCheckpoint, match=r"model\.layers\.1\.mlp\.up_proj\.weight.*\(96, 64\)"):
        QEFFAutoModelForCausalLM(model).export(tmp_path / "onnx", lowering="retained")
    assert not list(tmp_path.rglob(f"{MODEL_FILE}*"))
