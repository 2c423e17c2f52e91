"""What the auto classes have in common beside their lifecycle."""

from __future__ import annotations

from typing import Any

from QEfficient.base.modeling_qeff import QEFFBaseModel
from QEfficient.errors import OptionError
from QEfficient.options import CompileOptions
from QEfficient.targets import Target


class AutoModel(QEFFBaseModel):
    """A model that one of transformers' auto classes loads."""

    @classmethod
    def _wrap(cls, model: Any, form_factor: str = "cloud") -> QEFFBaseModel:
        from QEfficient.transformers.functional import transform

        return transform(model, form_factor)


def onnx_transforms(options: CompileOptions, target: Target) -> list[str]:
    """Names of the rewrites of the ONNX graph, in order."""
    wanted = ["layer_functions"] if options.use_onnx_subfunctions and target.has_static_shapes else []
    return [*target.graph_transforms, *wanted]


def check_runtime(runtime_ai100: bool) -> None:
    """Refuse upstream's switch to run in PyTorch.

    Raises:
        OptionError: it is off.
    """
    if not runtime_ai100:
        raise OptionError("runtime_ai100=False: to run without a card, compile with target='cpu'.")
