"""One architecture on one target, compared with Hugging Face: what a row of the coverage table is made of."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import audio_text_models
import image_text_models
import numpy as np
import torch
from architectures.reference import NUM_NEW_TOKENS, PROMPT_LENS, Answer, outputs, prompts, reference, spoken
from architectures.sounds import features, tone, tones
from architectures.tiny import EAGER, OTHER_HEAD, UNCACHED, loaded_from, saved_by_other_head, tiny_model
from image_text.pictures import images
from image_text.processors import load as load_processor

from QEfficient.errors import SizeDependence

CHUNK_LEN, CTX_LEN, NUM_SLOTS = 24, 128, 2
"""Prompts of 5, 37 and 70 tokens are cut into chunks, and there are more of them than slots."""
TOLERANCE = 1e-3
"""Of outputs that are no tokens: the greatest difference, in parts of the greatest value."""

Row = dict[str, Any]


def check(family: str, model_type: str, target: str) -> Row:
    """Compile a tiny random model in float32 for ``target`` and compare it with Hugging Face.

    Returns:
        class, states, lowering, seconds of the export and in all, what was compared; ``agrees``.
    """
    began = time.perf_counter()
    is_tower = family == "speech_seq2seq" and model_type in audio_text_models.RECIPES
    row: Row = {} if is_tower else {"class": type(_model(family, model_type)).__name__}
    if family.endswith(OTHER_HEAD):
        row["saved_by"] = _checkpoint(family, model_type)[1]
    row |= _CHECKS.get(family.removesuffix(OTHER_HEAD), _texts)(family, model_type, target)
    return row | {"seconds": round(time.perf_counter() - began, 1)}


@cache
def _model(family: str, model_type: str) -> Any:
    """Hugging Face's."""
    if family == "image_text":
        return image_text_models.model(_seeing(model_type))
    if family.endswith(OTHER_HEAD):
        return loaded_from(family, model_type, _checkpoint(family, model_type)[0])
    return tiny_model(family, model_type)


@cache
def _checkpoint(family: str, model_type: str) -> tuple[Path, str]:
    """A folder for this process, and the class that saved it."""
    folder = Path(mkdtemp(prefix="checkpoint-", dir=Path(os.environ["QEFF_HOME"]).parent))
    return folder, saved_by_other_head(family, model_type, folder)


@cache
def _hearing(model_type: str) -> Path:
    """A checkpoint with an audio tower, in a folder for this process."""
    folder = Path(mkdtemp(prefix="checkpoint-", dir=Path(os.environ["QEFF_HOME"]).parent))
    return audio_text_models.make(model_type, folder)


@cache
def _seeing(model_type: str) -> Path:
    """A checkpoint with its processor, in a folder for this process."""
    folder = Path(mkdtemp(prefix="checkpoint-", dir=Path(os.environ["QEFF_HOME"]).parent))
    return image_text_models.make(model_type, folder)


def _ours(family: str, model_type: str) -> Any:
    import QEfficient

    auto_class = getattr(QEfficient, _CLASSES[family.removesuffix(OTHER_HEAD)])
    if family.endswith(OTHER_HEAD):
        return auto_class.from_pretrained(_checkpoint(family, model_type)[0])
    return auto_class(_model(family, model_type))


@cache
def _answers(family: str, model_type: str) -> list[Answer]:
    model = _model(family, model_type)
    return reference(model, prompts(model.config))


def _causal_lm(family: str, model_type: str, target: str) -> Row:
    from QEfficient.transformers.lowering.infer_cache_spec import state_specs

    model = _ours(family, model_type)
    options = _options(target, prefill_seq_len=CHUNK_LEN, ctx_len=CTX_LEN, full_batch_size=NUM_SLOTS)
    kinds = Counter(spec.kind for spec in state_specs(_model(family, model_type)))
    states = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    return {"states": states} | _generated(family, model_type, model, options)


def _seq2seq(family: str, model_type: str, target: str) -> Row:
    model = _ours(family, model_type)
    options = _options(target, encoder_ctx_len=96, ctx_len=64, batch_size=NUM_SLOTS)
    return _generated(family, model_type, model, options)


def _generated(family: str, model_type: str, model: Any, options: dict[str, Any]) -> Row:
    """Greedy tokens of all prompts together."""
    asked = prompts(model.config)
    expected = _answers(family, model_type)
    row = _compiled(model, options)
    with model:
        answered = [ids.tolist() for ids in model.generate(asked, generation_len=NUM_NEW_TOKENS).generated_ids]
    equal = [tokens == answer.tokens[-len(tokens) :] for tokens, answer in zip(answered, expected, strict=True)]
    return row | {
        "tokens": sum(map(len, answered)),
        "margin": float(f"{min(answer.margin for answer in expected):.1e}"),
        "agrees": all(equal) and all(len(tokens) == NUM_NEW_TOKENS for tokens in answered),
        "note": _note(family, model_type),
    }


