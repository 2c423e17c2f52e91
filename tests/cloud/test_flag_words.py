"""Messages of the library in the words of the command line, and hints for names that other tools have."""

from __future__ import annotations

from pathlib import Path

import pytest
from cloud.commands import Cli

from QEfficient.cloud.flag_words import as_typed
from QEfficient.errors import nearest


@pytest.mark.parametrize(
    ("message", "typed"),
    [
        ("use weight_format='int8' or 'int4'", "use --weight-format int8 or 'int4'"),
        ("needs full_batch_size=4, or more", "needs --full-batch-size 4, or more"),
        ("Compile with a larger ctx_len, or less.", "Compile with a larger --ctx-len, or less."),
        ("Give a smaller ctx_len.", "Give a smaller --ctx-len."),
        ("qnn_config is read with enable_qnn=True only.", "--qnn-config is read with --enable-qnn only."),
        ("img_size=[224, 448] is", "--img-size 224,448 is"),
        ("Raw flags go through compiler_options={...}.", "Raw flags go through --compiler-option KEY=VALUE."),
        ("Call compile() first", "Call `qefficient compile` first"),
        ("adapter='x': none", "--use-adapter x: none"),
        ("top_p must be a number", "--top-p must be a number"),
        ("temperature must be a number, got -1", "temperature must be a number, got -1"),
        ("from_pretrained() has no option 'pooling'.", "This model takes no --pooling."),
    ],
)
def test_names_of_arguments_become_flags(message: str, typed: str) -> None:
    assert as_typed(message) == typed


@pytest.mark.parametrize(
    "message",
    [
        "model/generation_config.json: eos_token_id must be a token id, got 'x'.",
        "/models/ctx_len/top_k.onnx is not there",
        "There is no option 'ctx_len'.",
        "vocab_size=320 is what the model has",
        "recompile() it",
    ],
)
def test_other_names_stay(message: str) -> None:
    assert as_typed(message) == message


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        (["infer", "x", "--prompt", "a", "--max-tokens", "3"], "Did you mean '--max-new-tokens'?"),
        (["infer", "x", "--prompt", "a", "--stop", "b"], "Did you mean '--stop-strings'?"),
        (["compile", "x", "--device", "cpu"], "Did you mean '--target'?"),
        (["compile", "x", "--max-model-len", "4"], "Did you mean '--ctx-len'?"),
        (["execute", "x", "--ctx-len", "4"], "It is for compiling: `qefficient compile` takes it."),
        (["infer", "x", "--prompt", "a", "--num-beams", "4"], "it is one that is not followed here"),
        (["compile", "x", "--target", "CPU"], "Did you mean 'cpu'?"),
    ],
)
def test_hints_for_what_other_tools_call_it(cli: Cli, args: list[str], hint: str) -> None:
    result = cli(*args)
    assert (result.code, result.out) == (2, "")
    assert hint in result.err


@pytest.mark.parametrize(
    ("name", "known"), [("num_ctx", "ctx_len"), ("device", "target"), ("normalize", "normalize_embeddings")]
)
def test_hints_in_python(name: str, known: str) -> None:
    assert nearest(name, ["num_devices", "prompt", known]) == f" Did you mean '{known}'?"
    assert known not in nearest(name, ["num_devices", "prompt"])


def test_an_option_without_effect_is_named_as_it_was_typed(cli: Cli, checkpoint: Path) -> None:
    result = cli("compile", checkpoint, "--target", "cpu", "--device-group", "[0]", "--ctx-len", "64")
    assert "warning: --device-group: no effect on target 'cpu'." in result.err
    assert "num_devices" not in result.err


def test_help_says_what_is_for_a_card(cli: Cli) -> None:
    shown = cli("infer", "--help").out
    general, _, cards = shown.partition("\nCloud AI 100 only:\n")
    assert "--mxfp6-matmul" in cards
    assert "--mxfp6-matmul" not in general
    assert "--ctx-len" in general
    assert "--prompt" in general
