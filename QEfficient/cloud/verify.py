"""``qefficient verify``: does the compiled model answer as Hugging Face does?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from QEfficient.cloud.click_options import JSON, LOGGING, Flag, flags
from QEfficient.cloud.model_args import ModelSource, check_options, compile_flags, model_flags, required
from QEfficient.cloud.settings_file import CONFIG
from QEfficient.cloud.terminal import Command, Output, run
from QEfficient.errors import OptionError
from QEfficient.generation.prompts import read_prompts
from QEfficient.progress import long_stage
from QEfficient.targets import choose_target
from QEfficient.tasks import TASKS

PROMPTS = (
    "My name is",
    "The capital of France is",
    "Once upon a time there was an engineer who",
    "1 2 3 4 5 6 7 8",
)
"""Default prompts, of several lengths, so that they start to decode at different steps."""
_FLAGS = (
    Flag(["prompt", "-p", "--prompt"], multiple=True, metavar="TEXT", help="A prompt; repeatable."),
    Flag(
        ["--image-path"],
        multiple=True,
        metavar="FILE",
        help="An image for the prompt; repeatable. With several prompts, one image per prompt.",
    ),
    Flag(["--prompts-txt-file-path"], metavar="FILE", help="A file with one prompt per line, in UTF-8 or UTF-16."),
    Flag(
        ["--generation-len"],
        type=int,
        default=32,
        show_default=True,
        metavar="N",
        help="Tokens to compare per prompt.",
    ),
    Flag(
        ["--node-precision-info-out"],
        metavar="FILE",
        help="File to list the nodes in that must stay in fp32 if fp16 overflows, for --node-precision-info.",
    ),
    JSON,
    CONFIG,
    *LOGGING,
)


@click.command("verify", cls=Command)
@model_flags
@flags(*_FLAGS)
@compile_flags
@click.pass_obj
def command(
    out: Output,
    /,
    *,
    source: ModelSource | None,
    prompt: tuple[str, ...],
    prompts_txt_file_path: str | None,
    image_path: tuple[str, ...],
    generation_len: int,
    node_precision_info_out: str | None,
    as_json: bool,
    compile_options: dict[str, Any],
) -> int:
    """Compare a compiled model with Hugging Face, token by token.

    Both decode greedily. The report is printed and stored with the package; the exit code is 1 if they differ by
    more than the noise of fp16. For a card it also says where fp16 overflows, and what to do. For exact arithmetic
    set --precision fp32.
    """
    _check_output(node_precision_info_out, compile_options.get("target"))
    model = required(source).load()
    check_options(model, compile_options)
    if not hasattr(model, "verify"):
        raise OptionError(f"{model.model_name} is not a causal language model, so there are no tokens to compare.")
    if image_path and not TASKS[model.task].load_compiled().takes_images:
        raise OptionError(f"{model.model_name} sees no images: leave --image-path out.")
    images = {"images": [*image_path]} if image_path else {}
    texts = list(prompt) or (None if prompts_txt_file_path is not None else list(PROMPTS))
    prompts = read_prompts(texts, prompts_txt_file_path)
    package = model.compile(**compile_options)
    with long_stage("Comparing", f"{len(prompts)} prompts with Hugging Face"):
        report = model.verify(
            prompts, generation_len=generation_len, node_precision_out=node_precision_info_out, **images
        )
    if as_json:
        out.json({"package": str(package), **report.to_dict()})
    else:
        out.write(str(report))
    return 1 if report.has_fault else 0


def _check_output(file: str | None, target: str | None) -> None:
    """Before the model is loaded, which takes its time."""
    if file is not None:
        from QEfficient.verify.numeric_check import check_output

        check_output(choose_target(target), Path(file))


if __name__ == "__main__":
    run(command)
