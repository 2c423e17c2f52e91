"""Speech recognition models: greedy tokens equal Hugging Face's, in windows and over long audio."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from architectures.sounds import tone, write_wave
from architectures.tiny import tiny_model
from speech_models import FIRST_TIME, save_whisper, whisper, whisper_extractor

from QEfficient import QEFFAutoModelForSpeechSeq2Seq, QEFFCommonLoader, from_package
from QEfficient.errors import CapacityError, LifecycleError, OptionError, UnsupportedModel

CPU = {"target": "cpu", "precision": "fp32", "num_threads": 1, "ctx_len": 48}
CARD = {"target": "cloud-ai-100-sim", "precision": "fp32", "num_cores": 2, "ctx_len": 48}
SECONDS = (0.6, 1.0, 3.3)
"""A window has one second."""


def sounds() -> list[np.ndarray]:
    return [tone(int(seconds * 16000), 150.0 * (index + 1)) for index, seconds in enumerate(SECONDS)]


def features(samples: np.ndarray, **options: Any) -> torch.Tensor:
    output = whisper_extractor()(samples, sampling_rate=16000, return_tensors="pt", **options)
    inputs: torch.Tensor = output["input_features"]
    return inputs


def hf_window(samples: np.ndarray, **options: Any) -> list[int]:
    """Tokens of transformers' one call for a window."""
    ids = whisper().generate(features(samples), force_unique_generate_call=True, **options)
    return [token for token in ids[0].tolist() if token < 239 or token >= FIRST_TIME]


def our_tokens(ids: np.ndarray) -> list[int]:
    return [token for token in ids.tolist() if token < 239 or token >= FIRST_TIME]


@pytest.fixture(scope="module")
def compiled() -> Any:
    model = QEFFAutoModelForSpeechSeq2Seq(whisper(), feature_extractor=whisper_extractor())
    model.compile(batch_size=2, **CPU)
    with model:
        yield model


