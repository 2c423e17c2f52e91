"""``qefficient eval``: how well does a model, or a package of it, predict a text?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from QEfficient.cloud.click_options import JSON, LOGGING, Flag, as_flag, flags
from QEfficient.cloud.model_args import ModelSource, check_options, compile_flags_or, model_flags, required
from QEfficient.cloud.settings_file import CONFIG
from QEfficient.cloud.terminal import Command, Output, run
from QEfficient.errors import OptionError

if TYPE_CHECKING:
    from QEfficient.verify.perplexity import PerplexityReport

REFERENCE = "hf"
"""The target that stands for Hugging Face's model itself."""
_FLAGS = (
    Flag(["--text"], metavar="FILE", help="The text, in UTF-8 or UTF-16."),
    Flag(
        ["--stride"],
        type=int,
        metavar="N",
        help="Tokens between the starts of two windows. Default: --ctx-len, so that windows do not overlap.",
    ),
    Flag(["--max-tokens"], type=int, metavar="N", help="Use only the first N tokens of the text."),
    JSON,
    CONFIG,
    *LOGGING,
)


@click.command("eval", cls=Command)
@model_flags
@flags(*_FLAGS)
@compile_flags_or(REFERENCE)
@click.pass_obj
def command(
    out: Output,
    /,
    *,
    source: ModelSource | None,
    text: str | None,
    stride: int | None,
    max_tokens: int | None,
    as_json: bool,
    compile_options: dict[str, Any],
) -> None:
    """Measure the perplexity of a model or a package on a text.

    MODEL may also be a package's folder. The text is read in windows of --ctx-len tokens. --target hf evaluates
    Hugging Face's model in float32, and compiles nothing.
    """
    chosen = required(source)
    content = _read(text)
    lens = {"stride": stride, "max_tokens": max_tokens}
    _check_lens(compile_options, **lens)
    package = package_in(chosen)
    if package is not None:
        described, report = _of_package(package, content, lens, compile_options)
    else:
        described, report = _of_model(chosen, content, lens, compile_options)
    if as_json:
        out.json({**described, **report.to_dict()})
    else:
        out.write(str(report))


def _read(file: str | None) -> str:
    """The text, checked before a model is loaded."""
    from QEfficient.generation.prompts import read_text
    from QEfficient.verify.perplexity import check_not_empty

    if file is None:
        raise click.UsageError("Which text? Use --text FILE.", click.get_current_context())
    text = read_text(file, "The text")
    check_not_empty(text)
    return text


def _check_lens(options: dict[str, Any], stride: int | None, max_tokens: int | None) -> None:
    from QEfficient.verify.perplexity import check_lens

    check_lens(options.get("ctx_len"), stride, max_tokens)


def package_in(source: ModelSource) -> Path | None:
    """The folder of a package, if MODEL is one."""
    from QEfficient.store.manifest import MANIFEST_NAME

    folder = Path(source.name)
    is_package = (folder / MANIFEST_NAME).is_file() and not (folder / "config.json").exists()
    return folder if is_package else None


def _of_package(
    folder: Path, text: str, lens: dict[str, int | None], options: dict[str, Any]
) -> tuple[dict[str, str], PerplexityReport]:
    from QEfficient.generation.package import from_package, read_body
    from QEfficient.generation.tasks.causal_lm import CompiledCausalLM
    from QEfficient.store.manifest import read_artifact
    from QEfficient.verify.perplexity import measure_package

    body = read_body(read_artifact(folder))
    if body.task != "causal_lm":
        raise _not_causal(f"The package {folder}")
    if options.get("target", body.target) != body.target:
        raise OptionError(f"--target {options['target']}: {folder} was compiled for '{body.target}'.")
    settings = {name: value for name, value in options.items() if name != "target"}
    with from_package(folder, **settings) as compiled:
        assert isinstance(compiled, CompiledCausalLM)
        return {"package": str(folder), "target": body.target}, measure_package(compiled, text, **lens)


def _of_model(
    source: ModelSource, text: str, lens: dict[str, int | None], options: dict[str, Any]
) -> tuple[dict[str, str], PerplexityReport]:
    is_reference = options.get("target") == REFERENCE
    if is_reference:
        _check_reference(options)
    model: Any = source.load()
    if not hasattr(model, "evaluate"):
        raise _not_causal(model.model_name)
    check_options(model, options)
    if is_reference:
        report = model.evaluate(text, reference=True, ctx_len=options.get("ctx_len"), **lens)
        return {"model": source.name, "target": REFERENCE}, report
    package = model.compile(**options)
    with model:
        report = model.evaluate(text, **lens)
        return {"package": str(package), "target": model._open().target.name}, report


def _check_reference(options: dict[str, Any]) -> None:
    for name in options:
        if name not in ("target", "ctx_len"):
            raise OptionError(f"{as_flag(name)} is for compiling, and --target {REFERENCE} compiles nothing.")


def _not_causal(what: str) -> OptionError:
    return OptionError(f"{what} is not a causal language model, so it gives no probabilities of the next token.")


if __name__ == "__main__":
    run(command)
