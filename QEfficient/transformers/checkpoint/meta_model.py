"""A model as its config describes it: modules and shapes, without a byte of its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from transformers.initialization import no_init_weights

from QEfficient.transformers.checkpoint.build_limits import BuildLimits
from QEfficient.transformers.checkpoint.loader_errors import label_of, loader_errors

_NO_CONTENT = frozenset({torch.empty, torch.rand, torch.randn, torch.empty_strided})
"""What makes tensors whose values nobody has said yet."""


class _OnMeta(TorchFunctionMode):
    """Tensors without content have no bytes; others, such as rotary frequencies, are worked out as always."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in _NO_CONTENT and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def outline(auto_class: Any, config: Any, folder: Path, trust_remote_code: bool = False) -> Any:
    """The Hugging Face model of ``config``, its weights on the meta device.

    Raises:
        UnsupportedModel: transformers knows no model of this kind for the config.
        CorruptCheckpoint: a value of the config makes no model, or one that is too large.
    """
    with loader_errors(folder, f"the {label_of(auto_class)}", unknown=(ValueError, KeyError)):
        with BuildLimits(folder), _OnMeta(), no_init_weights():
            model = auto_class.from_config(config, trust_remote_code=trust_remote_code)
        model.tie_weights()
    return model.eval()