def _note(family: str, model_type: str) -> str:
    if family == f"text_encoder{OTHER_HEAD}" and model_type in EAGER:
        return f"against Hugging Face's eager attention: {EAGER[model_type]}"
    if not family.startswith("causal_lm") or model_type not in UNCACHED:
        return ""
    return f"against Hugging Face without its cache: {UNCACHED[model_type]}"


def _texts(family: str, model_type: str, target: str) -> Row:
    """Outputs of all prompts in one batch of mixed lengths."""
    model = _ours(family, model_type)
    asked = prompts(model.config)
    options = _options(target, batch_size=NUM_SLOTS)
    try:
        row, results = _encoded(model, asked, options | {"seq_len": [*PROMPT_LENS]})
    except SizeDependence:
        made = [_encoded(model, [text], options | {"seq_len": len(text)}) for text in asked]
        row, results = made[-1][0] | {"note": "a package for each length"}, [one for _, (one,) in made]
    expected = [output[0].float().numpy() for output in _outputs(family, model_type)]
    distances = [
        float(np.abs(ours[: len(theirs)] - theirs).max() / np.abs(theirs).max())
        for ours, theirs in zip(results, expected, strict=True)
    ]
    return (
        {"note": _note(family, model_type)}
        | row
        | {"distance": float(f"{max(distances):.1e}"), "agrees": max(distances) <= TOLERANCE}
    )


_SIDE, _OTHER_SIZES, _SHORT_ANSWER = (56, 56), ((112, 56), (40, 120)), 8
"""Width and height of images in pixels, and new tokens of a prompt that has some."""


def _image_text(family: str, model_type: str, target: str) -> Row:
    """Greedy tokens of prompts with images of several sizes, and without; on the card, of the compiled size."""
    from QEfficient import QEFFAutoModelForImageTextToText

    folder = _seeing(model_type)
    processor = load_processor(folder)
    model = QEFFAutoModelForImageTextToText.from_pretrained(folder, processor=processor)
    ctx_len = min([1024, *model.max_lens().values()])
    shapes = {"img_size": _SIDE[0]} if target != "cpu" else {}
    if target != "cpu" and hasattr(model.options_class(), "prefill_seq_len"):
        shapes["prefill_seq_len"] = 32
    shapes |= image_text_models.compile_options(folder)
    options = _options(target, ctx_len=ctx_len, **shapes) | ({"num_cores": 16} if target != "cpu" else {})
    row = _compiled(model, options)
    sizes = [(_SIDE,), (_SIDE, _SIDE), ()] if target != "cpu" else [(_SIDE,), (_OTHER_SIZES[0],), _OTHER_SIZES, ()]
    asked = {each: case for each in sizes if (case := _pictured(folder, each)) is not None}
    with model:
        answers = [model.generate(dict(p), generation_len=_SHORT_ANSWER).generated_ids[0] for p, _ in asked.values()]
    equal = [ours.tolist() == theirs for ours, (_, theirs) in zip(answers, asked.values(), strict=True)]
    notes = {2: "its processor takes one image per prompt", 0: "no prompt without an image: Hugging Face takes none"}
    note = "; ".join(said for count, said in notes.items() if count not in map(len, asked))
    return row | {"tokens": sum(map(len, answers)), "prompts": len(asked), "note": note, "agrees": all(equal)}


_REFUSALS = (ValueError, TypeError, LookupError, AttributeError, RuntimeError)


def _pictured(folder: Path, sizes: Sequence[tuple[int, int]]) -> tuple[dict[str, Any], list[int]] | None:
    """What the processor makes of a prompt, and Hugging Face's answer; None where one of them takes no prompt with so
    many images."""
    if len(sizes) > image_text_models.max_images(folder):
        return None
    try:
        prompt = image_text_models.inputs(folder, "what is it", images(*sizes))
        return prompt, image_text_models.reference(folder, dict(prompt), _SHORT_ANSWER)
    except _REFUSALS:
        if len(sizes) == 1:
            raise
        return None


def _ctc(family: str, model_type: str, target: str) -> Row:
    """Logits of signals of three lengths, in batches of two."""
    model, theirs = _ours(family, model_type), _model(family, model_type)
    signals = tones(theirs.main_input_name, model)
    row = _compiled(model, _options(target, batch_size=NUM_SLOTS, seq_len=[len(each) for each in signals]))
    with model:
        outputs = model.generate({theirs.main_input_name: signals})
    distances = []
    for ours, count, signal in zip(outputs["logits"], outputs["num_frames"], signals, strict=True):
        with torch.no_grad():
            expected = theirs(torch.tensor(signal)[None]).logits[0].numpy()
        distances.append(float(np.abs(ours[:count] - expected).max() / np.abs(expected).max()))
    return row | {"distance": float(f"{max(distances):.1e}"), "agrees": max(distances) <= TOLERANCE}


