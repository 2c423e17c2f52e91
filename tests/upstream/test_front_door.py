"""What upstream's keywords and names do is right, not only accepted."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from upstream.world import SIZES, Compiled, World

import QEfficient
from QEfficient import QEFFAutoModelForCausalLM, cloud_ai_100_exec_kv
from QEfficient.errors import MovedName, OptionError
from QEfficient.qaic_config import automatic_ctx_lengths

PROMPT = [5, 6, 7, 8]


def greedy(hf_model: Any, num_new: int) -> list[int]:
    ids = hf_model.generate(torch.tensor([PROMPT]), do_sample=False, max_new_tokens=num_new, eos_token_id=[])
    row: list[int] = ids[0, len(PROMPT) :].tolist()
    return row


@pytest.mark.parametrize("by_config", [False, True])
def test_a_smaller_model_is_that_of_hugging_face(world: World, by_config: bool) -> None:
    changes: dict[str, Any] = {"num_hidden_layers": 1}
    if by_config:
        config = AutoConfig.from_pretrained(world.card)
        config.num_hidden_layers = 1
        changes = {"config": config}
    expected = greedy(AutoModelForCausalLM.from_pretrained(world.card, **changes), 6)
    assert expected != greedy(world.hf_model, 6)
    with QEFFAutoModelForCausalLM.from_pretrained(world.card, **changes) as model:
        model.compile(target="cpu", ctx_len=32, precision="fp32")
        assert model.generate([PROMPT], generation_len=6, automation=True).generated_ids[0].tolist() == expected
    if by_config:
        assert config.num_hidden_layers == 1
        assert world.hf_model.config.num_hidden_layers == 2


def test_a_value_that_the_config_does_not_take_is_refused(world: World) -> None:
    with pytest.raises(OptionError, match="num_hidden_layers='two'"):
        QEFFAutoModelForCausalLM.from_pretrained(world.card, num_hidden_layers="two")


def test_a_graph_compiles_without_its_checkpoint(world: World, compiled: Compiled, tmp_path: Path) -> None:
    model = QEFFAutoModelForCausalLM.from_pretrained(world.card)
    model.export(tmp_path / "graph", target="cloud-ai-100-sim", **SIZES)
    graph = tmp_path / "graph" / "model.onnx"
    package = QEfficient.compile(graph, tmp_path / "package", target="cloud-ai-100-sim", mxfp6=False, **SIZES)
    tokenizer = tiny_models.tiny_tokenizer()
    for folder in (package, package / "qpc"):
        info = cloud_ai_100_exec_kv(tokenizer, folder, "My name is", generation_len=4, stream=False)
        assert info.generated_texts == compiled.texts
    assert (package / "programqpc.bin").samefile(package / "qpc" / "programqpc.bin")


def test_a_graph_of_other_options_is_refused(world: World) -> None:
    model = QEFFAutoModelForCausalLM.from_pretrained(world.card)
    graph = model.export(target="cloud-ai-100-sim", **SIZES)
    with pytest.raises(OptionError, match=r"plan differ.*has_batch_index=False, needed True.*give export\(\)"):
        model.compile(onnx_path=graph, target="cloud-ai-100-sim", full_batch_size=2, **SIZES)
    with pytest.raises(OptionError, match="does not fit"):
        QEfficient.compile(graph, target="cloud-ai-100-sim", full_batch_size=2, **SIZES)
    other = QEFFAutoModelForCausalLM(tiny_models.causal_lm("llama", seed=1))
    with pytest.raises(OptionError, match="weights"):
        other.compile(onnx_path=graph, target="cloud-ai-100-sim", **SIZES)
    with pytest.raises(OptionError, match="is no exported graph, but a package"):
        model.compile(onnx_path=compiled_file(model), target="cloud-ai-100-sim", **SIZES)


def compiled_file(model: QEFFAutoModelForCausalLM) -> Path:
    return model.compile(target="cloud-ai-100-sim", **SIZES) / "specializations.json"


def test_buffers_of_a_run_are_written(compiled: Compiled, tmp_path: Path) -> None:
    info = compiled.model.generate([PROMPT], generation_len=3, automation=True, write_io_dir=str(tmp_path / "io"))
    runs = json.loads((tmp_path / "io" / "aic_batch_io.json").read_text())["IO-files"]
    assert len(runs) == 3
    tokens = []
    for run in runs:
        files = {entry["map-to"]: entry for entry in run}
        assert {name: entry["io-direction"] for name, entry in files.items()}["logits"] == "out"
        logits = np.fromfile(tmp_path / "io" / files["logits"]["path"], np.float32).reshape(files["logits"]["dims"])
        tokens.append(int(logits[0, -1].argmax()))
    assert tokens == info.generated_ids[0].tolist()
    ids = next(entry for entry in runs[0] if entry["map-to"] == "input_ids")
    assert np.fromfile(tmp_path / "io" / ids["path"], np.int64)[:4].tolist() == PROMPT
    compiled.model.generate([PROMPT], generation_len=1)  # writes nothing more
    assert len([*(tmp_path / "io").glob("run_*")]) == 3


def test_end_tokens_end_an_answer_unless_it_is_automation(compiled: Compiled) -> None:
    first = compiled.model.generate([PROMPT], generation_len=6, automation=True).generated_ids[0].tolist()
    end = first[2]
    stop = first.index(end) + 1
    model = compiled.model
    assert model.generate([PROMPT], generation_len=6, eos_token_id=end).generated_ids[0].tolist() == first[:stop]
    config = {"eos_token_id": end}
    info = model.generate([PROMPT], generation_len=6, generation_config=config, automation=True)
    assert info.generated_ids[0].tolist() == first


def test_iterations_give_the_last_run(compiled: Compiled) -> None:
    pieces: list[str] = []
    info = compiled.model.generate(["My name is"], generation_len=4, iteration=3, stream=pieces.append)
    assert "".join(pieces) == compiled.texts[0] * 3
    assert info.generated_texts == compiled.texts
    for wrong in (0, True, "2"):
        with pytest.raises(OptionError, match="iteration"):
            compiled.model.generate(["My name is"], iteration=wrong)


@pytest.mark.parametrize(
    ("target", "slots", "num_sequences"),
    [
        ("cloud-ai-100-sim", {"batch_size": 2}, 2),
        ("cloud-ai-100-sim", {"full_batch_size": 2}, 1),
        ("cpu", {"batch_size": 2}, 1),
    ],
)
def test_speed_is_of_one_sequence_without_continuous_batching(
    world: World, target: str, slots: dict[str, int], num_sequences: int
) -> None:
    with QEFFAutoModelForCausalLM(world.hf_model) as model:
        model.compile(target=target, **{**SIZES, **slots})
        info = model.generate([PROMPT, PROMPT], generation_len=8, automation=True)
    metrics = info.perf_metrics
    assert (info.batch_size, metrics.num_sequences) == (2, num_sequences)
    assert metrics.total_perf * metrics.total_time == pytest.approx(16 / num_sequences)
    assert f"total {16 / metrics.total_time:.1f} tokens/s" in info.speed


def test_ids_are_padded_to_a_length(compiled: Compiled) -> None:
    info = compiled.model.generate([PROMPT, PROMPT], generation_len=[8, 5], automation=True)
    padded = info.padded_ids(12, pad_token_id=9)
    assert padded.shape == (2, 12)
    assert padded[0, 8:].tolist() == [9] * 4
    assert padded[1, :6].tolist() == [*info.generated_ids[1].tolist(), 9]
    assert info.padded_ids(3).tolist() == [row[:3].tolist() for row in info.generated_ids]


def test_automatic_lengths_double_up_to_the_context() -> None:
    assert automatic_ctx_lengths(1024) == (1024,)
    assert automatic_ctx_lengths(16384) == (4096, 8192, 16384)
    assert automatic_ctx_lengths(65536) == (8192, 16384, 32768, 65536)
    assert automatic_ctx_lengths(131072) == (16384, 32768, 65536, 131072)
    assert len(automatic_ctx_lengths(1 << 20)) == 5


def test_flags_of_the_compiler_change_nothing_on_cpu(world: World, caplog: pytest.LogCaptureFixture) -> None:
    model = QEFFAutoModelForCausalLM(world.hf_model)
    plain = model.package_ingredients(target="cpu", ctx_len=32)
    assert model.package_ingredients(target="cpu", ctx_len=32, user_tiled=True, dynamo=True) == plain
    assert "user_tiled: no effect on target 'cpu'" in caplog.text
    with pytest.raises(OptionError, match="mdp_ts_num_devices=2 and num_devices=4 are the same option"):
        model.package_ingredients(target="cloud-ai-100-sim", num_devices=4, mdp_ts_num_devices=2)


def test_names_that_nobody_has_are_missing_as_everywhere() -> None:
    from QEfficient import utils  # type: ignore[attr-defined]  # found when it is imported

    assert not hasattr(utils, "get_qpc_dir_pat")
    assert not hasattr(QEfficient, "QEffFlux")
    with pytest.raises(ModuleNotFoundError, match=r"QEfficient\.utils\.no_such_module"):
        importlib.import_module("QEfficient.utils.no_such_module")
    with pytest.raises(MovedName, match="text encoders"):
        QEfficient.QEffFluxPipeline  # noqa: B018


def test_one_finder_is_asked_for_modules_of_the_library_alone() -> None:
    from QEfficient.compat.finder import UpstreamFinder, install

    install()
    (finder,) = [each for each in sys.meta_path if isinstance(each, UpstreamFinder)]
    assert finder.find_spec("torch_no_such") is None
    assert finder.find_spec("QEfficientTools.utils") is None
    spec = finder.find_spec("QEfficient.utils.constants")
    assert spec is not None
    assert Path(str(spec.origin)).parts[-4:] == ("compat", "upstream", "utils", "constants.py")
