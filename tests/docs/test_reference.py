"""Options, names, errors, commands and claims of the documentation are those of the code."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from types import FunctionType
from typing import Any

import pytest
import tiny_models
from docs.blocks import ALL_TEXTS, ROOT, SOURCE, blocks, commands, prose, section

import QEfficient
from QEfficient import errors
from QEfficient.finetune.settings import FinetuneOptions
from QEfficient.generation.text_options import EncodeOptions, PredictOptions, RankOptions, TextOptions
from QEfficient.generation_options import GenerationOptions
from QEfficient.options import (
    CausalLMCompileOptions,
    CompileOptions,
    CTCCompileOptions,
    EncoderCompileOptions,
    ImageTextToTextCompileOptions,
    Options,
    SamplingOptions,
    Seq2SeqLMCompileOptions,
    SpeechSeq2SeqCompileOptions,
    Vision2SeqCompileOptions,
)
from QEfficient.quantization.options import QuantizeOptions

README = ROOT / "README.md"
PYTHON_API = (SOURCE / "python_api.md").read_text(encoding="utf-8")
ADDING_A_TASK = (SOURCE / "adding_a_task.md").read_text(encoding="utf-8")
COMMAND_LINE = (SOURCE / "command_line.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("cls", "base"),
    [
        (CompileOptions, None),
        (CausalLMCompileOptions, CompileOptions),
        (EncoderCompileOptions, CompileOptions),
        (ImageTextToTextCompileOptions, CausalLMCompileOptions),
        (Seq2SeqLMCompileOptions, CompileOptions),
        (CTCCompileOptions, CompileOptions),
        (SpeechSeq2SeqCompileOptions, CompileOptions),
        (Vision2SeqCompileOptions, CompileOptions),
        (SamplingOptions, None),
        (GenerationOptions, SamplingOptions),
        (EncodeOptions, None),
        (PredictOptions, TextOptions),
        (RankOptions, TextOptions),
        (QuantizeOptions, None),
        (FinetuneOptions, None),
    ],
)
def test_option_tables_are_those_of_the_code(cls: type[Options], base: type[Options] | None) -> None:
    assert section(SOURCE / "python_api.md", f"options: {cls.__name__}") == option_table(cls, base)


def option_table(cls: type[Options], base: type[Options] | None) -> str:
    """The fields that ``cls`` has and ``base`` has not."""
    inherited = {field.name for field in fields(base)} if base is not None else set()
    rows = [_row(cls, field) for field in fields(cls) if field.name not in inherited]
    return "\n".join(["| Option | Default | Meaning |", "| --- | --- | --- |", *rows])


def _row(cls: type[Options], field: Field[Any]) -> str:
    default = "{}" if field.default is MISSING else repr(field.default)
    return f"| `{field.name}` | `{default}` | {' '.join(cls.help(field.name).split())} |"


def test_public_names_are_documented() -> None:
    assert not [public for public in QEfficient.__all__ if f"`{public}" not in PYTHON_API]


def test_public_methods_are_documented() -> None:
    from QEfficient.generation.tasks.causal_lm import CompiledCausalLM
    from QEfficient.generation.tasks.encoder import CompiledEncoder

    classes = [QEfficient.QEFFAutoModelForCausalLM, QEfficient.QEFFAutoModel, QEfficient.QEFFCommonLoader]
    for cls in (*classes, CompiledCausalLM, CompiledEncoder):
        documented = PYTHON_API + ADDING_A_TASK
        assert not [m for m in _methods(cls) if f"`{m}(" not in documented and f"`{m}`" not in documented], cls.__name__


def _methods(cls: type) -> Iterator[str]:
    kinds = (FunctionType, classmethod, staticmethod)
    for base in cls.__mro__:
        if base.__module__.startswith("QEfficient."):
            members = vars(base).items()
            yield from (name for name, value in members if isinstance(value, kinds) and not name.startswith("_"))


def test_methods_of_models_with_adapters_are_documented() -> None:
    adapters = (SOURCE / "adapters.md").read_text(encoding="utf-8")
    for cls in (QEfficient.QEFFAutoLoraModelForCausalLM, QEfficient.QEFFAutoPeftModelForCausalLM):
        methods = [method for base in cls.__mro__ if "peft" in base.__module__ for method in vars(base)]
        public = [method for method in methods if not method.startswith("_")]
        assert public
        assert not [method for method in public if f"`{method}" not in adapters + ADDING_A_TASK], cls.__name__


def test_results_are_documented() -> None:
    from QEfficient.finetune.report import FinetuneReport
    from QEfficient.quantization.report import LayerError, QuantizationReport
    from QEfficient.verify.parity import ParityReport, PromptParity
    from QEfficient.verify.perplexity import PerplexityReport

    reports = (ParityReport, PromptParity, PerplexityReport, QuantizationReport, LayerError, FinetuneReport)
    for cls in (QEfficient.CloudAI100ExecInfo, QEfficient.PerfMetrics, *reports):
        assert not [field.name for field in fields(cls) if f"`{field.name}`" not in PYTHON_API], cls.__name__


def test_error_tree_is_that_of_the_code() -> None:
    shown = next(block.text for block in blocks(SOURCE / "python_api.md") if block.text.startswith("QEffError"))
    tree = inspect.cleandoc(errors.__doc__ or "").partition("QEffError")[2].partition("\n\n")[0]
    assert shown.split() == ["QEffError", *tree.split()]
    classes = [item for item in vars(errors).values() if inspect.isclass(item) and issubclass(item, errors.QEffError)]
    assert not [cls.__name__ for cls in classes if cls.__name__ not in shown]


def test_environment_variables_are_documented() -> None:
    sources = [path.read_text(encoding="utf-8") for path in ROOT.glob("QEfficient/**/*.py")]
    used = {variable for source in sources for variable in re.findall(r"QEFF_[A-Z_]+", source)}
    assert used
    assert not [variable for variable in used if f"`{variable}`" not in PYTHON_API]


def _commands() -> dict[str, Any]:
    """Every command by its words: ``cache ls``."""
    from click import Context

    from QEfficient.cloud.app import COMMANDS, app

    found: dict[str, Any] = {}
    for word in COMMANDS:
        found[word] = app.get_command(Context(app), word)
        found |= {f"{word} {sub}": inner for sub, inner in sorted(getattr(found[word], "commands", {}).items())}
    return found


def _flags(command: Any) -> list[tuple[str, ...]]:
    """The spellings of each flag that a command shows."""
    shown = [param for param in command.params if not getattr(param, "hidden", False)]
    spellings = [(*param.opts, *param.secondary_opts) for param in shown]
    return [flags for flags in spellings if flags[0].startswith("-")]


def test_every_command_has_a_section() -> None:
    titles = re.findall(r"^##+ qefficient (.+)$", COMMAND_LINE, re.MULTILINE)
    assert sorted(titles) == sorted(_commands())


def test_flags_that_are_named_exist() -> None:
    known = {flag for command in _commands().values() for flags in _flags(command) for flag in flags}
    hidden = {"--onnx-path"}
    foreign = {"--index-url", "--temp", "--repeat-penalty", "--stop", "--num-ctx"}  # of other tools
    named = {flag for document in ALL_TEXTS for flag in re.findall(r"`(?:\w+ )?(--[a-z0-9-]+)", prose(document))}
    assert named
    assert named - known - hidden - foreign - {"--help"} == set()


def test_flags_of_commands_are_documented() -> None:
    """All but those made from an option, whose tables are in the Python API."""
    from QEfficient.cloud.click_options import as_flag

    classes: tuple[type[Options], ...] = (CausalLMCompileOptions, EncoderCompileOptions, Seq2SeqLMCompileOptions)
    classes += (ImageTextToTextCompileOptions, GenerationOptions, QuantizeOptions, FinetuneOptions)
    options = {as_flag(field.name) for cls in classes for field in fields(cls)}
    for words, command in _commands().items():
        own = [flags for flags in _flags(command) if not options & set(flags)]
        missing = [flags for flags in own if not any(f"`{flag}" in COMMAND_LINE for flag in flags)]
        assert not missing, words


def test_counts_of_the_readme_are_those_of_the_coverage() -> None:
    table = json.loads((ROOT / "docs" / "source" / "coverage.json").read_text())
    counts = {family: [0, 0] for family in ("causal_lm", "seq2seq", "sequence_classification", "text_encoder")}
    for case, row in table.items():
        if (family := case.partition("/")[0]) in counts:
            counts[family][0] += "reason" not in row and all(one["agrees"] for one in row.values())
            counts[family][1] += 1
    words = ("causal language models", "sequence-to-sequence models", "classifiers", "encoders")
    said = [f"{agree} of {total} {word}" for (agree, total), word in zip(counts.values(), words, strict=True)]
    assert ", ".join(said) in README.read_text(encoding="utf-8")
    assert f"{len(tiny_models.CAUSAL_LMS)} of the causal models" in README.read_text(encoding="utf-8")


def test_targets_of_the_readme_are_those_of_the_code() -> None:
    from QEfficient.targets import TARGETS

    (row,) = re.findall(r"^\| Targets \| (.+) \|$", README.read_text(encoding="utf-8"), re.MULTILINE)
    works, _, later = row.partition("Not yet")
    assert set(re.findall(r"`([a-z0-9-]+)`", works)) == set(TARGETS)
    assert not set(re.findall(r"`([a-z0-9-]+)`", later)) & set(TARGETS)


def test_readme_names_the_two_commands() -> None:
    shells = [block for block in blocks(README) if block.language == "bash"]
    shown = {command.split("#")[0].strip() for block in shells for command in commands(block)}
    assert {"make demo", "make test"} <= shown
