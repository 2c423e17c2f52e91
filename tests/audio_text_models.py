"""Tiny random checkpoints of the models that put an audio tower before a language model, with their real processors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from architectures.sizes import OVERRIDES
from architectures.sounds import tone
from architectures.tiny import merged, shrunk
from audio_text import mistral
from audio_text.recipe import Recipe
from audio_text.recipes import RECIPES
from audio_text.torchaudio import extractor_class
from image_text import weights
from image_text.tokenizers import tiny_tokenizer
from image_text_models import set_ids

MODEL_TYPES = tuple(RECIPES)
TEXT = "what is it"

__all__ = ["MODEL_TYPES", "RECIPES", "clips", "inputs", "make", "model", "processor", "reference"]


def make(model_type: str, folder: Path, seed: int = 0) -> Path:
    """Write a checkpoint of random weights, without its processor; equal seeds give equal weights.

    Its generation config has no end token, and no token is forbidden.
    """
    import torch
    from transformers import AutoModelForMultimodalLM, GenerationConfig

    config = tiny_config(model_type)
    torch.manual_seed(seed)
    made = AutoModelForMultimodalLM.from_config(config, dtype=torch.float32).eval()
    weights.draw(made, weights.SPREAD.get(model_type, {}), seed)
    for name, buffer in made.named_buffers():
        if name.endswith("codebook.embed_sum"):
            torch.nn.init.normal_(buffer)
    first = config.bos_token_id if model_type == "kyutai_speech_to_text" else 1
    made.generation_config = GenerationConfig(pad_token_id=0, bos_token_id=first)
    made.save_pretrained(folder)
    return folder


def tiny_config(model_type: str) -> Any:
    """A small config whose special tokens and vocabulary are those of the tokenizer."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    recipe, config_class = RECIPES[model_type], CONFIG_MAPPING[model_type]
    usual = merged(shrunk(config_class()), OVERRIDES.get(model_type, {}))
    config = config_class(**merged(usual, dict(recipe.config)))
    set_ids(config, recipe.ids, _tokenizer(recipe))
    return config


def _tokenizer(recipe: Recipe) -> Any:
    ids = [token for token in recipe.ids.values() if isinstance(token, str)]
    if not recipe.takes_audio:
        return mistral.tokenizer(recipe.audio)
    return tiny_tokenizer(recipe.names, [*dict.fromkeys([*ids, *recipe.others])])


def processor(model_type: str) -> Any:
    """The family's processor over a tiny tokenizer."""
    import transformers
    from transformers.models.auto.feature_extraction_auto import FEATURE_EXTRACTOR_MAPPING_NAMES
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    recipe = RECIPES[model_type]
    extractor = extractor_class(model_type, FEATURE_EXTRACTOR_MAPPING_NAMES[model_type])(**recipe.extractor)
    if model_type == "voxtral_realtime":
        return mistral.realtime_processor(mistral.streaming_tokenizer(recipe.audio, extractor), extractor)
    parts = {recipe.extractor_name: extractor, "tokenizer": _tokenizer(recipe)}
    made = getattr(transformers, PROCESSOR_MAPPING_NAMES[model_type])(**parts, **recipe.processor)
    if recipe.takes_audio:
        made.chat_template = _chat_template(recipe.audio)
    return made


def _chat_template(audio: str) -> str:
    return (
        "{{ bos_token }}{% for message in messages %}{{ message['role'] }}: {% for part in message['content'] %}"
        f"{{% if part['type'] == 'audio' %}}{audio}{{% else %}}{{{{ part['text'] }}}}{{% endif %}}"
        "{% endfor %}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    )


def clips(model_type: str, *seconds: float) -> list[np.ndarray]:
    """A tone of each length, at the model's rate."""
    rate = RECIPES[model_type].extractor.get("sampling_rate", 24000 if model_type == "vibevoice_asr" else 16000)
    return [tone(int(each * rate), 110.0 * (place + 2)) for place, each in enumerate(seconds)]


def inputs(made: Any, recipe: Recipe, text: str, audio: Sequence[np.ndarray] = ()) -> dict[str, Any]:
    """What a processor makes of a prompt: ``audio``, then ``text``."""
    if not recipe.takes_audio:
        content = [*mistral.contents(audio), {"type": "text", "text": text}]
        return dict(made.apply_chat_template([{"role": "user", "content": content}]))
    options: dict[str, Any] = {"audio": list(audio)} if audio else {"audio": None}
    if not recipe.reads_text:
        return dict(made(return_tensors="pt", **options))
    return dict(made(text=[recipe.audio * len(audio) + text], return_tensors="pt", **options))


def model(folder: Path) -> Any:
    """The checkpoint's model in float32."""
    import torch
    from transformers import AutoModelForMultimodalLM

    return AutoModelForMultimodalLM.from_pretrained(folder, dtype=torch.float32).eval()


def reference(theirs: Any, inputs: Mapping[str, Any], num_tokens: int) -> tuple[list[int], float]:
    """Hugging Face's greedy answer of ``num_tokens`` tokens, and the smallest margin between two best logits."""
    import torch

    with torch.no_grad():
        answer = theirs.generate(
            **inputs,
            do_sample=False,
            min_new_tokens=num_tokens,
            max_new_tokens=num_tokens,
            output_logits=True,
            return_dict_in_generate=True,
        )
    best = torch.stack([logits[0].topk(2).values for logits in answer.logits])
    return answer.sequences[0, -num_tokens:].tolist(), float((best[:, 0] - best[:, 1]).min())
