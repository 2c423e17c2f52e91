"""Arguments that nothing can be made of: an error that names the argument, and the package works afterwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch

from QEfficient import QEFFAutoModel, QEFFAutoModelForCausalLM, QEFFAutoModelForSequenceClassification
from QEfficient.errors import CapacityError, LifecycleError, OptionError, QEffError
from QEfficient.generation.package import from_package
from QEfficient.generation.tasks.causal_lm import CompiledCausalLM
from QEfficient.generation.tasks.encoder import CompiledEncoder

pytestmark = pytest.mark.xdist_group("fault packages")
IDS = [5, 6, 7]


@pytest.fixture(scope="module")
def decoder() -> Any:
    model = QEFFAutoModelForCausalLM(tiny_models.causal_lm("llama"), tokenizer=tiny_models.tiny_tokenizer())
    model.compile(target="cpu", ctx_len=32, full_batch_size=2, precision="fp32")
    with from_package(model.qpc_path) as compiled:  # type: ignore[arg-type]
        yield compiled


@pytest.fixture(scope="module")
def encoder() -> Any:
    model = QEFFAutoModel(tiny_models.encoder(), tokenizer=tiny_models.tiny_tokenizer())
    model.compile(target="cpu", seq_len=16, precision="fp32")
    with from_package(model.qpc_path) as compiled:  # type: ignore[arg-type]
        yield compiled


PROMPTS: dict[str, Any] = {
    "an array without axes": np.array(5),
    "a tensor without axes": torch.tensor(5),
    "half of a pair": "a\ud800b",
    "half of a pair in a list": ["x", "a\udfff"],
    "bools": [True, False],
    "an array of bools": np.array([True, False]),
    "a tensor of bools": torch.tensor([True]),
    "bytes": bytearray(b"abc"),
    "memory": memoryview(b"abc"),
    "a set": {5, 6},
    "a frozen set in a list": [frozenset({5})],
    "a chat and a text": [{"role": "user", "content": "x"}, "y"],
    "a text and a chat": ["y", {"role": "user", "content": "x"}],
    "a message without a role": [{"role": "user", "content": "x"}, {"content": "y"}],
    "a role that is no text": [{"role": 5, "content": "y"}],
    "half of a pair in a chat": [{"role": "user", "content": "\ud800"}],
    "a mask that is shorter": {"input_ids": [IDS], "attention_mask": [[1, 1]]},
    "a mask of other rows": {"input_ids": [IDS, IDS], "attention_mask": [[1, 1, 1]]},
    "a mask of text": {"input_ids": [IDS], "attention_mask": ["abc"]},
    "no ids": {"attention_mask": [IDS]},
}


@pytest.mark.parametrize("prompts", PROMPTS.values(), ids=PROMPTS)
def test_prompts(decoder: CompiledCausalLM, prompts: Any) -> None:
    with pytest.raises(OptionError):
        decoder.generate(prompts, generation_len=2)
    with pytest.raises(OptionError):
        list(decoder.stream(prompts, generation_len=2))
    assert len(decoder.generate([IDS], generation_len=2).generated_ids[0]) == 2


@pytest.mark.parametrize("prompts", [PROMPTS[name] for name in PROMPTS if "chat" not in name and "role" not in name])
def test_texts(encoder: CompiledEncoder, prompts: Any) -> None:
    with pytest.raises(OptionError):
        encoder.generate(prompts)
    assert encoder.generate([IDS])["output"].shape == (1, 3, 64)


def test_masks_may_be_of_bools(decoder: CompiledCausalLM) -> None:
    expected = decoder.generate([[6, 7]], generation_len=3).generated_ids[0].tolist()
    for mask in ([[False, True, True]], np.array([[False, True, True]]), torch.tensor([[False, True, True]])):
        answer = decoder.generate({"input_ids": [IDS], "attention_mask": mask}, generation_len=3)
        assert answer.generated_ids[0].tolist() == expected


@pytest.mark.parametrize("ids", [[320], [-1], [2**70], [-(2**63)]])
def test_ids_of_an_encoder(encoder: CompiledEncoder, ids: list[int]) -> None:
    with pytest.raises(OptionError, match="0 to 319"):
        encoder.generate([ids])


@pytest.mark.parametrize("types", [[0, 0], [0, 9, 0], [0, -1, 0], [0, 2**70, 0]])
def test_token_types(encoder: CompiledEncoder, types: list[int]) -> None:
    with pytest.raises(OptionError):
        encoder.generate({"input_ids": [IDS], "token_type_ids": [types]})


@pytest.mark.parametrize("tokenizer", [5, "x", object(), tiny_models])
def test_tokenizer(decoder: CompiledCausalLM, encoder: CompiledEncoder, tokenizer: Any) -> None:
    for compiled in (decoder, encoder):
        with pytest.raises(OptionError, match="tokenizer"):
            compiled.generate("x", tokenizer=tokenizer)


@pytest.mark.parametrize(
    "options",
    [
        {"do_sample": "no"},
        {"do_sample": 0},
        {"do_sample": "false", "temperature": 1.0},
        {"stream": "x"},
        {"stream": 1},
        {"stream": None},
        {"generation_len": np.array([1, 2])},
        {"temperature": np.array("x")},
        {"seed": [[1]]},
        {"repetition_penalty": "1"},
    ],
)
def test_options_of_generate(decoder: CompiledCausalLM, options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(options))):
        decoder.generate([IDS], **options)


@pytest.mark.parametrize("penalty", [1e-308, 5e-324, 1.7e308])
def test_extreme_penalties(decoder: CompiledCausalLM, penalty: float) -> None:
    options: dict[str, Any] = {"repetition_penalty": penalty, "temperature": 1.0, "seed": 0, "generation_len": 4}
    with np.errstate(all="raise", under="ignore"):
        assert len(decoder.generate([IDS], **options).generated_ids[0])


@pytest.mark.parametrize(
    "options",
    [
        {"target": ["cpu"]},
        {"target": 5},
        {"compiler_options": [1]},
        {"compiler_options": None},
        {"compiler_options": {1: 2}},
        {"mxfp6_matmul": "no"},
        {"dry_run": "no"},
        {"enable_qnn": 1},
        {"batch_size": None},
        {"ctx_len": None},
        {"ctx_len": "32"},
        {"ctx_len": True},
        {"qnn_config": 5},
        {"weight_format": ["int8"]},
        {"precision": {"fp32"}},
        {"comp_ctx_lengths_prefill": 5},
        {"lowering": []},
    ],
)
def test_options_of_compile(options: dict[str, Any]) -> None:
    model = QEFFAutoModelForCausalLM(tiny_models.causal_lm("llama"))
    with pytest.raises(OptionError, match=next(iter(options))):
        model.compile(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"trust_remote_code": "no"},
        {"local_files_only": "no"},
        {"dtype": "load"},
        {"dtype": "int8"},
        {"dtype": 5},
        {"revision": 5},
        {"cache_dir": ["x"]},
        {"token": 5},
        {"continuous_batching": "no"},
    ],
)
def test_options_of_from_pretrained(options: dict[str, Any], tmp_path: Any) -> None:
    folder = tiny_models.save(tiny_models.causal_lm("llama"), tmp_path)
    with pytest.raises(OptionError, match=next(iter(options))):
        QEFFAutoModelForCausalLM.from_pretrained(folder, **options)


@pytest.mark.parametrize("name", [5, None, b"x", "", [], "a\0b", "a\ud800", "~no-such-user-here/x", "x" * 300, "a/b/c"])
def test_names_of_models(name: Any) -> None:
    with pytest.raises(QEffError):
        QEFFAutoModelForCausalLM.from_pretrained(name)


def test_more_slots_than_memory_holds(decoder: CompiledCausalLM) -> None:
    with pytest.raises(CapacityError, match="memory"):
        from_package(decoder.path, full_batch_size=10**9)


def test_more_slots_than_memory_holds_of_retained_state() -> None:
    model = QEFFAutoModelForCausalLM(tiny_models.causal_lm("llama"))
    model.compile(target="cpu", ctx_len=32, lowering="retained", precision="fp32")
    with pytest.raises(CapacityError, match="memory"):
        from_package(model.qpc_path, full_batch_size=10**9)  # type: ignore[arg-type]


@pytest.mark.parametrize("call", [lambda m: m.rank("x", None), lambda m: m.rank("x", [1]), lambda m: m.rank(5, ["x"])])
def test_rank(call: Callable[[Any], Any]) -> None:
    model = QEFFAutoModelForSequenceClassification(tiny_models.classifier(1), tokenizer=tiny_models.tiny_tokenizer())
    model.compile(target="cpu", seq_len=16, precision="fp32")
    with from_package(model.qpc_path) as compiled, pytest.raises(OptionError):  # type: ignore[arg-type]
        call(compiled)


@pytest.mark.parametrize("runtime", ["no", 1, None, False])
def test_runtime_switch(runtime: Any) -> None:
    model = QEFFAutoModelForCausalLM(tiny_models.causal_lm("llama"))
    with pytest.raises(OptionError, match="runtime_ai100"):
        model.generate([IDS], runtime_ai100=runtime)


def test_closed_twice(decoder: CompiledCausalLM, encoder: CompiledEncoder) -> None:
    for opened, prompt in ((from_package(decoder.path), [IDS]), (from_package(encoder.path), [IDS])):
        with opened:
            opened.close()
        opened.close()
        with pytest.raises(LifecycleError):
            opened.generate(prompt)  # type: ignore[attr-defined]
