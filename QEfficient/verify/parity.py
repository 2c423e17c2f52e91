"""Compares a compiled package with its Hugging Face model, greedy token by greedy token."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from QEfficient.errors import NumericError
from QEfficient.exporter.layers import layer_modules
from QEfficient.store.digests import json_safe
from QEfficient.transformers.lowering.rope import forget_lengths
from QEfficient.verify.numeric_report import NumericReport
from QEfficient.verify.reference import in_float32

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from QEfficient.generation.prompts import Prompts
    from QEfficient.generation.tasks.causal_lm import CompiledCausalLM

LAYER_TOLERANCE = 0.01
"""Maximum relative error of a layer's output that still counts as equal."""


@dataclass(frozen=True, kw_only=True)
class PromptParity:
    """Greedy tokens of one prompt, ours against Hugging Face's."""

    prompt_len: int
    num_compared: int
    """Tokens that the reference generated."""
    num_agreed: int
    """Length of the common prefix."""
    smallest_margin: float | None
    """Minimum top-1 margin (best logit minus the next) over the common prefix; None if that is empty."""
    margin_at_divergence: float | None = None
    """The reference's top-1 margin at the first different token. A near tie is weak evidence of a fault."""
    layer_errors: list[float] | None = None
    """Relative error of each layer's output on prompt and common prefix; infinite where it is not finite."""
    first_layer: int | None = None
    """First layer whose error exceeds LAYER_TOLERANCE; None with layer_errors present: only the head differs."""
    feature_errors: dict[str, float] | None = None
    """Relative error of the features of each modality; None for a prompt of text."""
    is_within_noise: bool | None = None
    """Whether the number formats alone explain the different token; None if all agree, or nothing was measured."""

    @property
    def first_encoder(self) -> str | None:
        """The first modality whose features' error exceeds LAYER_TOLERANCE."""
        errors = self.feature_errors or {}
        return next((modality for modality, error in errors.items() if error > LAYER_TOLERANCE), None)

    @property
    def agrees(self) -> bool:
        """Whether all tokens are equal."""
        return self.num_agreed == self.num_compared


@dataclass(frozen=True)
class ParityReport:
    """Parity of a package with Hugging Face in float32, under greedy decoding."""

    prompts: list[PromptParity]
    numerics: NumericReport | None = None
    """Effect of fp16 and the package's formats inside the model; None for a target without the card's numerics."""
    remark: str | None = None
    """What the package computes otherwise than Hugging Face, where that is known of other texts than these."""

    @property
    def agrees(self) -> bool:
        """Whether all tokens of all prompts are equal."""
        return all(prompt.agrees for prompt in self.prompts)

    @property
    def has_fault(self) -> bool:
        """Whether a token differs and the package's number formats do not explain it."""
        return any(not prompt.agrees and not prompt.is_within_noise for prompt in self.prompts)

    def with_numerics(self, numerics: NumericReport) -> ParityReport:
        """This report with ``numerics``, and their verdict on each prompt that diverges."""
        margins = [prompt.margin_at_divergence for prompt in self.prompts]
        prompts = [
            prompt if margin is None else replace(prompt, is_within_noise=numerics.is_noise(margin))
            for prompt, margin in zip(self.prompts, margins, strict=True)
        ]
        return replace(self, prompts=prompts, numerics=numerics)

    def to_dict(self) -> dict[str, Any]:
        """For JSON, which has no infinity and no NaN: those are None."""
        return {
            "agrees": self.agrees,
            "has_fault": self.has_fault,
            "prompts": [json_safe(asdict(prompt), finite=True) for prompt in self.prompts],
            "numerics": self.numerics.to_dict() if self.numerics is not None else None,
            "remark": self.remark,
        }

    def __str__(self) -> str:
        agreed = sum(prompt.num_agreed for prompt in self.prompts)
        compared = sum(prompt.num_compared for prompt in self.prompts)
        verdict = "agrees" if self.agrees else "DIFFERS" if self.has_fault else "agrees within the noise"
        lines = [f"{verdict}: {agreed} of {compared} greedy tokens"]
        for index, prompt in enumerate(self.prompts):
            lines.append(f"  prompt {index} ({prompt.prompt_len} tokens): {_describe(prompt)}")
        lines += [] if self.numerics is None else [str(self.numerics)]
        return "\n".join(lines if self.remark is None else [*lines, f"  remark: {self.remark}"])


def _describe(prompt: PromptParity) -> str:
    if prompt.agrees:
        return f"{prompt.num_agreed} tokens agree, smallest top-1 margin {prompt.smallest_margin:.3g}"
    where = ""
    if prompt.first_encoder is not None and prompt.feature_errors is not None:
        error = prompt.feature_errors[prompt.first_encoder]
        where = f"; the {prompt.first_encoder} encoder differs (relative error {error:.2g})"
    elif prompt.feature_errors:
        where = "; the features of its images agree, the language model differs"
    if prompt.layer_errors is not None:
        layer = prompt.first_layer
        where = "; no layer differs, only the head" if layer is None else f"; first differing layer: {layer}"
        if layer is not None:
            where += f" (relative error {prompt.layer_errors[layer]:.2g})"
    if prompt.is_within_noise is not None:
        where += "; within the noise" if prompt.is_within_noise else "; beyond the noise"
    return (
        f"diverges at token {prompt.num_agreed + 1} of {prompt.num_compared}, where the reference's top-1 margin is "
        f"{prompt.margin_at_divergence:.3g}{where}"
    )


