"""Audio from files and arrays: what is read of it, and what is refused, before it reaches a model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from architectures.sounds import tone, write_wave

from QEfficient.contract import FrameRule
from QEfficient.errors import CapacityError, OptionError
from QEfficient.generation.audio import load_audio
from QEfficient.generation.audio_inputs import each_audio, processed
from QEfficient.generation.sessions.signals import SignalRecord

RATE, LONGEST = 16000, 48000
TAKES = SignalRecord(
    input="input_values",
    width=None,
    seq_lens=(LONGEST,),
    batch_size=1,
    min_len=1,
    rule=FrameRule(stride=320, offset=-80),
)


@pytest.mark.parametrize(("width", "channels"), [(1, 1), (2, 1), (3, 1), (4, 1), (2, 2), (3, 3)])
def test_wave_files_of_whole_numbers_are_their_samples(tmp_path: Path, width: int, channels: int) -> None:
    samples = tone(3000)
    path = write_wave(tmp_path / "a.wav", samples, width, channels=channels)
    read = load_audio(path, RATE, LONGEST, "Audio 0")
    assert read.dtype == np.float32
    assert np.abs(read - samples).max() <= 1.01 / 2 ** (8 * width - 1) + 1e-6


def test_an_array_is_its_samples_and_a_list_too() -> None:
    samples = tone(100)
    assert (load_audio(samples, RATE, LONGEST, "Audio 0") == samples).all()
    assert np.allclose(load_audio(samples.tolist(), RATE, LONGEST, "Audio 0"), samples)


def bad_files(folder: Path) -> dict[str, tuple[Path, type[Exception], str]]:
    whole = write_wave(folder / "whole.wav", tone(2000))
    cut = folder / "cut.wav"
    cut.write_bytes(whole.read_bytes()[:-1000])
    text = folder / "text.wav"
    text.write_text("no audio at all", encoding="utf-8")
    header = folder / "header.wav"
    header.write_bytes(whole.read_bytes()[:20])
    one_bit = folder / "one_bit.wav"
    content = bytearray(whole.read_bytes())
    content[34:36] = (1).to_bytes(2, "little")
    one_bit.write_bytes(content)
    return {
        "missing": (folder / "missing.wav", OptionError, "cannot be read"),
        "folder": (folder, OptionError, "cannot be read"),
        "text": (text, OptionError, "is not an audio file"),
        "cut": (cut, OptionError, "is cut off"),
        "header": (header, OptionError, "is cut off in its header: copy or convert it again"),
        "one bit": (one_bit, OptionError, "whole numbers"),
        "no sample": (write_wave(folder / "empty.wav", tone(0)), CapacityError, "is empty"),
        "another rate": (write_wave(folder / "rate.wav", tone(100), rate=44100), OptionError, "44100 samples a second"),
        "long": (write_wave(folder / "long.wav", tone(LONGEST + 1)), CapacityError, "48001 samples"),
    }


@pytest.mark.parametrize(
    "kind", ["missing", "folder", "text", "cut", "header", "one bit", "no sample", "another rate", "long"]
)
def test_a_file_that_is_no_usable_audio_is_an_error_that_says_so(tmp_path: Path, kind: str) -> None:
    path, error, says = bad_files(tmp_path)[kind]
    with pytest.raises(error, match=says):
        load_audio(path, RATE, LONGEST, "Audio 0")


def test_no_audio_is_downloaded() -> None:
    with pytest.raises(OptionError, match=r"https://a\.b/c\.wav is an address.* save it, and give its path"):
        load_audio("https://a.b/c.wav", RATE, LONGEST, "Audio 0")


def test_a_long_file_is_refused_by_its_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wave

    path = write_wave(tmp_path / "long.wav", tone(LONGEST + 1))

    def decoded(self: object, count: int) -> bytes:
        raise AssertionError(f"{count} samples were decoded")

    monkeypatch.setattr(wave.Wave_read, "readframes", decoded)
    with pytest.raises(CapacityError, match="at most 48000"):
        load_audio(path, RATE, LONGEST, "Audio 0")


def test_other_formats_name_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "soundfile", None)
    path = tmp_path / "a.flac"
    path.write_bytes(b"fLaC" + bytes(64))
    with pytest.raises(OptionError, match=r"qefficient\[audio\]"):
        load_audio(path, RATE, LONGEST, "Audio 0")


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (np.zeros((2, 3, 4), np.float32), "shape"),
        (np.array([0.1, np.nan], np.float32), "no numbers"),
        (np.array([0.1, np.inf]), "no numbers"),
        (np.zeros(8, np.int16), "int16"),
        (["a", "b"], "cannot be read"),
        (3, "Audio must be"),
        (None, "Audio must be"),
    ],
)
def test_what_is_no_audio_is_an_option_error(values: Any, says: str) -> None:
    def load() -> list[np.ndarray]:
        return [load_audio(each, RATE, LONGEST, "Audio 0") for each in each_audio(values)]

    with pytest.raises(OptionError, match=says):
        load()


def test_nothing_is_an_error_too() -> None:
    with pytest.raises(CapacityError, match="No audio"):
        each_audio([])


def test_a_processors_rows_lose_their_padding() -> None:
    values = np.arange(8, dtype=np.float32).reshape(2, 4)
    rows = processed({"input_values": values, "attention_mask": np.array([[1, 1, 0, 0], [1, 1, 1, 1]])}, TAKES)
    assert [row.tolist() for row in rows] == [[0.0, 1.0], [4.0, 5.0, 6.0, 7.0]]
    with pytest.raises(OptionError, match="on the left"):
        processed({"input_values": values, "attention_mask": np.array([[0, 0, 1, 1], [1, 1, 1, 1]])}, TAKES)
    with pytest.raises(OptionError, match="takes input_values"):
        processed({"input_features": values}, TAKES)


def test_columns_of_channels_are_no_clips() -> None:
    with pytest.raises(OptionError, match=r"2 channels.*Average"):
        each_audio(np.zeros((200, 2), np.float32))
    assert len(each_audio(np.zeros((2, 200), np.float32))) == 2


def test_samples_of_whole_numbers_in_floats_are_not_scaled() -> None:
    with pytest.raises(OptionError, match=r"up to 12000.*32768"):
        load_audio(np.array([0.0, -12000.0], np.float32), 16000, 100, "Audio 0")
    assert load_audio(np.array([0.0, 1.02], np.float32), 16000, 100, "Audio 0").max() > 1
