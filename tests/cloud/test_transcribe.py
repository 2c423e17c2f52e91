"""Audio files on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from architectures.sounds import tone, write_wave
from cloud.commands import Cli
from speech_models import save_wav2vec2, save_whisper

from QEfficient import QEFFAutoModelForCTC, QEFFAutoModelForSpeechSeq2Seq

CPU = {"target": "cpu", "precision": "fp32", "num_threads": 1}
FLAGS = ("--target", "cpu", "--precision", "fp32", "--num-threads", "1")


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wave(tmp_path_factory.mktemp("sounds") / "talk.wav", tone(40000))


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_whisper(tmp_path_factory.mktemp("whisper"))


@pytest.fixture(scope="module")
def spoken(whisper: Path, talk: Path) -> Any:
    """A package, and its transcript of the file."""
    model = QEFFAutoModelForSpeechSeq2Seq.from_pretrained(whisper)
    package = model.compile(ctx_len=48, **CPU)
    with model:
        (transcript,) = model.transcribe(talk, language="en", generation_len=12, return_timestamps=True)
    return package, transcript


def test_a_package_and_its_model_write_the_same(cli: Cli, whisper: Path, talk: Path, spoken: Any) -> None:
    package, transcript = spoken
    asked = ("--language", "en", "--generation-len", "12")
    assert cli("transcribe", talk, "--package", package, *asked).out == transcript.write("txt")
    named = ("--model-name", whisper, "--ctx-len", "48", *FLAGS)
    assert cli("transcribe", talk, *named, *asked).out == transcript.write("txt")


@pytest.mark.parametrize("form", ["srt", "vtt"])
def test_subtitles_ask_for_times(cli: Cli, talk: Path, spoken: Any, form: str) -> None:
    package, transcript = spoken
    asked = ("--language", "en", "--generation-len", "12", "--format", form)
    result = cli("transcribe", talk, "--package", package, *asked)
    assert (result.code, result.out) == (0, transcript.write(form))
    assert "-->" in result.out


def test_json_is_one_document(cli: Cli, talk: Path, spoken: Any) -> None:
    package, transcript = spoken
    asked = ("--package", package, "--language", "en", "--generation-len", "12", "--format", "json")
    assert cli("transcribe", talk, *asked).json == transcript.described()
    assert cli("transcribe", talk, talk, *asked).json == [transcript.described()] * 2


def test_a_ctc_model_writes_text(cli: Cli, talk: Path, tmp_path: Path) -> None:
    folder = save_wav2vec2(tmp_path / "wav2vec2")
    model = QEFFAutoModelForCTC.from_pretrained(folder)
    model.compile(seq_len=48000, **CPU)
    with model:
        (text,) = model.transcribe(talk)
    assert cli("transcribe", talk, "--model-name", folder, "--seq-len", "48000", *FLAGS).out == f"{text}\n"
    refused = cli("transcribe", talk, "--package", model.qpc_path, "--language", "en")
    assert refused.code == 2
    assert "--language is not for a CTC model" in refused.err


def test_what_cannot_be_transcribed_is_an_error(
    cli: Cli, talk: Path, spoken: Any, checkpoint: Path, tmp_path: Path
) -> None:
    package, _ = spoken
    assert "No audio files" in cli("transcribe", "--package", package).err
    assert "is for one file" in cli("transcribe", talk, talk, "--package", package, "--format", "srt").err
    assert "takes no audio" in cli("transcribe", talk, "--model-name", checkpoint, *FLAGS).err
    text = tmp_path / "talk.wav"
    text.write_text("talk", encoding="utf-8")
    result = cli("transcribe", text, "--package", package)
    assert (result.code, result.out) == (2, "")
    assert "is not an audio file" in result.err