OPTIONS = [
    {"language": "de", "task": "translate"},
    {"language": "english"},
    {},
    {"return_timestamps": True, "language": "en"},
    {"return_timestamps": True},
    {"language": "de", "no_repeat_ngram_size": 2, "repetition_penalty": 1.3, "bad_words_ids": [[30]]},
    {"language": "en", "suppress_tokens": [7, 30], "begin_suppress_tokens": [20]},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_window_gets_transformers_tokens(compiled: Any, options: dict[str, Any]) -> None:
    asked = sounds()[:2]
    answered = compiled.generate(asked, generation_len=20, **options)
    expected = [hf_window(samples, max_new_tokens=20, **options) for samples in asked]
    assert [our_tokens(ids) for ids in answered.generated_ids] == expected
    assert len({tuple(ids) for ids in expected}) > 1


def test_options_may_differ_from_audio_to_audio(compiled: Any) -> None:
    samples = sounds()[0]
    answered = compiled.generate([samples, samples], generation_len=12, language=["en", "de"])
    expected = [hf_window(samples, max_new_tokens=12, language=language) for language in ("en", "de")]
    assert [our_tokens(ids) for ids in answered.generated_ids] == expected


def hf_segments(samples: np.ndarray, **options: Any) -> list[dict[str, Any]]:
    """The segments that transformers' long-form algorithm makes."""
    whole = features(samples, truncation=False, padding="longest")
    if whole.shape[-1] < 100:
        whole = features(samples)
    output = whisper().generate(whole, return_timestamps=True, return_segments=True, **options)
    segments: list[dict[str, Any]] = output["segments"][0]
    return segments


class Numbers:
    """A tokenizer that writes ids."""

    def __call__(self, text: str, **options: Any) -> dict[str, list[int]]:
        return {"input_ids": [int(word) for word in text.split()]}

    def decode(self, ids: list[int], **options: Any) -> str:
        return " ".join(map(str, ids))


@pytest.mark.parametrize("index", [1, 2])
@pytest.mark.parametrize("options", [{"language": "en"}, {}], ids=str)
def test_long_audio_gets_transformers_segments(compiled: Any, index: int, options: dict[str, Any]) -> None:
    samples = sounds()[index]
    (transcript,) = compiled.transcribe(
        samples, tokenizer=Numbers(), generation_len=20, return_timestamps=True, **options
    )
    expected = hf_segments(samples, max_new_tokens=20, **options)
    assert [each.token_ids for each in transcript.segments] == [each["tokens"].tolist() for each in expected]
    for ours, theirs in zip(transcript.segments, expected, strict=True):
        assert (ours.start, ours.end) == pytest.approx((float(theirs["start"]), float(theirs["end"])), abs=1e-6)
    assert transcript.language in ("en", "de")
    if index == 2:
        assert transcript.segments[-1].end > 2


def test_long_audio_asks_for_times_by_itself(compiled: Any) -> None:
    (transcript,) = compiled.transcribe(sounds()[2], tokenizer=Numbers(), generation_len=20, language="en")
    assert len(transcript.segments) > 1
    with pytest.raises(CapacityError, match="at most 16000"):
        compiled.generate(sounds()[2])


def test_a_card_has_one_graph_with_upstreams_names() -> None:
    model = QEFFAutoModelForSpeechSeq2Seq(whisper(), feature_extractor=whisper_extractor())
    package = model.compile(batch_size=1, **CARD)
    body = json.loads((package / "manifest.json").read_text(encoding="utf-8"))["body"]
    inputs = body["graphs"]["model"]["inputs"]
    state = {
        f"past_{part}_{side}.{layer}" for part in ("key", "value") for side in ("self", "cross") for layer in (0, 1)
    }
    assert inputs.keys() == {"input_features", "input_ids", "position_ids", *state}
    assert inputs["past_key_cross.0"]["shape"] == [1, 4, 50, 16]
    asked = sounds()[:2]
    with model:
        answered = model.generate(asked, generation_len=20, language="en")
    assert [our_tokens(ids) for ids in answered.generated_ids] == [
        hf_window(samples, max_new_tokens=20, language="en") for samples in asked
    ]


@pytest.mark.parametrize(
    ("model_type", "target"),
    [
        *(("speech_to_text", target) for target in ("cpu", "card")),
        *(pytest.param("speecht5", target, marks=pytest.mark.sweep) for target in ("cpu", "card")),
    ],
)
def test_padded_audio_gets_the_tokens_of_each_alone(model_type: str, target: str) -> None:
    """Features and samples, whose masks the models work out in two ways."""
    model = tiny_model("speech_seq2seq", model_type)
    ours = QEFFAutoModelForSpeechSeq2Seq(model)
    rng = np.random.default_rng(0)
    if model_type == "speecht5":
        name, asked = "input_values", [tone(length, 200.0) for length in (3001, 8000, 16003)]
    else:
        name, asked = "input_features", [rng.standard_normal((length, 80), np.float32) for length in (37, 70, 100)]
    rule = ours._contract(len(asked[-1])).rule
    ours.compile(batch_size=2, encoder_ctx_len=rule.num_frames(len(asked[-1])), **(CPU if target == "cpu" else CARD))
    with ours:
        answered = [ids.tolist() for ids in ours.generate({name: asked}, generation_len=16).generated_ids]
    expected = [model.generate(torch.tensor(each)[None], max_new_tokens=16)[0].tolist() for each in asked]
    assert answered == [ids[-16:] for ids in expected]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a processor, whose tokenizer knows a word for each token."""
    return save_whisper(tmp_path_factory.mktemp("whisper"))


def test_a_package_transcribes_without_its_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    model = QEFFCommonLoader.from_pretrained(checkpoint)
    assert isinstance(model, QEFFAutoModelForSpeechSeq2Seq)
    model.compile(**CPU)
    path = write_wave(tmp_path / "long.wav", sounds()[2])
    with model:
        (expected,) = model.transcribe(path, generation_len=12, language="en")
    shutil.copytree(model.qpc_path, tmp_path / "package")
    with from_package(tmp_path / "package") as package:
        (transcript,) = package.transcribe(path, generation_len=12, language="en")
    assert transcript == expected
    assert transcript.text.startswith("w")
    assert "w250" not in transcript.text


def test_what_is_no_audio_is_refused(compiled: Any, tmp_path: Path) -> None:
    with pytest.raises(CapacityError, match="is empty"):
        compiled.generate(tone(0))
    with pytest.raises(OptionError, match="expected float32"):
        compiled.generate({"input_features": [np.zeros((100, 16), np.float32)]})
    with pytest.raises(CapacityError, match="of exactly 100"):
        compiled.generate({"input_features": [np.zeros((16, 60), np.float32)]})
    with pytest.raises(OptionError, match="no numbers"):
        compiled.generate(np.full(8000, np.nan, np.float32))
    with pytest.raises(OptionError, match="klingon"):
        compiled.generate(sounds()[0], language="klingon")
    with pytest.raises(LifecycleError, match="no tokenizer"):
        compiled.transcribe(sounds()[0])


def test_a_window_has_one_length() -> None:
    model = QEFFAutoModelForSpeechSeq2Seq(whisper())
    with pytest.raises(CapacityError, match="makes 50 states"):
        model.compile(encoder_ctx_len=20, **CPU)


@pytest.mark.sweep
def test_notes_are_like_those_of_a_composer() -> None:
    theirs = tiny_model("speech_seq2seq", "pop2piano")
    model = QEFFAutoModelForSpeechSeq2Seq(theirs)
    model.compile(**CPU, encoder_ctx_len=40)
    signal = np.random.default_rng(0).standard_normal((30, theirs.config.d_model)).astype(np.float32)
    inputs = {"input_features": signal[None]}
    for composer in ("composer3", "composer1"):
        with torch.no_grad():
            expected = theirs.generate(torch.tensor(signal)[None], composer=composer, max_new_tokens=12)
        asked = {} if composer == "composer1" else {"composer": composer}
        ids = model.generate(inputs, generation_len=12, **asked).generated_ids[0]
        assert ids.tolist() == expected[0, 1:].tolist()
    with pytest.raises(OptionError, match=r"composer='composer33': the model has .* composer3"):
        model.generate(inputs, composer="composer33")
    with pytest.raises(OptionError, match=r"expected \[length, 64\]"):
        model.generate({"input_features": signal[None, :, :8]})
    theirs.generation_config.composer_to_feature_token = None
    with pytest.raises(UnsupportedModel, match="composer_to_feature_token"):
        QEFFAutoModelForSpeechSeq2Seq(theirs).compile(**CPU, encoder_ctx_len=40)


def test_only_models_of_notes_have_composers(compiled: Any) -> None:
    with pytest.raises(OptionError, match="this one has none: leave it out"):
        compiled.generate(sounds()[:1], composer="composer1")
