"""``qefficient execute``: from a package to answers, without torch and transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from QEfficient.cloud.answer import answer
from QEfficient.cloud.click_options import LOGGING, DeviceGroup, Flag, flags
from QEfficient.cloud.completion import complete_path
from QEfficient.cloud.generate_args import Question, question_flags
from QEfficient.cloud.settings_file import CONFIG
from QEfficient.cloud.terminal import Command, Output, note, run
from QEfficient.compat.commands import as_function
from QEfficient.contract import PackageBody
from QEfficient.errors import OptionError

_UPSTREAM = "Flags of upstream"
_FLAGS = (
    Flag(["--qpc-path"], section=_UPSTREAM, metavar="DIR", help="The same as PACKAGE."),
    Flag(
        ["--model-name"],
        section=_UPSTREAM,
        metavar="MODEL",
        help="Hub model whose tokenizer to use, for a package without one.",
    ),
    Flag(["--local-model-dir"], section=_UPSTREAM, metavar="DIR", help="Local folder with that tokenizer."),
    Flag(["--cache-dir"], section=_UPSTREAM, metavar="DIR", help="Where files of the Hub are cached."),
    Flag(["token", "--token", "--hf-token"], section=_UPSTREAM, metavar="TOKEN", help="For gated models."),
    Flag(["--full-batch-size"], section=_UPSTREAM, type=int, metavar="N", help="Must match the package."),
    Flag(
        ["--device-group"],
        section=_UPSTREAM,
        type=DeviceGroup(),
        metavar="[N,N]",
        help="Device numbers of the cards to run on.",
    ),
    CONFIG,
    *LOGGING,
)


@click.command("execute", cls=Command)
@click.argument("package", required=False, shell_complete=complete_path)
@question_flags
@flags(*_FLAGS)
@click.pass_obj
def command(
    out: Output,
    /,
    *,
    package: str | None,
    qpc_path: str | None,
    question: Question,
    full_batch_size: int | None,
    device_group: list[int] | None,
    **tokenizer: str | None,
) -> None:
    """Answer prompts with a compiled package.

    PACKAGE is the folder that compile made, or a copy of it. Its model is not needed.
    """
    if (package is None) == (qpc_path is None):
        raise click.UsageError("Give one package folder.", click.get_current_context())
    folder = Path(package or qpc_path or "")
    body = _body(folder)
    _check_slots(body, full_batch_size)
    if device_group is not None and body.target == "cpu":
        note("warning: device_group: no effect on target 'cpu'.")
    answer(out, folder, question, _tokenizer(folder, **tokenizer))


def _body(folder: Path) -> PackageBody:
    from QEfficient.generation.package import read_body
    from QEfficient.store.manifest import read_artifact

    return read_body(read_artifact(folder))


def _check_slots(body: PackageBody, full_batch_size: int | None) -> None:
    decoder = body.session.get("decoder", body.session)
    slots = decoder.get("num_slots") if isinstance(decoder, dict) else None
    if full_batch_size not in (None, slots):
        raise OptionError(
            f"--full-batch-size {full_batch_size}: the package was compiled for {slots}. Compile another one."
        )


def _tokenizer(
    folder: Path, model_name: str | None, local_model_dir: str | None, cache_dir: str | None, token: str | None
) -> Any | None:
    from QEfficient.generation.tokenizer import FOLDER, has_tokenizer

    source = local_model_dir or model_name
    if source is None or has_tokenizer(folder / FOLDER):
        return None
    from QEfficient.transformers.checkpoint.load import load_tokenizer, resolve

    return load_tokenizer(resolve(source, cache_dir=cache_dir, token=token))


main = as_function(command)

if __name__ == "__main__":
    run(command)
