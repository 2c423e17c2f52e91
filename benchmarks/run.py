"""``python -m benchmarks.run``: ours beside the others, on this machine, in one go.

Everything is made here (checkpoints with random weights, each system's export) and kept in ``--work-dir``, so that
only the first run is long. Close other programs first: the report says how busy the machine was.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

import click

from benchmarks.embeddings import measure_embeddings
from benchmarks.generation import measure_generation
from benchmarks.images import measure_images
from benchmarks.machine import describe
from benchmarks.report import Part, measured_table, ratio_table, to_json
from benchmarks.settings import Settings
from benchmarks.shapes import SHAPES
from benchmarks.speech import measure_speech
from benchmarks.start import measure_start
from benchmarks.systems import SYSTEMS, System, choose
from benchmarks.texts import measure_texts
from QEfficient.cloud.terminal import Output, log_to_stderr, note, run
from QEfficient.errors import OptionError, nearest
from QEfficient.store.files import home

PARTS = ("generation", "start", "embeddings", "texts", "speech", "images")
_DEFAULT_SHAPES = ("qwen2.5-0.5b", "llama-3.2-1b")
_BUSY_LOAD = 0.5


class Names(click.ParamType):
    """Names with commas between them."""

    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        return value.split(",") if isinstance(value, str) else list(value)


def _names(flag: str, default: Collection[str], text: str) -> Callable[[Any], Any]:
    return click.option(flag, type=Names(), default=",".join(default), show_default=True, help=text)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110, "show_default": True})
@_names("--shapes", _DEFAULT_SHAPES, f"Of {', '.join(SHAPES)}.")
@_names("--systems", SYSTEMS, "Names, or patterns such as 'ours*'.")
@_names("--parts", PARTS, "What to measure.")
@click.option("--rounds", type=click.IntRange(1), default=7, help="Rounds that count; one more warms up.")
@click.option("--new-tokens", type=click.IntRange(16, 256), default=48, help="Tokens of each answer.")
@click.option("--prompt-len", type=click.IntRange(1, 768), default=512, help="Tokens of each prompt.")
@click.option("--threads", type=click.IntRange(1), default=2, help="Threads of every system.")
@click.option("--memory", type=float, default=18.0, help="GiB that the loaded systems may hold together.")
@click.option("--work-dir", type=click.Path(path_type=Path), help="What is kept.  [default: bench/ in $QEFF_HOME]")
@click.option("--output", type=click.Path(path_type=Path), help="JSON.  [default: results.json in --work-dir]")
@click.option("--quick", is_flag=True, help="The first shape only, one round, short answers.")
def main(
    shapes: list[str], systems: list[str], parts: list[str], quick: bool, output: Path | None, **sizes: Any
) -> None:
    """Measure this library beside the others: prefill, decode, start, embeddings, texts, speech, images."""
    settings = _settings(**sizes, quick=quick)
    os.environ["QEFF_HOME"] = str(settings.work_dir / "store")  # what the workers export stays with the rest
    for given, known in ((parts, PARTS), (shapes, SHAPES)):
        _check(given, known)
    work = _work(parts, shapes[:1] if quick else shapes, choose(systems), settings)
    _measure(work, settings, output or settings.work_dir / "results.json")


def _settings(
    *, rounds: int, new_tokens: int, prompt_len: int, threads: int, memory: float, work_dir: Path | None, quick: bool
) -> Settings:
    return Settings(
        work_dir=(work_dir or home() / "bench").expanduser().resolve(),
        num_rounds=1 if quick else rounds,
        num_new_tokens=16 if quick else new_tokens,
        prompt_len=prompt_len,
        num_threads=threads,
        memory_bytes=int(memory * (1 << 30)),
    )


def _check(names: list[str], known: Collection[str]) -> None:
    for name in names:
        if name not in known:
            raise OptionError(f"There is no '{name}'.{nearest(name, known)} Known: {', '.join(known)}.")


def _work(parts: list[str], shapes: list[str], systems: list[System], settings: Settings) -> list[Callable[[], Part]]:
    """What there is to measure, in order."""
    of_shapes = {"generation": measure_generation, "start": measure_start}
    work: list[Callable[[], Part]] = [
        partial(measure, SHAPES[name], systems, settings)
        for part, measure in of_shapes.items()
        if part in parts
        for name in shapes
    ]
    of_others = {
        "embeddings": measure_embeddings,
        "texts": measure_texts,
        "speech": measure_speech,
        "images": measure_images,
    }
    return [*work, *(partial(measure, settings) for part, measure in of_others.items() if part in parts)]


def _measure(work: list[Callable[[], Part]], settings: Settings, path: Path) -> None:
    """Do the work, print each part's tables, and write the report anew after each: hours are not lost to the last."""
    log_to_stderr(logging.INFO)
    out = Output(sys.stdout)
    machine = describe(settings.num_threads)
    _show_machine(out, machine)
    report: dict[str, Any] = {"machine": machine, "settings": _plain(settings), "parts": []}
    path.parent.mkdir(parents=True, exist_ok=True)
    for measure in work:
        part = measure()
        for table in (measured_table(part), ratio_table(part)):
            out.write(f"\n{table.title}")
            out.table(table.columns, table.rows)
        report["parts"].append(to_json(part))
        path.write_text(json.dumps(report, indent=1))
    note(f"Written: {path}")


def _show_machine(out: Output, machine: dict[str, Any]) -> None:
    flags = " ".join(machine["cpu_flags"])
    out.write(f"{machine['cpu']}, {machine['num_cpus']} CPUs, {machine['num_threads']} threads; {flags}")
    out.write(", ".join(f"{name} {version or 'missing'}" for name, version in machine["versions"].items()))
    if machine["load_average"] > _BUSY_LOAD:
        note(f"Other programs are running (load {machine['load_average']:.1f}): the figures will be noise.")


def _plain(settings: Settings) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(settings).items()}


if __name__ == "__main__":
    run(main, prog_name="python -m benchmarks.run")