def _speech(family: str, model_type: str, target: str) -> Row:
    """Greedy tokens of signals of three lengths; together, where padding changes nothing or lengths vary freely."""
    if model_type in audio_text_models.RECIPES:
        return _audio_tower(model_type, target)
    model, theirs = _ours(family, model_type), _model(family, model_type)
    contract = model._contract(_SPEECH_LEN)
    counts = (7, 12, 25) if contract.only_len is None else (contract.rule.num_frames(contract.only_len),) * 3
    lens = [contract.only_len or contract.rule.length(count + 1) - 1 for count in counts]
    signals = [
        tone(length, 110.0 * (i + 2)) if contract.width is None else features(length, contract.width, i)
        for i, length in enumerate(lens)
    ]
    signals = [signal.T if contract.is_time_last else signal for signal in signals]
    together = target == "cpu" or contract.padding.side is not None or contract.only_len is not None
    row, answered = {}, []
    for part in [range(3)] if together else [[index] for index in range(3)]:
        num_before = int(model._prefix() is not None)
        sizes = {} if contract.only_len else {"encoder_ctx_len": counts[part[-1]] + num_before}
        row = _compiled(model, _options(target, batch_size=NUM_SLOTS, ctx_len=64, **sizes))
        with model:
            answers = model.generate({contract.input: [signals[index] for index in part]}, _NUM_SPOKEN)
        answered += [ids.tolist() for ids in answers.generated_ids]
    expected = [spoken(theirs, signal, _NUM_SPOKEN) for signal in signals]
    return row | {
        "note": "" if together else "on the card a package for each length",
        "tokens": sum(map(len, answered)),
        "margin": float(f"{min(answer.margin for answer in expected):.1e}"),
        "agrees": answered == [answer.tokens for answer in expected],
    }


_SPEECH_LEN, _NUM_SPOKEN = 16000, 24


def _audio_tower(model_type: str, target: str) -> Row:
    """Greedy tokens of prompts with a clip of two lengths, with both, and without."""
    from QEfficient import QEFFAutoModelForSpeechSeq2Seq

    recipe, processor = audio_text_models.RECIPES[model_type], audio_text_models.processor(model_type)
    folder = _hearing(model_type)
    theirs = audio_text_models.model(folder)
    model = QEFFAutoModelForSpeechSeq2Seq.from_pretrained(folder, processor=processor)
    shapes = {"audio_seconds": recipe.seconds, "prefill_seq_len": 32, "num_cores": 8} if target != "cpu" else {}
    row = _compiled(model, _options(target, ctx_len=min([1280, *model.max_lens().values()])) | shapes)
    spoken_for = [(each,) for each in recipe.seconds] + [recipe.seconds] * (recipe.max_clips > 1)
    clips = [audio_text_models.clips(model_type, *each) for each in spoken_for] + [[]] * recipe.takes_text
    asked = [audio_text_models.inputs(processor, recipe, audio_text_models.TEXT, each) for each in clips]
    with model:
        answers = [model.generate(dict(prompt), generation_len=_SHORT_ANSWER).generated_ids[0] for prompt in asked]
    calls = [{**prompt, **(recipe.call if each else {})} for prompt, each in zip(asked, clips, strict=True)]
    expected = [audio_text_models.reference(theirs, call, _SHORT_ANSWER) for call in calls]
    return row | {
        "class": type(theirs).__name__,
        "tokens": sum(map(len, answers)),
        "margin": float(f"{min(margin for _, margin in expected):.1e}"),
        "agrees": [ids.tolist() for ids in answers] == [ids for ids, _ in expected],
    }


def _encoded(model: Any, asked: list[list[int]], options: dict[str, Any]) -> tuple[Row, list[Any]]:
    row = _compiled(model, options)
    with model:
        (results,) = model.generate(asked).values()
    return row, [*results]


@cache
def _outputs(family: str, model_type: str) -> list[torch.Tensor]:
    model = _model(family, model_type)
    return outputs(model, prompts(model.config))


def _options(target: str, **options: Any) -> dict[str, Any]:
    cores = {"num_cores": 2} if target != "cpu" else {}
    return {"target": target, "precision": "fp32", "num_threads": 1, **cores, **options}


def _compiled(model: Any, options: dict[str, Any]) -> Row:
    began = time.perf_counter()
    model.export(**options)
    exported = time.perf_counter()
    model.compile(**options)
    compiled = time.perf_counter()
    return {
        "lowering": model._open().body.lowering,
        "export_s": round(exported - began, 1),
        "compile_s": round(compiled - exported, 1),
    }


_CLASSES = {
    "causal_lm": "QEFFAutoModelForCausalLM",
    "ctc": "QEFFAutoModelForCTC",
    "seq2seq": "QEFFAutoModelForSeq2SeqLM",
    "sequence_classification": "QEFFAutoModelForSequenceClassification",
    "speech_seq2seq": "QEFFAutoModelForSpeechSeq2Seq",
    "text_encoder": "QEFFAutoModel",
}
_CHECKS = {
    "causal_lm": _causal_lm,
    "ctc": _ctc,
    "image_text": _image_text,
    "seq2seq": _seq2seq,
    "speech_seq2seq": _speech,
}
