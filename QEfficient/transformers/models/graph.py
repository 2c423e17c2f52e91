"""A model whose graph was exported before: compiled without its checkpoint."""

from __future__ import annotations

import json
from typing import Any

from QEfficient.base.exported_graph import open_exported
from QEfficient.base.modeling_qeff import PathLike, QEFFBaseModel
from QEfficient.errors import OptionError
from QEfficient.store.leftovers import scratch_folder
from QEfficient.tasks import TASKS


def open_graph(onnx_path: PathLike) -> QEFFBaseModel:
    """The model of a graph, without weights and tokenizer, to be compiled.

    Args:
        onnx_path: what ``export`` returned.

    Raises:
        OptionError: it is no graph that ``export`` wrote, or the model's code is not in transformers.
    """
    artifact = open_exported(onnx_path)
    made_of = artifact.manifest.ingredients
    auto_class = TASKS[made_of["task"]].load_auto_class()
    model = auto_class(_outlined(auto_class, made_of["config"], str(onnx_path)))
    if model.model_name != made_of["architecture"]:
        raise OptionError(
            f"{onnx_path} is a graph of {made_of['architecture']}, whose code is not in transformers: compile it with "
            "from_pretrained(..., trust_remote_code=True).compile(onnx_path=...)."
        )
    model.use_graph(artifact)
    return model


def _outlined(auto_class: type[QEFFBaseModel], config: dict[str, Any], name: str) -> Any:
    """The Hugging Face model of a config, its weights on the meta device."""
    from QEfficient.transformers.checkpoint.load import load_config
    from QEfficient.transformers.checkpoint.meta_model import outline

    with scratch_folder() as folder:
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        loaded = load_config(folder)
        loaded.name_or_path = name
        return outline(auto_class.hf_auto_class(), loaded, folder)
