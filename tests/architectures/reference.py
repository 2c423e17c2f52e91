"""Hugging Face's own answers: what our compiled models are compared with."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

PROMPT_LENS = (5, 37, 70)
"""Shorter and longer than the tiny models' windows and chunks (16)."""
NUM_NEW_TOKENS = 32


@dataclass(frozen=True)
class Answer:
    """Greedy tokens of one prompt, with the logits ``[tokens, vocab]`` that they were taken from.

    ``margin`` is the smallest distance between the two greatest logits of a step."""

    tokens: list[int]
    margin: float
    logits: torch.Tensor


def prompts(config: Any) -> list[list[int]]:
    """Three prompts of ordinary tokens: none of the special ones below 3 or at the vocabulary's end. For an encoder and
    decoder they end with the end token, which is where its classifiers read."""
    generator = torch.Generator().manual_seed(1)
    highest = min(getattr(config.get_text_config(), "vocab_size", None) or 320, 300)
    asked = [torch.randint(3, highest, (length,), generator=generator).tolist() for length in PROMPT_LENS]
    end = getattr(config, "eos_token_id", None)
    if getattr(config, "is_encoder_decoder", False) and isinstance(end, int):
        return [[*ids[:-1], end] for ids in asked]
    return asked


def reference(model: Any, asked: list[list[int]], num_new_tokens: int = NUM_NEW_TOKENS) -> list[Answer]:
    """Greedy answers of a causal or a sequence-to-sequence model, one prompt at a time."""
    answers = []
    for ids in asked:
        output = model.generate(
            **_inputs(ids),
            max_new_tokens=num_new_tokens,
            do_sample=False,
            num_beams=1,
            output_logits=True,
            return_dict_in_generate=True,
        )
        logits = torch.stack([step[0].float() for step in output.logits])
        top = logits.topk(2).values
        tokens = output.sequences[0, -num_new_tokens:].tolist()
        answers.append(Answer(tokens, float((top[:, 0] - top[:, 1]).min()), logits))
    return answers


def spoken(model: Any, signal: Any, num_new_tokens: int) -> Answer:
    """The greedy answer of a model that listens, by the plain algorithm, which some of them refine."""
    from transformers import GenerationMixin, Wav2Vec2FeatureExtractor

    inputs = {"inputs": torch.tensor(signal)[None]}
    if model.config.model_type == "moonshine_streaming":
        extractor = Wav2Vec2FeatureExtractor(return_attention_mask=True, do_normalize=False)
        padded = extractor(signal, sampling_rate=16000, return_tensors="pt", padding=True, pad_to_multiple_of=80)
        inputs = {"inputs": padded["input_values"], "attention_mask": padded["attention_mask"]}
    generate = partial(GenerationMixin.generate, model)
    if model.config.model_type == "pop2piano":  # puts the composer before the features
        inputs, generate = {"input_features": inputs["inputs"]}, model.generate
    output = generate(
        **inputs,
        max_new_tokens=num_new_tokens,
        do_sample=False,
        num_beams=1,
        output_logits=True,
        return_dict_in_generate=True,
    )
    logits = torch.stack([step[0].float() for step in output.logits])
    top = logits.topk(2).values
    return Answer(output.sequences[0, -num_new_tokens:].tolist(), float((top[:, 0] - top[:, 1]).min()), logits)


def outputs(model: Any, asked: list[list[int]]) -> list[torch.Tensor]:
    """What an encoder or a classifier gives for each prompt alone: logits ``[1, labels]``, or the last hidden state
    ``[1, tokens, width]``."""
    with torch.no_grad():
        answers = [model(**_inputs(ids)) for ids in asked]
    return [answer["logits"] if "logits" in answer else answer["last_hidden_state"] for answer in answers]


def uncached(model: Any, asked: list[int], answer: list[int]) -> torch.Tensor:
    """A causal model's logits ``[tokens, vocab]`` at every position of ``answer``, from one forward without a cache."""
    accepted = inspect.signature(model.forward).parameters
    options = {"use_cache": False} if "use_cache" in accepted or "kwargs" in accepted else {}
    with torch.no_grad():
        logits: torch.Tensor = model(**_inputs(asked + answer[:-1]), **options).logits
    return logits[0, len(asked) - 1 :].float()


def _inputs(ids: list[int]) -> dict[str, torch.Tensor]:
    return {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.int64)}
