"""``qefficient finetune``: from a model and examples to a better model."""

from __future__ import annotations

import logging
import signal
from typing import Any

import click

from QEfficient.cloud.click_options import JSON, LOGGING, Flag, as_flag, flags, option_flags
from QEfficient.cloud.model_args import ModelSource, model_flags, required
from QEfficient.cloud.terminal import Command, Output, note, run
from QEfficient.compat.commands import as_function
from QEfficient.errors import OptionError
from QEfficient.finetune.config_file import MODEL_NAME, read_config
from QEfficient.finetune.settings import FinetuneOptions
from QEfficient.progress import stage

_CONFIG = Flag(
    ["--config"], metavar="FILE", help="Settings in YAML, flat or in upstream's sections; flags override them."
)
_NO_EFFECT = {
    "run_validation": "validation runs where there are validation data",
    "save_model": "the result is always saved",
    "save_metrics": "metrics are always saved",
    "peft_method": "the method is LoRA",
    "enable_ddp": "processes that torchrun starts are used",
    "enable_sorting_for_ddp": "rows keep their order",
    "grad_scaler": "fp16 always scales the loss",
    "dump_logs": "the log is stderr",
    "log_level": "--verbose logs each stage",
}
"""Upstream's flags that say what happens anyway."""
_INSTEAD = {
    "use_autocast": "give --precision bf16 or fp16",
    "gamma": "give --lr-scheduler",
    "custom_dataset_config": "write the rows into a JSONL file, and give --dataset FILE",
    "peft_config_file": "give --lora-r, --lora-alpha, --lora-dropout and --target-modules, or --config FILE",
    "from_peft_checkpoint": "give --resume with the --output-dir of the run",
    "tokenizer_name": "save the tokenizer into the model's folder",
    "convergence_counter": "give --max-train-step",
    "convergence_loss": "give --max-train-step",
    "use_profiler": "put torch.profiler around QEfficient.finetune.run.finetune",
    "enable_pp": "start several processes with torchrun",
    "num_pp_stages": "start several processes with torchrun",
    "opByOpVerifier": "compare a run on --device cpu",
}
"""Upstream's flags that are refused, and what to use instead."""
_SWITCHES = {"run_validation", "save_metrics", "save_model", "enable_ddp", "enable_sorting_for_ddp", "grad_scaler"} | {
    "dump_logs", "use_autocast", "use_profiler", "enable_pp", "opByOpVerifier"
}  # fmt: skip
_UPSTREAM = [Flag([name, as_flag(name)], hidden=True, is_flag=name in _SWITCHES) for name in {**_NO_EFFECT, **_INSTEAD}]


@click.command("finetune", cls=Command)
@model_flags
@option_flags("options", "Fine-tuning", FinetuneOptions)
@flags(_CONFIG, JSON, *LOGGING, *_UPSTREAM)
@click.pass_obj
def command(
    out: Output,
    /,
    *,
    source: ModelSource | None,
    options: dict[str, Any],
    config: str | None,
    as_json: bool,
    **upstream: str | bool | None,
) -> None:
    """Fine-tune a language model or a classifier.

    Writes checkpoints, metrics.jsonl, loss.png and, in the folder 'model', the result. SIGTERM saves a checkpoint and
    ends with code 143; --resume continues. On several devices: torchrun -m QEfficient.cloud.finetune.
    """
    _check_upstream({name: value for name, value in upstream.items() if value})
    settings = {**(read_config(config) if config is not None else {}), **options}
    name = settings.pop(MODEL_NAME, None)
    chosen = required(source if source is not None or name is None else ModelSource(name))
    if unusable := {"pooling", "gguf_file"} & chosen.load_options.keys():
        raise OptionError(f"{as_flag(unusable.pop())} is for compiling, not for training.")
    FinetuneOptions.parse(settings)
    with stage("Importing", "PyTorch and transformers"):
        from transformers.utils.logging import disable_progress_bar

        from QEfficient.finetune.processes import is_main_process, part
        from QEfficient.finetune.run import finetune
    disable_progress_bar()  # it would draw over ours
    if not is_main_process():  # each process of a run says the same
        logging.getLogger("QEfficient").setLevel(logging.ERROR)
    report = finetune(chosen.name, **settings, **chosen.load_options)
    part()
    if as_json and is_main_process():
        out.json(report.to_dict())
    elif is_main_process():
        out.write(str(report))
    if report.stopped_by is not None:
        raise click.exceptions.Exit(128 + signal.SIGTERM)


def _check_upstream(values: dict[str, str | bool | None]) -> None:
    for name, value in values.items():
        if name in _INSTEAD:
            raise OptionError(f"{as_flag(name)} is not here: {_INSTEAD[name]}.")
        if name == "peft_method" and value != "lora":
            raise OptionError(f"--peft-method {value}: the method is lora.")
        note(f"warning: {as_flag(name)}: no effect, {_NO_EFFECT[name]}.")


main = as_function(command)

if __name__ == "__main__":
    run(command)
