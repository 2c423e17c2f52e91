"""``qefficient infer``: from a model to answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from QEfficient.cloud.answer import answer
from QEfficient.cloud.click_options import VERBOSE, flags
from QEfficient.cloud.generate_args import Question, question_flags
from QEfficient.cloud.model_args import ModelSource, check_options, compile_flags, model_flags, required
from QEfficient.cloud.terminal import Command, Output, run


@click.command("infer", cls=Command)
@model_flags
@question_flags
@compile_flags
@flags(VERBOSE)
@click.pass_obj
def command(out: Output, /, *, source: ModelSource | None, question: Question, compile_options: dict[str, Any]) -> None:
    """Load a model, compile it and answer prompts.

    The package is kept in the store: the next time, nothing is exported or compiled.
    """
    answer(out, _package(required(source), question, compile_options), question)


def _package(source: ModelSource, question: Question, compile_options: dict[str, Any]) -> Path:
    model = source.load()  # its memory is freed before the package is opened
    check_options(model, compile_options)
    question.check_task(model.task)
    return model.compile(**compile_options)


if __name__ == "__main__":
    run(command)
