"""What encoders and classifiers have in common: whole texts go in, and nothing is kept from one run to the next."""

from __future__ import annotations

import logging
import os
from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from QEfficient.base.artifacts import Artifact
from QEfficient.compile.job import Specialization
from QEfficient.errors import CapacityError, ExportError
from QEfficient.options import EncoderCompileOptions
from QEfficient.targets import Target
from QEfficient.transformers.models.auto_model import AutoModel, check_runtime, onnx_transforms

if TYPE_CHECKING:
    from QEfficient.transformers.tasks.texts import TextContract, TextModel, TextUse


logger = logging.getLogger(__name__)


class _TextsPlan(dict[str, Any]):
    """What decides the graph; and the lengths that it is for, which do so only where one graph cannot be for all."""

    seq_lens: tuple[int, ...] = ()


class TextsModel(AutoModel):
    """A model over whole texts."""

    options_class: ClassVar[type[EncoderCompileOptions]] = EncoderCompileOptions
    _specialization_name: ClassVar[str]

    def __init__(self, model: Any, *, tokenizer: Any | None = None) -> None:
        super().__init__(model, tokenizer=tokenizer)
        self._prepared: dict[TextUse, tuple[TextModel, TextContract]] = {}

    @abstractmethod
    def _prepare(self, use: TextUse) -> tuple[TextModel, TextContract]:
        """The model ready to be lowered, and how it takes texts."""

    def _texts(self, longest: int) -> tuple[TextModel, TextContract]:
        """Measured once for each greatest length."""
        from QEfficient.transformers.tasks.texts import TextUse

        names = getattr(self.tokenizer, "model_input_names", None)
        use = TextUse(longest, None if names is None else "token_type_ids" in names)
        if use not in self._prepared:
            self._prepared[use] = self._prepare(use)
        return self._prepared[use]

    def _measured(self, plan: dict[str, Any]) -> tuple[TextModel, TextContract]:
        """What was measured for a plan of this model."""
        return next(found for found in self._prepared.values() if found[1].ingredients() == plan["texts"])

    def _graph_lens(self, plan: dict[str, Any]) -> tuple[int, ...]:
        """The shortest and the longest text of a plan's graph, or its only length."""
        if "seq_len" in plan:
            return (plan["seq_len"],)
        # Without padding a text may be of any length, whatever is compiled.
        lengths = plan.seq_lens if isinstance(plan, _TextsPlan) else ()
        is_padded = plan["texts"]["padding"]["side"] is not None
        return (lengths[0] if lengths and is_padded else 1, max(lengths, default=2))

    def _plan(self, options: EncoderCompileOptions, target: Target) -> dict[str, Any]:
        from QEfficient.transformers.transform import max_positions

        limit = max_positions(self.config)
        if limit is not None and options.seq_lens[-1] > limit:
            raise CapacityError(
                f"seq_len={options.seq_lens[-1]} is beyond the {limit} positions that {self.model_name} was made for."
            )
        plan = _TextsPlan(
            lowering="encoder",
            texts=self._texts(options.seq_lens[-1])[1].ingredients(),
            transforms=onnx_transforms(options, target),
        )
        plan.seq_lens = options.seq_lens
        return plan

    def _export(self, plan: dict[str, Any], export_dir: str | os.PathLike[str] | None = None) -> Artifact:
        """One graph for all lengths; where the model's code depends on the length, one of the length that is asked."""
        try:
            return super()._export(plan, export_dir)
        except ExportError as error:
            lengths = plan.seq_lens if isinstance(plan, _TextsPlan) else ()
            if len(lengths) != 1:
                raise ExportError(
                    f"{error} If that is because the model's code depends on the length of a text, compile with one "
                    "seq_len instead of several."
                ) from error
            logger.info("%s is exported for texts of %d tokens: %s", self.model_name, lengths[0], error)
            return super()._export({**plan, "seq_len": lengths[0]}, export_dir)

    def _specializations(
        self, plan: dict[str, Any], options: EncoderCompileOptions, target: Target
    ) -> tuple[Specialization, ...]:
        return tuple(
            Specialization(
                name=self._specialization_name, symbols={"batch_size": options.batch_size, "seq_len": length}
            )
            for length in options.seq_lens
        )

    def _package_body(self, plan: dict[str, Any], options: EncoderCompileOptions, target: Target) -> dict[str, Any]:
        return {
            "task": self.task,
            "target": target.name,
            "architecture": self.model_name,
            "lowering": plan["lowering"],
            "precision": options.precision,
            "num_threads": options.num_threads,
            "compiler_options": dict(options.compiler_options),
            "num_devices": options.num_devices if target.has_static_shapes else 1,
            "seq_lens": list(options.seq_lens),
            "batch_size": options.batch_size,
            "texts": plan["texts"],
        }

    def generate(
        self,
        inputs: Any,
        device_ids: Sequence[int] | None = None,
        runtime_ai100: bool = True,
        *,
        tokenizer: Any | None = None,
    ) -> dict[str, Any]:
        """Run texts through the compiled package.

        Args:
            inputs: text, a list of texts or of pairs of texts, lists of token ids, or a tokenizer's output.
            device_ids: the cards to run on; others than last time open the package again. No effect on ``cpu``.
            runtime_ai100: upstream's switch; the package knows where it runs, so only True is accepted.
            tokenizer: default: the checkpoint's.

        Returns:
            A dict with the task's one output.

        Raises:
            LifecycleError: nothing was compiled yet.
            CapacityError: a text is empty or longer than the greatest compiled ``seq_len``.
        """
        check_runtime(runtime_ai100)
        outputs: dict[str, Any] = self._open(device_ids).generate(inputs, tokenizer=tokenizer)
        return outputs
