"""Paths of other things that people pass as a model: what they are, and what takes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from QEfficient.errors import CheckpointNotFound, QEffError, UnsafeCheckpoint, UnsupportedModel

ADAPTER_CONFIG = "adapter_config.json"
_ADAPTER_WEIGHTS = "adapter_model.safetensors"
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_EXPORTED = {
    ".onnx": "an ONNX model",
    ".xml": "an OpenVINO model",
    ".tflite": "a TensorFlow Lite model",
    ".mlpackage": "a Core ML model",
}
_OF_TRANSFORMERS_4 = {
    "tf_model.h5": ("TensorFlow", "from_tf"),
    "tf_model.h5.index.json": ("TensorFlow", "from_tf"),
    "flax_model.msgpack": ("Flax", "from_flax"),
    "flax_model.msgpack.index.json": ("Flax", "from_flax"),
}
_FROM_THE_CHECKPOINT = (
    "Give the checkpoint that it was made from, the folder that save_pretrained() made or its model id on the Hub; "
    "`qefficient export` makes ONNX of it, and `qefficient compile` a package."
)
_DIFFUSERS = "Pipelines and models of diffusers are not run here; this library runs models of transformers."


def of_file(path: Path) -> QEffError:
    """Why a file that is no GGUF file is no model."""
    suffix = path.suffix.lower()
    if suffix in _EXPORTED:
        return CheckpointNotFound(f"'{path}' is {_EXPORTED[suffix]}. {_FROM_THE_CHECKPOINT}")
    is_pickled = suffix in _PICKLED
    if suffix != ".safetensors" and not is_pickled:
        return CheckpointNotFound(f"'{path}' is a file: give a checkpoint's folder, or a file that ends in .gguf.")
    has_others = any(path.parent.glob("*.safetensors"))
    if (path.parent / "config.json").is_file() and (has_others or not is_pickled):
        return CheckpointNotFound(f"'{path}' is a file of a checkpoint: give its folder, {path.parent}.")
    if is_pickled:
        return UnsafeCheckpoint(
            f"'{path}' is pickled; unpickling runs code, so it is never loaded. Load it once in a place you trust, and "
            "give the folder that save_pretrained() makes."
        )
    return CheckpointNotFound(
        f"'{path}' has weights, and no config.json is beside it: give the folder that save_pretrained() made."
    )


def without_config(folder: Path) -> str:
    """What to give instead of a folder that has no ``config.json``."""
    if (folder / ADAPTER_CONFIG).is_file():
        return (
            "It is a PEFT adapter. Load that of a causal LM with QEffAutoPeftModelForCausalLM.from_pretrained(), or "
            "its base model with QEffAutoLoraModelForCausalLM.from_pretrained() and the adapter with load_adapter(); "
            "on the command line, give the base model and --adapter NAME=FOLDER. Merge another with PEFT's "
            "merge_and_unload(), and save the model with its tokenizer."
        )
    if (folder / "manifest.json").is_file():
        return (
            "It is what compile() or export() made: QEfficient.from_package() opens a package, and `qefficient "
            "execute` runs it."
        )
    if (folder / "model_index.json").is_file():
        kind = _entries(folder / "model_index.json").get("_class_name", "pipeline")
        return f"It is a {kind} of diffusers. {_DIFFUSERS}"
    if (inner := _old_sentence_transformer(folder)) is not None:
        return (
            f"It is in an older layout of sentence-transformers, whose model is in {inner.name}. Save it again with "
            "SentenceTransformer(folder).save_pretrained(), and QEFFAutoModel reads it with its pooling and prompts; "
            f"or give {inner}, and the pooling as pooling."
        )
    inside = sorted(path.parent for path in folder.glob("*/config.json"))
    if inside:
        return f"Its folder {inside[0].name} has one: give {inside[0]}."
    if (exported := _exported(folder)) is not None:
        return f"There is {exported} instead. {_FROM_THE_CHECKPOINT}"
    return (
        "Give the folder that save_pretrained() made, or a model id on the Hub; of a repository with GGUF files, the "
        "name of one as gguf_file."
    )


def without_weights(folder: Path) -> str | None:
    """What a folder with a config has instead of safetensors or pickled weights; None where that is not known."""
    if "_diffusers_version" in (config := _entries(folder / "config.json")):
        return f"It is a {config.get('_class_name', 'model')} of diffusers. {_DIFFUSERS}"
    if (folder / ADAPTER_CONFIG).is_file():
        return f"It has {ADAPTER_CONFIG}. {without_config(folder)}"
    if (exported := _exported(folder)) is not None:
        return f"There is {exported} instead. {_FROM_THE_CHECKPOINT}"
    for name, (framework, argument) in _OF_TRANSFORMERS_4.items():
        if (folder / name).is_file():
            return (
                f"Its weights are those of {framework} ({name}), which transformers 5 does not read: load it once with "
                f"transformers 4 and {argument}=True, and give the folder that save_pretrained() makes."
            )
    return None


def has_adapter_beside(folder: Path) -> bool:
    """Whether a folder has an adapter beside the model's weights."""
    has_weights = any(path.name != _ADAPTER_WEIGHTS for path in folder.glob("*.safetensors"))
    return has_weights and (folder / ADAPTER_CONFIG).is_file()


def check_no_adapter_beside(folder: Path) -> None:
    """
    Raises:
        UnsupportedModel: a folder has an adapter beside the model's weights. transformers applies it where PEFT is
            installed, and not elsewhere.
    """
    if has_adapter_beside(folder):
        raise UnsupportedModel(
            f"{folder} has an adapter ({ADAPTER_CONFIG}) beside the model's weights, which transformers applies where "
            "PEFT is installed. Give a folder of the model alone, and the adapter's folder to load_adapter() of "
            "QEffAutoLoraModelForCausalLM (--adapter NAME=FOLDER on the command line); or merge them: save what "
            "PeftModel.from_pretrained(model, folder).merge_and_unload() returns."
        )


def _exported(folder: Path) -> str | None:
    """The model of another program in a folder or in its folder ``onnx``."""
    for suffix, what in _EXPORTED.items():
        files = sorted([*folder.glob(f"*{suffix}"), *folder.glob(f"onnx/*{suffix}")])
        if files:
            return f"{what} ({files[0].relative_to(folder)})"
    return None


def _old_sentence_transformer(folder: Path) -> Path | None:
    """The folder of the model in a layout that has one for each module."""
    if not (folder / "modules.json").is_file():
        return None
    return next((path.parent for path in sorted(folder.glob("0_*/config.json"))), None)


def _entries(path: Path) -> dict[str, Any]:
    """Of a JSON file; none where it is damaged, which others say."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return entries if isinstance(entries, dict) else {}
