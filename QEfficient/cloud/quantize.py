"""``qefficient quantize``: from a checkpoint to a quantised one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from QEfficient.cloud.click_options import JSON, LOGGING, Flag, flags, option_flags
from QEfficient.cloud.model_args import ModelSource, check_importable, model_flags, required
from QEfficient.cloud.terminal import Command, Output, note, run
from QEfficient.errors import OptionError
from QEfficient.progress import stage
from QEfficient.quantization.options import QuantizeOptions

if TYPE_CHECKING:
    from QEfficient.quantization.report import LayerError, QuantizationReport

_FLAGS = (
    Flag(["output", "-o", "--output"], metavar="FOLDER", help="Folder for the checkpoint, new or empty."),
    Flag(
        ["--ignore"],
        multiple=True,
        metavar="PATTERN",
        help="Linear layers not to quantize, as in '*.down_proj'; repeatable.",
    ),
    Flag(["--calibration"], metavar="FILE", help="Text similar to what the model will read, for awq and gptq."),
    Flag(["--eval-text"], metavar="FILE", help="Text to measure perplexity on before and after."),
    Flag(["--plot"], metavar="FILE", help="PNG file for a plot of the layers' errors; needs matplotlib."),
    JSON,
    *LOGGING,
)


@click.command("quantize", cls=Command)
@model_flags
@option_flags("options", "Quantization", QuantizeOptions)
@flags(*_FLAGS)
@click.pass_obj
def command(
    out: Output,
    /,
    *,
    source: ModelSource | None,
    output: str | None,
    ignore: tuple[str, ...],
    calibration: str | None,
    eval_text: str | None,
    plot: str | None,
    as_json: bool,
    options: dict[str, Any],
) -> None:
    """Write a quantized checkpoint.

    It has the layout of compressed-tensors, which other libraries load too. The weights of linear layers are
    quantized; the output head, the embeddings and all else stay as they are. Prints the error of each layer.
    """
    chosen = required(source)
    if output is None:
        raise click.UsageError("No output folder: use -o FOLDER.", click.get_current_context())
    QuantizeOptions.parse(options)
    _check_plot(plot)
    if "pooling" in chosen.load_options:
        raise OptionError("--pooling is for compiling.")
    check_importable()
    with stage("Importing", "PyTorch and transformers"):
        from QEfficient.quantization.quantize import quantize
    asked = {"ignore": ignore, "calibration": calibration, "eval_text": eval_text, **options, **chosen.load_options}
    report = quantize(chosen.name, output, **asked)
    if plot is not None:
        _draw(report, Path(plot))
    if as_json:
        return out.json(report.to_dict())
    out.table(["Layer", "Method", "Weight error", "Output error"], [_row(layer) for layer in report.layers])
    out.write()
    return out.write(str(report))


def _check_plot(file: str | None) -> None:
    if file is not None and not Path(file).absolute().parent.is_dir():
        raise OptionError(f"--plot {file}: there is no such folder.")


def _draw(report: QuantizationReport, path: Path) -> None:
    from QEfficient.quantization.report import draw

    try:
        draw(report, path)
    except ImportError:
        note("warning: there is no plot without matplotlib: pip install 'qefficient[plots]'.")


def _row(layer: LayerError) -> list[str]:
    output = "" if layer.output_error is None else f"{layer.output_error:.3g}"
    return [layer.name, layer.method, f"{layer.weight_error:.3g}", output]


if __name__ == "__main__":
    run(command)
