"""The ``qefficient`` command. A subcommand is imported when it runs, so that help and errors are instant."""

from __future__ import annotations

from importlib import import_module
from typing import NoReturn

import click

from QEfficient.cloud.terminal import run
from QEfficient.errors import nearest
from QEfficient.version import __version__

COMMANDS = {
    "infer": "Load a model, compile it and answer prompts.",
    "transcribe": "Transcribe audio files.",
    "quantize": "Write a quantized checkpoint.",
    "finetune": "Fine-tune a language model or a classifier.",
    "export": "Export a model as an ONNX graph.",
    "compile": "Compile a model for a target.",
    "execute": "Answer prompts with a compiled package.",
    "inspect": "Show a model's structure and how each target would run it.",
    "verify": "Compare a compiled model with Hugging Face, token by token.",
    "eval": "Measure the perplexity of a model or a package on a text.",
    "bench": "Measure the speed of a model that generates, or of a package.",
    "doctor": "Show what works on this machine and what is missing.",
    "cache": "Manage the store of exported graphs and packages.",
}
"""Name -> first line of its help. Each is a module beside this one, with its ``command``."""


class LazyGroup(click.Group):
    """Commands by name, none of them imported before it runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"QEfficient.cloud.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS:
            ctx.fail(f"There is no command '{args[0]}'.{nearest(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=True)
@click.version_option(__version__, message="qefficient %(version)s")
def app() -> None:
    """Hugging Face transformers on Qualcomm Cloud AI 100, and on the CPU of this machine.

    MODEL is a model ID on the Hugging Face Hub, such as Qwen/Qwen2.5-0.5B-Instruct, a folder, or a
    GGUF file.
    """


def main() -> NoReturn:
    """The console script."""
    run(app, prog_name="qefficient")


if __name__ == "__main__":
    main()
