"""``qefficient infer``: from a model to answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import click

from QEfficient.cloud.answer import answer
from QEfficient.cloud.click_options import LOGGING, flags
from QEfficient.cloud.generate_args import Question, question_flags
from QEfficient.cloud.model_args import (
    ADAPTER,
    ModelSource,
    compile_flags,
    model_flags,
    read_adapters,
    required,
)
from QEfficient.cloud.settings_file import CONFIG
from QEfficient.cloud.stored_package import stored_or_compiled
from QEfficient.cloud.terminal import Command, Output, run
from QEfficient.compat.commands import as_function
from QEfficient.errors import OptionError


@click.command("infer", cls=Command)
@model_flags
@question_flags
@compile_flags
@flags(ADAPTER, CONFIG, *LOGGING)
@click.pass_obj
def command(
    out: Output,
    /,
    *,
    source: ModelSource | None,
    question: Question,
    adapter: tuple[str, ...],
    compile_options: dict[str, Any],
) -> None:
    """Load a model, compile it and answer prompts.

    The package is cached, so that the next run exports and compiles nothing.
    """
    adapters = read_adapters(adapter)
    question = _with_only(question, adapters)
    answer(out, stored_or_compiled(required(source, adapters), compile_options, question.check), question)


def _with_only(question: Question, adapters: Mapping[str, str]) -> Question:
    """``question`` with the adapter, if there is one and no other is asked for.

    Raises:
        OptionError: there are several.
    """
    if question.adapters or not adapters:
        return question
    if len(adapters) > 1:
        raise OptionError(
            f"Several adapters ({', '.join(adapters)}): select one with --use-adapter, once or per prompt."
        )
    return replace(question, adapters=[*adapters])


main = as_function(command)

if __name__ == "__main__":
    run(command)
