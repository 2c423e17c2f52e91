"""Adapters' files are a stranger's: what is not read is refused by name, and nothing is unpickled."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from lora_adapters import write_adapter
from safetensors.torch import load_file, save_file

from QEfficient import QEffAutoLoraModelForCausalLM
from QEfficient.errors import CheckpointNotFound, CorruptCheckpoint, OptionError, UnsafeCheckpoint, UnsupportedModel
from QEfficient.transformers.adapters.adapter import read_adapter

Q_PROJ = "base_model.model.model.layers.0.self_attn.q_proj"


@cache
def base() -> Any:
    return tiny_models.causal_lm("llama")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "adapter", base(), r"q_proj|k_proj", 4)


def load(folder: Path) -> QEffAutoLoraModelForCausalLM:
    model = QEffAutoLoraModelForCausalLM(base())
    model.load_adapter(folder, "x")
    return model


def change_config(folder: Path, **entries: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def change_weights(folder: Path, **tensors: Any) -> None:
    """Add, replace or, with None, remove tensors; keys end with these names."""
    path = folder / "adapter_model.safetensors"
    stored = load_file(path)
    changed = {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    save_file({name: value for name, value in (stored | changed).items() if value is not None}, path)


def test_pickled_weights_are_never_loaded(folder: Path) -> None:
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(UnsafeCheckpoint, match=r"pickled \(adapter_model.bin\).* Convert them"):
        load(folder)


def test_weights_beside_pickled_ones_are_loaded(folder: Path) -> None:
    (folder / "adapter_model.bin").write_bytes(b"anything")
    assert load(folder).adapters == ("x",)


def test_links_out_of_the_folder_are_not_followed(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.safetensors"
    shutil.move(folder / "adapter_model.safetensors", outside)
    (folder / "adapter_model.safetensors").symlink_to(outside)
    with pytest.raises(UnsafeCheckpoint, match="outside of it"):
        load(folder)


def test_missing_files_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFound, match="no folder 'no/adapter'"):
        load(Path("no/adapter"))
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointNotFound, match=r"no adapter_model.safetensors"):
        load(folder)


@pytest.mark.parametrize(
    ("entries", "error", "match"),
    [
        ({"peft_type": "IA3"}, UnsupportedModel, "peft_type is 'IA3'"),
        ({"bias": "lora_only"}, UnsupportedModel, "bias='lora_only'"),
        ({"use_dora": True}, UnsupportedModel, "use_dora=True is not supported"),
        ({"modules_to_save": ["lm_head"]}, UnsupportedModel, "modules_to_save"),
        ({"target_parameters": ["mlp.experts.down_proj"]}, UnsupportedModel, "target_parameters"),
        ({"lora_bias": True}, UnsupportedModel, "lora_bias"),
        ({"of_a_newer_peft": {"a": 1}}, UnsupportedModel, "of_a_newer_peft"),
        ({"init_lora_weights": "pissa"}, UnsupportedModel, "changes the base model's weights too"),
        ({"r": "4"}, CorruptCheckpoint, "r must be a number above 0, got '4'"),
        ({"r": 2.5}, CorruptCheckpoint, "r must be a whole number"),
        ({"lora_alpha": 0}, CorruptCheckpoint, "lora_alpha must be a number above 0"),
        ({"rank_pattern": {"(": 4}}, CorruptCheckpoint, "rank_pattern must be an object by patterns"),
        ({"alpha_pattern": [1]}, CorruptCheckpoint, "alpha_pattern must be an object of numbers"),
        ({"base_model_name_or_path": 3}, CorruptCheckpoint, "base_model_name_or_path must be text"),
        ({"r": 8}, CorruptCheckpoint, r"lora_A \(4, 64\) and lora_B \(32, 4\), expected \(8, in\)"),
    ],
)
def test_configs_are_refused_by_entry(
    folder: Path, entries: dict[str, Any], error: type[Exception], match: str
) -> None:
    change_config(folder, **entries)
    with pytest.raises(error, match=match):
        load(folder)


@pytest.mark.parametrize("start", [True, False, "gaussian", "orthogonal", "eva", None])
def test_ways_to_begin_training_do_not_matter(folder: Path, start: object) -> None:
    change_config(folder, init_lora_weights=start, lora_dropout=0.1, inference_mode=True, layers_to_transform=[0, 1])
    assert load(folder).adapters == ("x",)


def test_scales_and_ranks_go_by_patterns(folder: Path) -> None:
    change_weights(
        folder, **{f"{Q_PROJ}.lora_A.weight": torch.ones(2, 64), f"{Q_PROJ}.lora_B.weight": torch.ones(64, 2)}
    )
    change_config(
        folder,
        lora_alpha=8,
        rank_pattern={"layers.0.self_attn.q_proj": 2},
        alpha_pattern={r"layers\.\d+\.self_attn\.q_proj": 3},
    )
    updates = read_adapter("x", folder).updates
    scales = {path.removeprefix("model.layers."): update.scale for path, update in updates.items()}
    assert scales == {
        "0.self_attn.q_proj": 3 / 2,
        "1.self_attn.q_proj": 3 / 4,
        "0.self_attn.k_proj": 2,
        "1.self_attn.k_proj": 2,
    }
    change_config(folder, use_rslora=True)
    assert read_adapter("x", folder).updates["model.layers.1.self_attn.k_proj"].scale == 4
    config = load(folder).get_adapter_config("x")
    assert (config.rank, config.alpha, config.rank_of("model.layers.0.self_attn.q_proj")) == (4, 8, 2)


@pytest.mark.parametrize(
    ("tensors", "error", "match"),
    [
        ({f"{Q_PROJ}.lora_A.weight": None}, CorruptCheckpoint, r"lora_B.weight' and no '.*q_proj.lora_A.weight'"),
        ({f"{Q_PROJ}.lora_magnitude_vector": torch.ones(2)}, UnsupportedModel, "lora_magnitude_vector"),
        ({"elsewhere.lora_A.weight": torch.ones(2, 2)}, CorruptCheckpoint, "has 'elsewhere.lora_A.weight' and no"),
        ({f"{Q_PROJ}.lora_A.weight": torch.ones(4, 64).int()}, CorruptCheckpoint, "stored as I32"),
        ({f"{Q_PROJ}.lora_A.weight": torch.ones(4, 32)}, CorruptCheckpoint, "from 32 to 64 features.*from 64 to 64"),
        (
            {f"base_model.model.model.layers.7.x.lora_{side}.weight": torch.ones(4, 4) for side in "AB"},
            CorruptCheckpoint,
            "'model.layers.7.x', and LlamaForCausalLM has no such layer",
        ),
        (
            {f"base_model.model.model.embed_tokens.lora_{side}.weight": torch.ones(4, 4) for side in "AB"},
            UnsupportedModel,
            "'model.embed_tokens', a Embedding",
        ),
    ],
)
def test_weights_are_refused_by_name(folder: Path, tensors: dict[str, Any], error: type[Exception], match: str) -> None:
    change_weights(folder, **tensors)
    with pytest.raises(error, match=match):
        load(folder)


def test_a_damaged_file_is_named(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(CorruptCheckpoint, match=r"adapter_model.safetensors is truncated or damaged"):
        load(folder)


def test_values_that_are_no_numbers_are_found_before_they_run(folder: Path) -> None:
    change_weights(folder, **{f"{Q_PROJ}.lora_A.weight": torch.full((4, 64), torch.nan)})
    with pytest.raises(CorruptCheckpoint, match=r"adapter_model.safetensors: Weight '.*q_proj.lora.down' .* NaN"):
        load(folder).package_ingredients(target="cpu")


def test_a_file_that_changes_after_it_was_loaded_is_refused(folder: Path) -> None:
    model = load(folder)
    write_adapter(folder, base(), r"q_proj|k_proj", 4, seed=5)
    with pytest.raises(CorruptCheckpoint, match="has changed since the model was loaded"):
        model.package_ingredients(target="cpu")


def test_copies_of_the_base_models_embeddings_must_be_that(folder: Path) -> None:
    head = base().lm_head.weight.detach()
    change_weights(folder, **{"base_model.model.lm_head.base_layer.weight": head.clone()})
    assert load(folder).adapters == ("x",)
    for other in (head + 1, torch.ones(4, 4)):
        change_weights(folder, **{"base_model.model.lm_head.base_layer.weight": other})
        with pytest.raises(UnsupportedModel, match=r"brings 'lm_head.weight' \(.*\), which differs"):
            load(folder)


@pytest.mark.parametrize("name", ["", "base", 3, "two\nlines"])
def test_names_of_adapters_are_checked(folder: Path, name: Any) -> None:
    with pytest.raises(OptionError, match=r"name"):
        QEffAutoLoraModelForCausalLM(base()).load_adapter(folder, name)


def test_a_name_is_taken_once(folder: Path) -> None:
    model = load(folder)
    with pytest.raises(OptionError, match="an adapter 'x' already"):
        model.load_adapter(folder, "x")
    with pytest.raises(OptionError, match="no adapter 'y'"):
        model.unload_adapter("y")
    with pytest.raises(OptionError, match=r"no option 'revison'.*Did you mean 'revision'"):
        model.load_adapter(folder, "z", revison="main")
