"""What encoders and classifiers have in common: whole texts go in, and nothing is kept from one run to the next."""

from __future__ import annotations

import logging
import os
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar

from QEfficient.contract import Specialization
from QEfficient.errors import CapacityError, SizeDependence
from QEfficient.options import EncoderCompileOptions
from QEfficient.store.artifacts import Artifact
from QEfficient.targets import Target
from QEfficient.transformers.models.auto_model import AutoModel, check_runtime, onnx_transforms

if TYPE_CHECKING:
    from QEfficient.transformers.tasks.sequence_inputs import TextContract, TextModel, TextUse


logger = logging.getLogger(__name__)

LONGEST_TEXT = 1 << 24
_SHORTEST, _SHORTEST_PADDED = 3, 4
"""A model's code may look back by a token or two. A text has a token between those at its ends; where there is padding,
none runs at a shorter length than the smallest that was compiled."""


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
        from QEfficient.transformers.tasks.sequence_inputs import TextUse

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
        return (plan["seq_len"],) if "seq_len" in plan else (plan["shortest"], plan.get("longest", LONGEST_TEXT))

    def _plan(self, options: EncoderCompileOptions, target: Target) -> dict[str, Any]:
        from QEfficient.transformers.lowering.apply import max_positions

        limit = max_positions(self.config)
        if limit is not None and options.seq_lens[-1] > limit:
            raise CapacityError(
                f"seq_len={options.seq_lens[-1]} is beyond the {limit} positions that {self.model_name} was made for."
            )
        contract = self._texts(options.seq_lens[-1])[1]
        shortest = min(options.seq_lens[0], _SHORTEST if contract.padding.side is None else _SHORTEST_PADDED)
        plan = _TextsPlan(
            lowering="encoder",
            texts=contract.ingredients(),
            shortest=shortest,
            transforms=onnx_transforms(options, target),
        )
        if self._depends_on_longest():
            plan["longest"] = options.seq_lens[-1]
        plan.seq_lens = options.seq_lens
        return plan

    def _depends_on_longest(self) -> bool:
        """Whether a graph holds for texts up to a length alone: rotary scalings settle, recurrences unroll for it."""
        from QEfficient.transformers.lowering.apply import rope_depends_on_length
        from QEfficient.transformers.tasks.recurrent_sequences import recurrent_specs

        model = self._loaded()
        return rope_depends_on_length(model) or recurrent_specs(model) is not None

    def _export(self, plan: dict[str, Any], export_dir: str | os.PathLike[str] | None = None) -> Artifact:
        """One graph for all lengths; where the model's code depends on the length, one for those that it can be for, or
        of the only length that is asked."""
        try:
            return super()._export(plan, export_dir)
        except SizeDependence as error:
            lengths = plan.seq_lens if isinstance(plan, _TextsPlan) else ()
            narrowed = self._narrowed(plan, lengths, error)
            if narrowed is None and len(lengths) < 2:
                raise
            if narrowed is None:
                raise SizeDependence(
                    f"{self.model_name}'s code depends on the length of a text, so that a graph is for one length "
                    f"alone: compile with one seq_len instead of several ({', '.join(map(str, lengths))}). {error}"
                ) from error
            logger.info("%s is exported for texts of %s tokens: %s", self.model_name, narrowed.seq_lens, error)
            return self._export(narrowed, export_dir)

    def _narrowed(self, plan: dict[str, Any], lengths: tuple[int, ...], error: SizeDependence) -> _TextsPlan | None:
        """A plan for fewer lengths, with all that are asked for; None: there is none, or it was tried."""
        if not lengths or "seq_len" in plan:
            return None
        least, most = error.ranges.get("seq_len", (0, 0))
        # Without padding texts come at any length from the plan's shortest on.
        is_enough = most >= lengths[-1] and least <= (lengths[0] if self._pads(plan) else plan["shortest"])
        if is_enough and plan.get("longest") != most:
            narrowed = _TextsPlan(plan, shortest=max(least, plan["shortest"]), longest=most)
            narrowed.seq_lens = lengths
        elif len(lengths) == 1:
            narrowed = _TextsPlan(plan, seq_len=lengths[0])
            narrowed.seq_lens = lengths
        else:
            return None
        return narrowed

    @staticmethod
    def _pads(plan: dict[str, Any]) -> bool:
        return plan["texts"]["padding"]["side"] is not None

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
            **self._common_body(plan, options, target),
            "seq_lens": list(options.seq_lens),
            "batch_size": options.batch_size,
            "shortest": plan["shortest"],
            "texts": asdict(self._texts(options.seq_lens[-1])[1]),
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
