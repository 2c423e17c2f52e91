"""What the auto classes have in common beside their lifecycle."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any, ClassVar

from QEfficient.base.modeling_qeff import QEFFBaseModel
from QEfficient.errors import OptionError
from QEfficient.generation.sampling import entries_without_effect
from QEfficient.options import CompileOptions
from QEfficient.targets import Target

logger = logging.getLogger(__name__)


class AutoModel(QEFFBaseModel):
    """A model that one of transformers' auto classes loads."""

    @classmethod
    def _wrap(cls, model: Any, form_factor: str = "cloud") -> QEFFBaseModel:
        from QEfficient.transformers.functional import transform

        return transform(model, form_factor)

    def _common_body(self, plan: dict[str, Any], options: Any, target: Target) -> dict[str, Any]:
        """What the packages of all tasks say."""
        return {
            "task": self.task,
            "target": target.name,
            "architecture": self.model_name,
            "lowering": plan["lowering"],
            "precision": options.precision,
            "num_threads": options.num_threads,
            "compiler_options": dict(options.compiler_options),
            "num_devices": options.num_devices if target.has_static_shapes else 1,
        }


class GeneratingModel(AutoModel):
    """A model that answers with tokens, as its generation config says."""

    _followed: ClassVar[tuple[str, ...]] = ()
    """How entries of the config begin that this task follows beside those that all do."""

    def compile(self, compile_dir: str | os.PathLike[str] | None = None, **options: Any) -> Path:
        path = super().compile(compile_dir, **options)
        entries = entries_without_effect(self.model.generation_config.to_dict())
        if ignored := [entry for entry in entries if not entry.startswith(self._followed)]:
            logger.warning(
                "The checkpoint's generation config asks for %s, which generate() does not follow.", ", ".join(ignored)
            )
        return path

    compile.__doc__ = QEFFBaseModel.compile.__doc__

    def _write_side_files(self, folder: Path) -> None:
        super()._write_side_files(folder)
        self.model.generation_config.save_pretrained(folder)


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
