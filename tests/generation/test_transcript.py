"""Transcripts as files that players read, and the rules that make timestamps of tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from QEfficient.errors import CorruptArtifact, OptionError
from QEfficient.generation.long_audio import Windows, segments_of
from QEfficient.generation.speech_rules import SpeechOptions, SpeechRules, Timestamps
from QEfficient.generation.transcript import Segment, Transcript

FIRST = 100
CONFIG = {
    "decoder_start_token_id": 90,
    "eos_token_id": 89,
    "lang_to_id": {"<|en|>": 91, "<|de|>": 92},
    "task_to_id": {"translate": 93, "transcribe": 94},
    "no_timestamps_token_id": FIRST - 1,
    "suppress_tokens": [1, 2],
    "begin_suppress_tokens": [3, 89],
    "max_initial_timestamp_index": 5,
    "is_multilingual": True,
}


class Letters:
    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        return "".join(chr(token) for token in ids)


def transcript() -> Transcript:
    segments = [
        Segment(start=0.0, end=1.5, token_ids=[FIRST + 50, 72, 105, FIRST + 75]),
        Segment(start=3661.25, end=3662.0, token_ids=[45, 45, 62, 10, 10, 66]),
    ]
    return Transcript.of(segments, "en", Letters(), 106)


def test_subtitles_have_times_and_no_line_that_ends_a_cue() -> None:
    assert transcript().write("srt") == (
        "1\n00:00:00,000 --> 00:00:01,500\nHi\n\n2\n01:01:01,250 --> 01:01:02,000\n-> B\n"
    )
    assert transcript().write("vtt").startswith("WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nHi\n")
    assert transcript().write("txt") == "Hi-->\n\nB\n"
    content = json.loads(transcript().write("json"))
    assert content["language"] == "en"
    assert content["segments"][1] == {"start": 3661.25, "end": 3662.0, "text": "-->\n\nB"}


def hf_processors(begin: int) -> list[object]:
    from transformers import GenerationConfig
    from transformers.generation.logits_process import (
        SuppressTokensAtBeginLogitsProcessor,
        SuppressTokensLogitsProcessor,
        WhisperTimeStampLogitsProcessor,
    )

    config = GenerationConfig(**CONFIG)
    return [
        SuppressTokensAtBeginLogitsProcessor(CONFIG["begin_suppress_tokens"], begin),
        SuppressTokensLogitsProcessor(CONFIG["suppress_tokens"]),
        WhisperTimeStampLogitsProcessor(config, begin),
    ]


@pytest.mark.parametrize("seed", range(40))
def test_rules_are_those_of_transformers_processors(seed: int) -> None:
    random = np.random.default_rng(seed)
    rules = SpeechRules(CONFIG, 90, 130, "generation_config.json")
    options = SpeechOptions(language="en", return_timestamps=True)
    prompt = rules.prompt(options)
    answer = [int(random.choice([random.integers(4, 88), random.integers(FIRST, 110)])) for _ in range(seed % 7)]
    scores = random.standard_normal(130) * random.choice([0.1, 3.0])
    scores[FIRST:] += random.choice([-4.0, 0.0, 2.0])
    ours = scores.copy()
    for rule in rules.rules(prompt, options):
        ours = rule(ours, answer)
    theirs = torch.tensor(scores)[None]
    for processor in hf_processors(len(prompt.ids)):
        theirs = processor(torch.tensor([prompt.ids + answer]), theirs)
    assert (np.isneginf(ours) == np.isneginf(theirs[0].numpy())).all()
    assert ours.argmax() == int(theirs.argmax())


def test_a_language_that_is_not_named_is_the_first_answer() -> None:
    rules = SpeechRules(CONFIG, 90, 130, "generation_config.json")
    prompt = rules.prompt(SpeechOptions(task="translate"))
    assert (prompt.ids, prompt.asks_language, prompt.after_language) == ([90], (91, 92), [93, 99])
    scores = np.zeros(130)
    scores[[5, 92]] = [9.0, 1.0]
    for rule in rules.rules(prompt, SpeechOptions(task="translate")):
        scores = rule(scores, [])
    assert scores.argmax() == 92
    assert rules.prompt(SpeechOptions(language="German", task="transcribe")).ids == [90, 92, 94, 99]
    assert rules.prompt(SpeechOptions(language="de", return_timestamps=True)).ids == [90, 92, 94]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"language": "klingon"}, "the model has en, de"),
        ({"language": "xx"}, "the model has en, de"),
        ({"task": "transcibe"}, "Did you mean 'transcribe'"),
    ],
)
def test_what_a_model_does_not_have_is_refused(options: dict[str, str], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        SpeechRules(CONFIG, 90, 130, "generation_config.json").prompt(SpeechOptions(**options))


def test_timestamps_of_a_model_without_are_refused() -> None:
    rules = SpeechRules({"eos_token_id": 2}, 1, 130, "generation_config.json")
    with pytest.raises(OptionError, match="no_timestamps_token_id"):
        rules.prompt(SpeechOptions(return_timestamps=True))
    assert rules.prompt(SpeechOptions()).ids == [1]


@pytest.mark.parametrize(
    "change",
    [{"suppress_tokens": [999]}, {"suppress_tokens": "a"}, {"lang_to_id": {"<|en|>": -1}}, {"task_to_id": [1]}],
)
def test_a_damaged_config_is_an_error(change: dict[str, object]) -> None:
    with pytest.raises(CorruptArtifact, match=r"generation_config\.json"):
        SpeechRules({**CONFIG, **change}, 90, 130, "generation_config.json")


@pytest.mark.parametrize("seed", range(30))
def test_segments_are_those_of_transformers(seed: int) -> None:
    from transformers.models.whisper.generation_whisper import WhisperGenerationMixin

    random = np.random.default_rng(seed)
    answer = [int(random.choice([random.integers(4, 88), random.integers(FIRST, 160)])) for _ in range(1 + seed % 9)]
    window = Windows(
        features=np.zeros((4, 450)), length=200, states=100, seconds=2.0, place=int(random.integers(0, 400))
    )
    segments, step = segments_of(answer, window, FIRST)
    theirs, theirs_step = WhisperGenerationMixin._retrieve_segment(
        seek_sequence=torch.tensor(answer),
        seek_outputs=[{}],
        time_offset=torch.tensor([window.start], dtype=torch.float64),
        timestamp_begin=FIRST,
        seek_num_frames=torch.tensor([window.num_places]),
        time_precision=0.02,
        time_precision_features=0.01,
        input_stride=2,
        prev_idx=0,
        idx=0,
        return_token_timestamps=False,
        decoder_input_ids=torch.zeros(1, 3),
    )
    assert step == int(theirs_step)
    assert [each.token_ids for each in segments] == [each["tokens"].tolist() for each in theirs]
    for ours, hf in zip(segments, theirs, strict=True):
        assert (ours.start, ours.end) == pytest.approx((float(hf["start"]), float(hf["end"])), abs=1e-6)


def test_the_rule_of_times_stays_silent_where_nothing_is_possible() -> None:
    scores = np.full(130, -np.inf)
    assert np.isneginf(Timestamps(FIRST, 89)(scores, [5])).all()


def test_a_form_that_is_none_names_those_there_are() -> None:
    with pytest.raises(OptionError, match="There is no form 'SRT'"):
        Transcript(text="a").write("SRT")  # type: ignore[arg-type]
