"""Plans of models over whole sequences: how padding is handled, and which lengths one graph can be for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from QEfficient.contract import MODEL_GRAPH, Json, Plan, Specialization
from QEfficient.errors import SizeDependence
from QEfficient.generation.sessions.encoder import InputContract
from QEfficient.generation.tasks.sequence_model import EncoderRecord
from QEfficient.options import EncoderCompileOptions
from QEfficient.targets import Target

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from QEfficient.transformers.tasks.padding_probe import SequenceUse
    from QEfficient.transformers.tasks.sequence_inputs import SequenceContract, SequenceModel
    from QEfficient.transformers.tasks.signals import SignalContract

_MAX_LEN = 1 << 24
_MIN_LEN, _MIN_LEN_PADDED = 3, 4
"""A model's code may look back by a token or two. A sequence has a token between those at its ends; where there is
padding, none runs at a shorter length than the smallest that was compiled."""


@dataclass(frozen=True, kw_only=True)
class SequencePlan(Plan):
    """What decides the graph of a model over whole sequences."""

    contract: SequenceContract | SignalContract
    min_len: int
    max_len: int | None = None
    """None: any length."""
    seq_len: int | None = None
    """The only length, where the model's code holds for one alone."""
    pooling: str | None = None
    images: tuple[str, ...] = ()
    """What the graphs for images are, as text."""

    def key(self) -> dict[str, Json]:
        return {**super().key(), "contract": self.contract.ingredients()}

    @property
    def graph_lens(self) -> tuple[int, ...]:
        """The shortest and the longest sequence of the graph, or its only length."""
        return (self.seq_len,) if self.seq_len is not None else (self.min_len, self.max_len or _MAX_LEN)

    @property
    def pads(self) -> bool:
        """Whether sequences may be padded."""
        return self.contract.padding.side is not None


@dataclass
class MeasuredInputs:
    """How one model takes sequences; measured once for each way of using it.

    Args:
        prepare: the model ready to be lowered, and its contract.
    """

    prepare: Callable[[PreTrainedModel, SequenceUse], tuple[SequenceModel, SequenceContract]]
    _contracts: dict[tuple[SequenceUse, tuple[int, ...]], SequenceContract] = field(default_factory=dict)
    _modules: dict[SequenceContract, SequenceModel] = field(default_factory=dict)

    def contract(self, model: PreTrainedModel, longest: int, tokenizer: Any | None) -> SequenceContract:
        """How ``model`` takes sequences of up to ``longest`` tokens of a tokenizer; measured anew where its parameters
        are others than before."""
        from QEfficient.transformers.tasks.padding_probe import SequenceUse

        names = getattr(tokenizer, "model_input_names", None)
        use = SequenceUse(longest, None if names is None else "token_type_ids" in names)
        key = (use, tuple(id(parameter) for parameter in model.parameters()))
        if key not in self._contracts:
            module, contract = self.prepare(model, use)
            self._contracts[key] = contract
            self._modules[contract] = module
        return self._contracts[key]

    def module(self, contract: SequenceContract) -> SequenceModel:
        """The model that a contract was measured on."""
        return self._modules[contract]


def plan_sequences(
    model: PreTrainedModel,
    contract: SequenceContract | SignalContract,
    options: EncoderCompileOptions,
    target: Target,
    limit: int | None,
    shortest: int | None = None,
) -> SequencePlan:
    """The plan for all lengths that are asked for, and others up to ``limit``, the maximum by the model's positions.

    Args:
        shortest: length at which the model's code still runs as at any other; None: a few tokens.
    """
    usual = _MIN_LEN if contract.padding.side is None else _MIN_LEN_PADDED
    shortest = min(options.seq_lens[0], shortest or usual)
    return SequencePlan(
        lowering="encoder",
        transforms=target.transforms(options),
        contract=contract,
        min_len=shortest,
        max_len=options.seq_lens[-1] if _depends_on_longest(model) else limit,
    )


def _depends_on_longest(model: PreTrainedModel) -> bool:
    """Whether a graph holds for sequences up to a length: rotary scalings settle, recurrences unroll for it."""
    from QEfficient.transformers.lowering.rope import rope_depends_on_length
    from QEfficient.transformers.tasks.recurrent_sequences import recurrent_specs

    return rope_depends_on_length(model) or recurrent_specs(model) is not None


def narrow(plan: SequencePlan, seq_lens: Sequence[int], error: SizeDependence, model_name: str) -> SequencePlan:
    """A plan for fewer lengths, with all that are asked for, after an export showed that one graph is not for all.

    Raises:
        SizeDependence: there is none.
    """
    least, most = error.ranges.get("seq_len", (0, 0))
    # Without padding sequences come at any length from the plan's shortest on.
    is_enough = most >= seq_lens[-1] and least <= (seq_lens[0] if plan.pads else plan.min_len)
    if plan.seq_len is None and is_enough and plan.max_len != most:
        return plan.replaced(min_len=max(least, plan.min_len), max_len=most)
    if plan.seq_len is None and len(seq_lens) == 1:
        return plan.replaced(seq_len=seq_lens[0])
    if len(seq_lens) < 2:
        raise error
    raise SizeDependence(
        f"{model_name}'s code depends on the length of its input, so that a graph is for one length alone: compile "
        f"with one seq_len instead of several ({', '.join(map(str, seq_lens))}). {error}"
    ) from error


def specializations(name: str, options: EncoderCompileOptions) -> dict[str, tuple[Specialization, ...]]:
    """One shape a length."""
    shapes = ({"batch_size": options.batch_size, "seq_len": length} for length in options.seq_lens)
    return {MODEL_GRAPH: tuple(Specialization(name=name, symbols=symbols) for symbols in shapes)}


def encoder_record(plan: SequencePlan, options: EncoderCompileOptions, config: PretrainedConfig) -> EncoderRecord:
    """What the package says of its inputs."""
    contract: Any = plan.contract
    return EncoderRecord(
        inputs=InputContract(
            seq_lens=options.seq_lens,
            batch_size=options.batch_size,
            min_len=plan.min_len,
            padding_side=contract.padding.side,
            why_not_padded=contract.padding.reason,
            token_type_ids=contract.token_type_ids,
            end_token_id=contract.end_token_id,
            vocab_size=getattr(config.get_text_config(), "vocab_size", None),
            type_vocab_size=getattr(config.get_text_config(), "type_vocab_size", None) or None,
        ),
        min_len=plan.seq_len or 1,
        max_len=plan.seq_len or plan.max_len,
    )
