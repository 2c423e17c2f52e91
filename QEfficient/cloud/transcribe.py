"""``qefficient transcribe``: audio files to text, subtitles or JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from QEfficient.cloud.click_options import LOGGING, Flag, flags
from QEfficient.cloud.completion import complete_path
from QEfficient.cloud.model_args import ModelSource, check_options, compile_flags, named_model_flags, required
from QEfficient.cloud.terminal import Command, Output, run
from QEfficient.errors import OptionError
from QEfficient.progress import stage

if TYPE_CHECKING:
    from QEfficient.generation.transcript import Transcript

_SECTION = "Audio and text"
_FORMATS = ("txt", "srt", "vtt", "json")
_FLAGS = (
    Flag(["--package"], section=_SECTION, metavar="DIR", help="A compiled package, instead of a model."),
    Flag(
        ["--language"],
        section=_SECTION,
        metavar="NAME",
        help="Language of the audio, as a code or English name. Default: detected by the model.",
    ),
    Flag(["--task"], section=_SECTION, metavar="NAME", help="transcribe, or translate (into English)."),
    Flag(
        ["--prompt"],
        section=_SECTION,
        metavar="TEXT",
        help="What a language model should do with the audio. Default: its processor's request for a transcription.",
    ),
    Flag(
        ["timestamps", "--timestamps/--no-timestamps"],
        section=_SECTION,
        default=None,
        help="Include the times of segments. Default: for srt, vtt and long audio.",
    ),
    Flag(
        ["--generation-len"],
        section=_SECTION,
        type=int,
        metavar="N",
        help="Maximum new tokens per 30 seconds of audio.",
    ),
    Flag(
        ["form", "--format"],
        section=_SECTION,
        type=click.Choice(_FORMATS),
        default="txt",
        help="Plain text, subtitles, or JSON. [default: txt]",
    ),
    *LOGGING,
)


@click.command("transcribe", cls=Command)
@click.argument("files", metavar="FILE...", nargs=-1, shell_complete=complete_path)
@named_model_flags
@flags(*_FLAGS)
@compile_flags
@click.pass_obj
def command(
    out: Output,
    /,
    *,
    source: ModelSource | None,
    files: tuple[str, ...],
    package: str | None,
    form: Literal["txt", "srt", "vtt", "json"],
    compile_options: dict[str, Any],
    **spoken: Any,
) -> None:
    """Transcribe audio files.

    The model of --model-name is compiled as by infer, or opened from a package. Files have the model's sampling rate.
    """
    if not files:
        raise click.UsageError("No audio files.", click.get_current_context())
    if form in ("srt", "vtt") and len(files) > 1:
        raise OptionError(f"--format {form} is for one file, got {len(files)}.")
    if package is not None and source is not None:
        raise OptionError("Give either --model-name or --package.")
    folder = Path(package) if package is not None else _package(required(source), compile_options)
    transcripts = _transcripts(folder, files, form, spoken)
    if form == "json":
        described = [transcript.described() for transcript in transcripts]
        return out.json(described[0] if len(described) == 1 else described)
    for transcript in transcripts:
        out.write(transcript.write(form), end="")
    return None


def _package(source: ModelSource, compile_options: dict[str, Any]) -> Path:
    from QEfficient.tasks import TASKS

    model = source.load()  # its memory is freed before the package is opened
    check_options(model, compile_options)
    _check_task(model.task, TASKS[model.task].kind, getattr(model, "hears", True))
    return model.compile(**compile_options)


def _check_task(task: str, kind: str, hears: bool = True) -> None:
    if not hears or task not in ("ctc", "speech_seq2seq", "image_text_to_text"):
        raise OptionError(f"This model is {kind}, which takes no audio: qefficient infer answers prompts.")


def _transcripts(package: Path, files: tuple[str, ...], form: str, spoken: dict[str, Any]) -> list[Transcript]:
    from QEfficient.generation.package import from_package
    from QEfficient.generation.transcript import Segment, Transcript
    from QEfficient.tasks import TASKS

    with stage("Opening", package.name[:12]):
        compiled: Any = from_package(package)
    with compiled, stage("Listening", f"{len(files)} file{'s' if len(files) > 1 else ''}"):
        _check_task(compiled.task, TASKS[compiled.task].kind)
        if compiled.task == "ctc":
            _check_unset(spoken, "a CTC model")
            texts = compiled.transcribe(list(files))
            return [Transcript(text=text, segments=(Segment(start=0.0, end=0.0, text=text),)) for text in texts]
        if compiled.task == "image_text_to_text":
            _check_unset({name: spoken.pop(name) for name in ("task", "timestamps")}, "a language model that hears")
            answers: list[Transcript] = compiled.transcribe(list(files), **spoken)
            return answers
        _check_unset({"prompt": spoken.pop("prompt")}, "a speech recognition model")
        timestamps = spoken.pop("timestamps")
        if timestamps is None and form in ("srt", "vtt") and compiled.rules.first_timestamp is not None:
            timestamps = True
        transcripts: list[Transcript] = compiled.transcribe(list(files), return_timestamps=timestamps, **spoken)
        return transcripts


def _check_unset(spoken: dict[str, Any], kind: str) -> None:
    for name, value in spoken.items():
        if value is not None:
            raise OptionError(f"--{name.replace('_', '-')} is not for {kind}, which has no such thing.")


if __name__ == "__main__":
    run(command)
