"""CTC models: logits of frames equal Hugging Face's for each audio alone, whatever is in the batch beside it; files
become the text that transformers' processor makes of them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from architectures.sounds import tone, tones, write_wave
from architectures.tiny import tiny_model
from speech_models import save_wav2vec2

from QEfficient import QEFFAutoModelForCTC, QEFFCommonLoader, from_package
from QEfficient.errors import CapacityError, LifecycleError, OptionError

CPU = {"target": "cpu", "precision": "fp32", "num_threads": 1}
CARD = {"target": "cloud-ai-100-sim", "num_cores": 2}


def expected(model: Any, signal: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        logits: np.ndarray = model(torch.tensor(signal)[None]).logits[0].float().numpy()
    return logits


def check_logits(model: Any, signals: list[np.ndarray], outputs: dict[str, np.ndarray], tolerance: float) -> None:
    for index, signal in enumerate(signals):
        theirs, count = expected(model, signal), outputs["num_frames"][index]
        ours = outputs["logits"][index]
        assert count == len(theirs)
        assert np.abs(ours[:count] - theirs).max() <= tolerance * np.abs(theirs).max()
        assert not ours[count:].any()


@pytest.mark.parametrize(
    ("model_type", "target"),
    [
        *((name, target) for name in ("wav2vec2", "parakeet_ctc") for target in ("cpu", "card")),
        ("data2vec-audio", "cpu"),
        pytest.param("data2vec-audio", "card", marks=pytest.mark.sweep),
    ],
)
def test_padding_changes_no_logits(model_type: str, target: str) -> None:
    """Group norms over time, masks inside the model, and convolutions that padding would reach."""
    model = tiny_model("ctc", model_type)
    ours = QEFFAutoModelForCTC(model)
    signals = tones(model.main_input_name, ours)
    options = CPU if target == "cpu" else CARD | {"precision": "fp32"}
    ours.compile(seq_len=[len(signals[1]), len(signals[2])], batch_size=2, **options)
    with ours:
        check_logits(model, signals, ours.generate({model.main_input_name: signals}), 1e-4)


def test_a_model_that_padding_changes_runs_at_exact_lengths() -> None:
    model = tiny_model("ctc", "sew")
    ours = QEFFAutoModelForCTC(model)
    signals = tones(model.main_input_name, ours)
    lens = [len(each) for each in signals]
    ours.compile(seq_len=lens, **CPU)
    with ours:
        check_logits(model, signals, ours.generate({"input_values": signals}), 1e-4)
        check_logits(model, [signals[0][:2500]], ours.generate({"input_values": [signals[0][:2500]]}), 1e-4)
    ours.compile(seq_len=lens[0], **CARD)
    with ours, pytest.raises(CapacityError, match="exactly their length"):
        ours.generate({"input_values": [signals[0][:2500]]})


def test_half_precision_on_the_card_stays_near() -> None:
    model = tiny_model("ctc", "wav2vec2")
    ours = QEFFAutoModelForCTC(model)
    ours.compile(seq_len=16003, **CARD)
    signals = tones(model.main_input_name, ours)
    with ours:
        check_logits(model, signals, ours.generate({"input_values": signals}), 0.05)


def test_bf16_rounds_no_count_of_samples() -> None:
    """It has 8 bits, too few for the number of a frame: frames were written beyond the end."""
    model = tiny_model("ctc", "wav2vec2")
    ours = QEFFAutoModelForCTC(model)
    ours.compile(seq_len=32000, batch_size=2, target="cpu", precision="bf16", num_threads=1)
    signals = [tone(32000), tone(26011)]
    with ours:
        check_logits(model, signals, ours.generate({"input_values": signals}), 0.1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Wav2Vec2 with a processor."""
    return save_wav2vec2(tmp_path_factory.mktemp("wav2vec2"))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("sounds")
    return [write_wave(folder / f"{length}.wav", tone(length, length / 40)) for length in (9000, 16000, 12345)]


@pytest.fixture(scope="module")
def compiled(checkpoint: Path) -> Any:
    model = QEFFCommonLoader.from_pretrained(checkpoint)
    assert isinstance(model, QEFFAutoModelForCTC)
    model.compile(seq_len=[10000, 16000], batch_size=2, **CPU)
    return model


def hf_texts(checkpoint: Path, files: list[Path]) -> list[str]:
    """What transformers' guide does with each file alone."""
    from transformers import AutoModelForCTC, AutoProcessor

    processor, model = AutoProcessor.from_pretrained(checkpoint), AutoModelForCTC.from_pretrained(checkpoint).eval()
    texts = []
    for path in files:
        samples = np.frombuffer(path.read_bytes()[44:], "<i2").astype(np.float32) / 32768
        with torch.no_grad():
            logits = model(processor(samples, sampling_rate=16000, return_tensors="pt").input_values).logits
        texts += processor.batch_decode(logits.argmax(-1))
    return texts


def test_files_become_transformers_text(checkpoint: Path, compiled: Any, files: list[Path]) -> None:
    texts = hf_texts(checkpoint, files)
    assert len({*texts}) == 3
    assert all(len(text) > 2 for text in texts)
    assert compiled.transcribe(files) == texts
    assert compiled.transcribe(str(files[0])) == texts[:1]


def test_upstreams_call_returns_texts(checkpoint: Path, compiled: Any, files: list[Path]) -> None:
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(checkpoint)
    assert compiled.generate(processor, tone(9000)) == compiled.transcribe(tone(9000))


def test_a_package_transcribes_without_its_checkpoint(compiled: Any, files: list[Path], tmp_path: Path) -> None:
    shutil.copytree(compiled.qpc_path, tmp_path / "package")
    with from_package(tmp_path / "package") as package:
        assert package.transcribe(files) == compiled.transcribe(files)
        rows, text = package.describe([str(files[0])])
    assert rows[0]["text"] in text


def test_audio_that_does_not_fit_is_refused(compiled: Any, tmp_path: Path) -> None:
    with pytest.raises(CapacityError, match="16001"):
        compiled.generate(tone(16001))
    with pytest.raises(CapacityError, match="is empty"):
        compiled.generate(tone(0))
    with pytest.raises(CapacityError, match="first frame"):
        compiled.generate(tone(100))
    with pytest.raises(OptionError, match="44100"):
        compiled.generate(write_wave(tmp_path / "a.wav", tone(100), rate=44100))
    with pytest.raises(OptionError, match="no numbers"):
        compiled.generate({"input_values": [np.full(9000, np.nan, np.float32)]})
    with pytest.raises(OptionError, match="expected float32"):
        compiled.generate({"input_values": [np.zeros((9000, 2), np.float32)]})


def test_without_a_feature_extractor_only_features_run() -> None:
    model = tiny_model("ctc", "wav2vec2")
    ours = QEFFAutoModelForCTC(model)
    ours.compile(seq_len=16003, **CPU)
    with ours:
        with pytest.raises(LifecycleError, match="no feature extractor"):
            ours.generate(tone(9000))
        assert ours.generate({"input_values": tone(9000)[None]})["logits"].shape == (1, 27, 32)


def test_the_default_is_thirty_seconds() -> None:
    from transformers import ParakeetFeatureExtractor

    samples = QEFFAutoModelForCTC(tiny_model("ctc", "wav2vec2"))
    assert samples._parse({"target": "cpu"})[0].seq_lens == (480000,)
    features = QEFFAutoModelForCTC(tiny_model("ctc", "parakeet_ctc"), feature_extractor=ParakeetFeatureExtractor())
    assert features._parse({"target": "cpu"})[0].seq_lens == (3000,)
