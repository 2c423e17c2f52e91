"""The graph of an encoder whose sequences have images among their tokens: states, or one pooled vector per sequence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from QEfficient.processing.media import encoder_method
from QEfficient.transformers.lowering.apply import lower
from QEfficient.transformers.lowering.media import MediaTokens, StepMedia
from QEfficient.transformers.tasks.graph_spec import Axes, GraphInput, TaskGraph
from QEfficient.transformers.tasks.media_inputs import media_inputs, placed, token_media
from QEfficient.transformers.tasks.sequence_inputs import Read, SequenceModel
from QEfficient.transformers.tasks.two_towers import has_two_towers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SAMPLE_ROWS, _SAMPLE_LEN = 3, 7
_POSITIONS = "position_ids"


def reads_images(model: PreTrainedModel) -> bool:
    """Whether ``model`` puts features of images among the tokens of a text."""
    return encoder_method(model, "image") is not None and not has_two_towers(model)


class SeeingModel(SequenceModel):
    """``model`` over ``input_ids`` and ``attention_mask`` ``[B, S]``, coordinates ``position_ids [P, B, S]`` where a
    token has several, and features: see :func:`QEfficient.transformers.tasks.media_inputs.media_inputs`.
    """

    def __init__(self, model: nn.Module, read: Read, tokens: MediaTokens, names: Sequence[str]):
        super().__init__(model, read)
        self.tokens, self.names = tokens, names

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        named = dict(zip(self.names, inputs, strict=True))
        ids, mask = named["input_ids"], named["attention_mask"]
        positions = {name: named[name] for name in (_POSITIONS,) if name in named}
        media = token_media(self.tokens, ids, named)
        if is_head(self.model):
            with _embedded(self.model, media, self.tokens.is_placeholder(ids, media.token_types)):
                return self.run_named(ids, mask, {**positions, **media.token_types})
        with placed(self.model, media) as further:
            return self.run_named(ids, mask, {**positions, **further})


def is_head(model: PreTrainedModel) -> bool:
    """Whether ``model`` makes something of the states of the model that reads images."""
    return model.base_model is not model


@contextmanager
def _embedded(model: Any, media: StepMedia, is_placeholder: torch.Tensor) -> Iterator[None]:
    """Put the features of ``media`` into the embeddings: a head may not hand them on to the model under it."""

    def put(module: nn.Module, args: Any, embeddings: torch.Tensor) -> torch.Tensor:
        assert media.rows is not None
        return media.scatter(embeddings, is_placeholder, media.rows)

    handle = model.base_model.get_input_embeddings().register_forward_hook(put)
    try:
        yield
    finally:
        handle.remove()


def seeing_graph(
    module: SequenceModel, tokens: MediaTokens, output_axes: Axes, seq_lens: Sequence[int], output: str = "output"
) -> TaskGraph:
    """The graph of ``module`` with axes ``batch_size``, ``seq_len``, ``vision_batch_size`` and ``vision_size``.

    Args:
        module: the model that reads texts, with its output.
        tokens: what stands for images.
        output_axes: named axes of the output.
        seq_lens: minimum and maximum length of a sequence.
        output: its name.
    """
    lowered = lower(module.model, "retained", seq_lens[-1])
    axes = {0: "batch_size", 1: "seq_len"}
    ids = torch.zeros(_SAMPLE_ROWS, _SAMPLE_LEN, dtype=torch.int64)
    mask = torch.ones_like(ids)
    mask[0, _SAMPLE_LEN - 2 :] = 0
    step = GraphInput("input_ids", ids, axes)
    inputs = [step, GraphInput("attention_mask", mask, axes)]
    if tokens.num_positions:
        coordinates = torch.arange(_SAMPLE_LEN).expand(tokens.num_positions, *ids.shape).clone()
        inputs.append(GraphInput(_POSITIONS, coordinates, {axis + 1: name for axis, name in axes.items()}))
    inputs += media_inputs(tokens, step, with_sets=True, counts_rows=False)
    return TaskGraph(
        module=SeeingModel(lowered.module, module.read, tokens, [each.name for each in inputs]).eval(),
        lowered=lowered,
        lowering="encoder",
        num_layers=getattr(lowered.module.config.get_text_config(), "num_hidden_layers", 0),
        inputs=inputs,
        output_names=[output],
        axis_limits={"seq_len": seq_lens[-1]},
        axis_minimums={"seq_len": seq_lens[0]},
        output_axes={output: output_axes},
    )