def compare(
    model: PreTrainedModel,
    compiled: CompiledCausalLM,
    prompts: Prompts,
    generation_len: int,
    adapter: str | None = None,
) -> ParityReport:
    """Decode greedily with both and compare.

    Args:
        model: the Hugging Face model; a float32 copy of it is the reference.
        compiled: the package.
        prompts: as in ``generate``.
        generation_len: maximum number of tokens to compare for each prompt.
        adapter: name of the adapter to run the package with, which ``model`` has in its weights.
    """
    reference = in_float32(model)
    prompt_ids = compiled.encode(prompts)
    max_len = compiled.engine.session.info.ctx_len
    report = []
    layer_errors = partial(_layer_errors, reference, compiled, adapter)
    answers = _greedy_tokens(compiled, prompt_ids, generation_len, adapter)
    for ids, output in zip(prompt_ids, answers, strict=True):
        expected, margins = reference_tokens(reference, _text_inputs(ids), min(generation_len, max_len - len(ids)))
        report.append(_compare_one(layer_errors, ids, output, expected, margins))
    return ParityReport(report)


def _greedy_tokens(
    compiled: CompiledCausalLM, prompt_ids: list[list[int]], generation_len: int, adapter: str | None
) -> list[list[int]]:
    """Our answers, up to where logits are no numbers."""
    try:
        result = compiled.generate(prompt_ids, generation_len=generation_len, do_sample=False, adapter=adapter)
    except NumericError as error:
        if len(prompt_ids) == 1:
            return [error.token_ids]
        return [tokens for ids in prompt_ids for tokens in _greedy_tokens(compiled, [ids], generation_len, adapter)]
    return [answer.tolist() for answer in result.generated_ids]


def _compare_one(
    layer_errors: Callable[[list[int]], list[float] | None],
    ids: list[int],
    generated: list[int],
    expected: list[int],
    margins: list[float],
) -> PromptParity:
    agreed = common_prefix(generated, expected)
    common: dict[str, Any] = {"prompt_len": len(ids), "num_compared": len(expected), "num_agreed": agreed}
    smallest = min(margins[:agreed], default=None)
    if agreed == len(expected):
        return PromptParity(**common, smallest_margin=smallest)
    errors = layer_errors(ids + expected[:agreed])
    return PromptParity(
        **common,
        smallest_margin=smallest,
        margin_at_divergence=margins[agreed] if agreed < len(margins) else None,
        layer_errors=errors,
        first_layer=next((i for i, error in enumerate(errors or ()) if error > LAYER_TOLERANCE), None),
    )


def common_prefix(a: list[int], b: list[int]) -> int:
    """Tokens that both begin with."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _text_inputs(ids: list[int]) -> dict[str, torch.Tensor]:
    return {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.int64)}


def reference_tokens(
    model: PreTrainedModel, inputs: Mapping[str, torch.Tensor], generation_len: int
) -> tuple[list[int], list[float]]:
    """Hugging Face's greedy tokens for one prompt, and the top-1 margin of each."""
    forget_lengths(model)
    with torch.no_grad():
        output = model.generate(
            **inputs,
            max_new_tokens=generation_len,
            do_sample=False,
            num_beams=1,
            return_dict_in_generate=True,
            output_scores=True,
            pad_token_id=0,
        )
    top = [torch.topk(scores[0].float(), 2).values for scores in output.scores]
    answer = output.sequences[0, -len(output.scores) :].tolist()
    return answer, [float(pair[0] - pair[1]) for pair in top]


def _layer_errors(
    model: PreTrainedModel, compiled: CompiledCausalLM, adapter: str | None, ids: list[int]
) -> list[float] | None:
    """Relative error of each layer's output on ``ids``; None if the package has no layer marks."""
    ours = compiled.layer_outputs(ids, adapter)
    modules = list(layer_modules(model, compiled.body.graph.num_layers).values())
    if not ours or len(ours) != len(modules):
        return None
    forget_lengths(model)
    with _captured(modules) as theirs, torch.no_grad():
        model(input_ids=torch.tensor([ids]), use_cache=False)
    return [relative_error(a, b) for a, b in zip(ours, theirs, strict=True)]


@contextmanager
def _captured(modules: list[torch.nn.Module]) -> Iterator[list[np.ndarray]]:
    outputs: list[np.ndarray] = []

    def note(module: Any, args: Any, output: Any) -> None:
        states = output[0] if isinstance(output, tuple) else output
        outputs.append(states.detach().float().reshape(-1, states.shape[-1]).numpy())

    hooks = [module.register_forward_hook(note) for module in modules]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def relative_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Norm of the difference over that of the reference; infinite where it is not finite."""
    difference = ours.reshape(theirs.shape).astype(np.float64) - theirs
    error = float(np.linalg.norm(difference) / max(float(np.linalg.norm(theirs)), 1e-30))
    return error if math.isfinite(error) else math.inf
