"""What was said in audio, and when; as text, subtitles or JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from QEfficient.errors import OptionError, nearest

Format = Literal["txt", "srt", "vtt", "json"]


class Decodes(Protocol):
    """A tokenizer."""

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str: ...


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A part of audio."""

    start: float
    """Seconds from the start of the audio."""
    end: float
    """Seconds from the start of the audio."""
    token_ids: list[int] = field(default_factory=list)
    """Of the model's answer, timestamps included."""
    text: str = ""


@dataclass(frozen=True, kw_only=True)
class Transcript:
    """The text of audio."""

    text: str
    segments: tuple[Segment, ...] = ()
    """In order; one where the model says no times."""
    language: str | None = None
    """Of the audio, as a code: what was asked for, else what the model says; None: it says none."""

    @classmethod
    def of(
        cls, segments: Sequence[Segment], language: str | None, decoder: Decodes, first_timestamp: int | None
    ) -> Transcript:
        """Decode the tokens of ``segments``, of which those from ``first_timestamp`` on are times."""

        def text(ids: Sequence[int]) -> str:
            return decoder.decode([token for token in ids if first_timestamp is None or token < first_timestamp])

        decoded = tuple(
            Segment(start=each.start, end=each.end, token_ids=each.token_ids, text=text(each.token_ids))
            for each in segments
        )
        ids = [token for each in segments for token in each.token_ids]
        return cls(text=text(ids), segments=decoded, language=language)

    def described(self) -> dict[str, object]:
        """The transcript as JSON has it."""
        segments = [
            {"start": round(each.start, 3), "end": round(each.end, 3), "text": each.text} for each in self.segments
        ]
        return {"text": self.text, "segments": segments, "language": self.language}

    def write(self, form: Format) -> str:
        """The transcript as plain text, SubRip subtitles, WebVTT subtitles, or JSON.

        Raises:
            OptionError: there is no such form.
        """
        if form not in _WRITERS:
            raise OptionError(f"There is no form {form!r}.{nearest(str(form), _WRITERS)} Known: {', '.join(_WRITERS)}.")
        return _WRITERS[form](self)


def _clock(seconds: float, mark: str) -> str:
    """``01:02:03.456``, with ``mark`` before the milliseconds."""
    milliseconds = max(0, round(seconds * 1000))
    minutes, milliseconds = divmod(milliseconds, 60000)
    hours, minutes = divmod(minutes, 60)
    whole, milliseconds = divmod(milliseconds, 1000)
    return f"{hours:02}:{minutes:02}:{whole:02}{mark}{milliseconds:03}"


def _line(text: str) -> str:
    """Text that ends no cue: a blank line and an arrow would."""
    return " ".join(text.split()).replace("-->", "->")


def _plain(transcript: Transcript) -> str:
    return f"{transcript.text.strip()}\n"


def _srt(transcript: Transcript) -> str:
    cues = (
        f"{number}\n{_clock(each.start, ',')} --> {_clock(each.end, ',')}\n{_line(each.text)}\n"
        for number, each in enumerate(transcript.segments, start=1)
    )
    return "\n".join(cues)


def _vtt(transcript: Transcript) -> str:
    cues = (
        f"{_clock(each.start, '.')} --> {_clock(each.end, '.')}\n{_line(each.text)}\n" for each in transcript.segments
    )
    return "\n".join(["WEBVTT\n", *cues])


def _json(transcript: Transcript) -> str:
    return json.dumps(transcript.described(), ensure_ascii=False, indent=2) + "\n"


_WRITERS: dict[Format, Callable[[Transcript], str]] = {"txt": _plain, "srt": _srt, "vtt": _vtt, "json": _json}
