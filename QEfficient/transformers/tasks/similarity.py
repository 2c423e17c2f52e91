"""How a model with two towers makes scores of the cosines of its vectors, measured on its forward.

The towers do not run: random vectors take the place of what they give, so that only the code after them is at work,
with the checkpoint's scale, temperature or bias.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._pytree import tree_map

from QEfficient.transformers.lowering.apply import lower
from QEfficient.transformers.lowering.representative_layers import FAILURES
from QEfficient.transformers.tasks.sequence_inputs import ordinary_tokens

_NUM_TEXTS, _NUM_TOKENS, _SEED = 7, 5, 0
_TOLERANCE = 1e-4
"""In parts of the greatest score."""


def measure_similarity(
    model: nn.Module, images: Mapping[str, Any], value: Callable[[nn.Parameter], torch.Tensor]
) -> tuple[float, float] | None:
    """The scale and the bias of ``logits_per_image = scale * cosines + bias``; None where the scores are others.

    Args:
        model: a Hugging Face model with two towers; not changed.
        images: a processor's output for several.
        value: reads a parameter, for the few that belong to no tower.
    """
    lowered = lower(model, "retained")
    module: Any = lowered.module
    for name, parameter in list(module.named_parameters(recurse=False)):
        original = lowered.original(parameter)
        assert original is not None
        setattr(module, name, nn.Parameter(value(original), requires_grad=False))
    tokens = torch.tensor(ordinary_tokens(module.config))[: _NUM_TEXTS * _NUM_TOKENS]
    ids = tokens.repeat(_NUM_TEXTS * _NUM_TOKENS)[: _NUM_TEXTS * _NUM_TOKENS].reshape(_NUM_TEXTS, _NUM_TOKENS)
    try:
        with torch.no_grad(), _random_outputs(module):
            output = module(input_ids=ids, attention_mask=torch.ones_like(ids), **images)
        vectors = [nn.functional.normalize(each.double(), dim=-1) for each in (output.image_embeds, output.text_embeds)]
        cosines, scores = (vectors[0] @ vectors[1].T).flatten(), output.logits_per_image.double().flatten()
        points = torch.stack([cosines, torch.ones_like(cosines)], 1)
        line = torch.linalg.lstsq(points, scores[:, None]).solution[:, 0]
    except FAILURES:
        return None
    if not (points @ line - scores).abs().max() <= _TOLERANCE * scores.abs().max():
        return None
    scale, bias = line.tolist()
    return scale, bias


@contextmanager
def _random_outputs(model: nn.Module) -> Iterator[None]:
    """Let each module that ``model`` calls give random numbers instead of what it computes with fake weights."""
    generator = torch.Generator().manual_seed(_SEED)
    depth: list[nn.Module] = []

    def drawn(leaf: Any) -> Any:
        is_fake = isinstance(leaf, FakeTensor) and leaf.is_floating_point()
        return torch.randn(leaf.shape, generator=generator) if is_fake else leaf

    def begin(module: nn.Module, args: Any) -> None:
        depth.append(module)

    def end(module: nn.Module, args: Any, output: Any) -> Any:
        depth.pop()
        return output if depth else tree_map(drawn, output)

    hooks = []
    for module in model.modules():
        if module is not model:
            hooks += [module.register_forward_pre_hook(begin), module.register_forward_hook(end)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
