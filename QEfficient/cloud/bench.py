"""``qefficient bench``: how fast is a model, or a package of it, on this machine?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import click

from QEfficient.cloud.click_options import JSON, LOGGING, Flag, flags
from QEfficient.cloud.eval import package_in
from QEfficient.cloud.generate_args import TextSupport
from QEfficient.cloud.model_args import ModelSource, compile_flags, model_flags, required
from QEfficient.cloud.settings_file import CONFIG
from QEfficient.cloud.stored_package import stored_or_compiled
from QEfficient.cloud.terminal import Command, Output, peak_memory_bytes, run
from QEfficient.errors import OptionError
from QEfficient.progress import counted
from QEfficient.store.files import readable_bytes
from QEfficient.tasks import TASKS

if TYPE_CHECKING:
    from QEfficient.generation.tasks.causal_lm import CompiledDecoder

_FIRST_ID = 3
"""Random prompts leave out the lowest ids, which are often special tokens."""
_FLAGS = (
    Flag(["--prompt-tokens"], type=click.IntRange(1), default=512, show_default=True, help="Tokens per prompt."),
    Flag(["--new-tokens"], type=click.IntRange(2), default=64, show_default=True, help="New tokens per prompt."),
    Flag(["--num-prompts"], type=click.IntRange(1), default=1, show_default=True, help="Prompts per round."),
    Flag(["--rounds"], type=click.IntRange(1), default=3, show_default=True, help="Rounds; results are medians."),
    CONFIG,
    JSON,
    *LOGGING,
)


@dataclass(frozen=True)
class Load:
    """What one round generates."""

    prompt_tokens: int
    new_tokens: int
    num_prompts: int


@click.command("bench", cls=Command)
@model_flags
@flags(*_FLAGS)
@compile_flags
@click.pass_obj
def command(
    out: Output,
    /,
    *,
    source: ModelSource | None,
    rounds: int,
    as_json: bool,
    compile_options: dict[str, Any],
    **load: int,
) -> None:
    """Measure the speed of a model that generates, or of a package.

    MODEL may also be a package's folder. Prompts are random tokens, and the first round is not counted.
    """
    chosen = required(source)
    folder = package_in(chosen) or stored_or_compiled(chosen, compile_options, _check_task)
    figures = _measure(folder, compile_options if package_in(chosen) else {}, Load(**load), rounds)
    if as_json:
        return out.json({"package": str(folder), **load, "rounds": rounds, **figures})
    return out.pairs(
        {
            "Prefill": f"{figures['prefill_tokens_per_s']:.1f} tokens/s",
            "Decode": f"{figures['decode_tokens_per_s']:.1f} tokens/s",
            "Time to first token": f"{figures['time_to_first_token']:.3f} s",
            "Peak memory": readable_bytes(figures["peak_memory_bytes"]),
        }
    )


def _check_task(task: str, reads: TextSupport) -> None:
    """
    Raises:
        OptionError: models of this task do not generate from tokens.
    """
    if not TASKS[task].load_compiled().takes_chat:
        raise OptionError(f"This model is {TASKS[task].kind}: bench is for models that generate text.")


def _measure(folder: Path, settings: dict[str, Any], load: Load, rounds: int) -> dict[str, Any]:
    from QEfficient.generation.package import from_package
    from QEfficient.generation.tasks.causal_lm import CompiledDecoder

    with from_package(folder, **{name: value for name, value in settings.items() if name != "target"}) as compiled:
        if not isinstance(compiled, CompiledDecoder):
            raise OptionError(f"{folder} is a package of another kind: bench is for models that generate text.")
        with counted("Measuring", folder.name[:12], rounds + 1) as done:
            measured = [_round(compiled, load, seed, done) for seed in range(rounds + 1)][1:]
    medians = {name: median(each[name] for each in measured) for name in measured[0]}
    return {**medians, "peak_memory_bytes": peak_memory_bytes()}


def _round(compiled: CompiledDecoder[Any], load: Load, seed: int, done: Any) -> dict[str, float]:
    """Generate from prompts that no earlier round had, since caches would help there."""
    import numpy as np

    vocab_size = compiled.engine.session.info.vocab_size
    ids = np.random.default_rng(seed).integers(
        min(_FIRST_ID, vocab_size - 1), vocab_size, (load.num_prompts, load.prompt_tokens)
    )
    info = compiled.generate(ids.tolist(), max_new_tokens=load.new_tokens, eos_token_id=[-1], do_sample=False)
    done()
    return {
        "prefill_tokens_per_s": ids.size / info.perf_metrics.prefill_time,
        "decode_tokens_per_s": info.perf_metrics.decode_perf,
        "time_to_first_token": median(info.first_token_times),
    }


if __name__ == "__main__":
    run(command)
