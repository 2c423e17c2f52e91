"""Paths that are given as a model and are none: each class and command says what they are and what takes them."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch

import QEfficient
from QEfficient.errors import CheckpointNotFound, QEffError, UnsafeCheckpoint, UnsupportedModel

CLASSES = sorted(name for name in QEfficient.__all__ if name.startswith("QEFFAutoModel"))
LAYOUTS: dict[str, tuple[type[QEffError], str]] = {
    "whole/model.safetensors": (CheckpointNotFound, "is a file of a checkpoint: give its folder"),
    "whole/pytorch_model.bin": (CheckpointNotFound, "is a file of a checkpoint: give its folder"),
    "loose/w.safetensors": (CheckpointNotFound, "no config.json is beside it: give the folder"),
    "loose/w.pt": (UnsafeCheckpoint, "is pickled; unpickling runs code"),
    "loose/w.bin": (UnsafeCheckpoint, "give the folder that save_pretrained"),
    "loose/w.onnx": (CheckpointNotFound, "is an ONNX model. Give the checkpoint that it was made from"),
    "pickled": (UnsafeCheckpoint, "are pickled"),
    "adapter": (CheckpointNotFound, "QEffAutoPeftModelForCausalLM.from_pretrained"),
    "adapter_with_config": (CheckpointNotFound, "QEffAutoPeftModelForCausalLM.from_pretrained"),
    "adapter_beside": (UnsupportedModel, r"adapter \(adapter_config.json\) beside the model's weights"),
    "old_sentence_transformer": (CheckpointNotFound, "older layout of sentence-transformers"),
    "pipeline": (CheckpointNotFound, "a StableDiffusionPipeline of diffusers"),
    "unet": (CheckpointNotFound, "a UNet2DConditionModel of diffusers"),
    "tensorflow": (CheckpointNotFound, r"TensorFlow \(tf_model.h5\).*from_tf=True"),
    "flax": (CheckpointNotFound, r"Flax \(flax_model.msgpack\).*from_flax=True"),
    "onnx": (CheckpointNotFound, r"an ONNX model \(onnx/model.onnx\)"),
    "openvino": (CheckpointNotFound, r"an OpenVINO model \(openvino_model.xml\)"),
    "package": (CheckpointNotFound, "QEfficient.from_package"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of each layout."""
    root = tmp_path_factory.mktemp("layouts")
    model = tiny_models.causal_lm("llama")
    model.save_pretrained(root / "whole")
    torch.save(model.state_dict(), root / "whole" / "pytorch_model.bin")
    _write(root / "loose", dict.fromkeys(("w.safetensors", "w.pt", "w.bin", "w.onnx"), b""))
    config = (root / "whole" / "config.json").read_bytes()
    adapter = json.dumps({"peft_type": "LORA", "base_model_name_or_path": "base"}).encode()
    unet = json.dumps({"_class_name": "UNet2DConditionModel", "_diffusers_version": "0.30"}).encode()
    files: dict[str, dict[str, bytes]] = {
        "pickled": {"config.json": config, "pytorch_model.bin": b"x"},
        "adapter": {"adapter_config.json": adapter, "adapter_model.safetensors": b"x"},
        "adapter_with_config": {"config.json": config, "adapter_config.json": adapter},
        "old_sentence_transformer": {"modules.json": b"[]", "0_Transformer/config.json": config},
        "pipeline": {"model_index.json": b'{"_class_name": "StableDiffusionPipeline"}', "unet/config.json": unet},
        "unet": {"config.json": unet},
        "tensorflow": {"config.json": config, "tf_model.h5": b"x"},
        "flax": {"config.json": config, "flax_model.msgpack": b"x"},
        "onnx": {"config.json": config, "onnx/model.onnx": b"x"},
        "openvino": {"config.json": config, "openvino_model.xml": b"x", "openvino_model.bin": b"x"},
        "package": {"manifest.json": b"{}"},
    }
    for name, contents in files.items():
        _write(root / name, contents)
    shutil.copytree(root / "whole", root / "adapter_beside")
    _write(root / "adapter_beside", {"adapter_config.json": adapter})
    return root


def _write(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def refusal(cls: Any, path: Path) -> QEffError:
    with pytest.raises(QEffError) as caught:
        cls.from_pretrained(str(path))
    return caught.value


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_class_says_what_takes_it(folder: Path, layout: str) -> None:
    kind, message = LAYOUTS[layout]
    for name in (*CLASSES, "QEFFCommonLoader"):
        error = refusal(getattr(QEfficient, name), folder / layout)
        assert isinstance(error, kind), f"{name}: {error!r}"
        is_usual = name in ("QEFFAutoModelForImageTextToText", "QEFFAutoModelForVision2Seq")  # their adapters are known
        wanted = "has a LoRA adapter" if layout == "adapter_beside" and is_usual else message
        assert re.search(wanted, str(error)), f"{name}: {error}"


@pytest.mark.parametrize("has_peft", [True, False])
def test_an_adapter_beside_the_weights_is_refused_with_peft_and_without(
    folder: Path, has_peft: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_peft:
        monkeypatch.setitem(sys.modules, "peft", None)
    error = refusal(QEfficient.QEFFAutoModelForCausalLM, folder / "adapter_beside")
    assert isinstance(error, UnsupportedModel)
