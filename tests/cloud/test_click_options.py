"""Flags are the fields of the option dataclasses: all of them, with their types and their documentation."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import click
import pytest
from cloud.commands import Cli, run_python

from QEfficient.cloud.click_options import flags, option_flags
from QEfficient.cloud.model_args import compile_flags
from QEfficient.cloud.terminal import Command
from QEfficient.errors import OptionError
from QEfficient.generation_options import GenerationOptions
from QEfficient.options import CausalLMCompileOptions, EncoderCompileOptions


def parse(*args: str) -> dict[str, Any]:
    """What a command that takes all options is given."""

    @click.command(cls=Command)
    @option_flags("sampling", "Sampling", GenerationOptions)
    @compile_flags
    def command(sampling: dict[str, Any], compile_options: dict[str, Any]) -> dict[str, Any]:
        assert not sampling.keys() & compile_options.keys()
        return {**sampling, **compile_options}

    given: dict[str, Any] = command.main(list(args), standalone_mode=False)
    return given


@pytest.mark.parametrize("cls", [CausalLMCompileOptions, EncoderCompileOptions, GenerationOptions])
def test_every_option_has_a_flag_with_its_documentation(cli: Cli, cls: Any) -> None:
    shown = " ".join(cli("infer", "--help").out.replace("-\n", "-").split())
    for field in fields(cls):
        flag = "--" + field.name.replace("_", "-").replace("compiler-options", "compiler-option")
        assert f"{flag} " in shown or f"{flag}, " in shown, flag
        first_words = " ".join(cls.help(field.name).split()[:4])
        assert first_words in shown, field.name


def test_only_what_was_given_is_passed_on() -> None:
    assert parse() == {}
    assert parse("--ctx-len", "128") == {"ctx_len": 128}  # the default, but asked for


@pytest.mark.parametrize("flag", ["--prefill-seq-len", "--prefill_seq_len", "--prompt-len", "--prompt_len"])
def test_spellings(flag: str) -> None:
    assert parse(flag, "16") == {"prefill_seq_len": 16}
    assert parse(f"{flag}=16") == {"prefill_seq_len": 16}


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--temperature", "0.5", "--top-k", "3"], {"temperature": 0.5, "top_k": 3}),
        (["--do-sample"], {"do_sample": True}),
        (["--no-do-sample"], {"do_sample": False}),
        (["--weight-format", "int4"], {"weight_format": "int4"}),
        (["--seq-len", "32"], {"seq_len": 32}),
        (["--seq-len", "32,128"], {"seq_len": (32, 128)}),
        (["--device-group", "[0,1]"], {"num_devices": 2}),
        (["--device-group", "3", "--num-devices", "1"], {"num_devices": 1}),
        (
            ["--compiler-option", "NUM_STREAMS=2", "--compiler-option", "A=x=y", "--compiler-option", "B=true"],
            {"compiler_options": {"NUM_STREAMS": 2, "A": "x=y", "B": True}},
        ),
        (["--compiler-option", "C=0.5"], {"compiler_options": {"C": 0.5}}),
        (["--max-new-tokens", "5", "--eos-token-id", "2,7"], {"max_new_tokens": 5, "eos_token_id": (2, 7)}),
        (["--stop-strings", "a, b", "--stop-strings", "c"], {"stop_strings": ("a, b", "c")}),
        (["--bad-words-ids", "[[1], [2, 3]]"], {"bad_words_ids": [[1], [2, 3]]}),
        (["--logit-bias", '{"5": -100}'], {"logit_bias": {"5": -100}}),
        (["--exponential-decay-length-penalty", "[8, 1.1]"], {"exponential_decay_length_penalty": [8, 1.1]}),
    ],
)
def test_values(args: list[str], expected: dict[str, Any]) -> None:
    assert parse(*args) == expected


@pytest.mark.parametrize(
    "args",
    [
        ["--ctx-len", "many"],
        ["--weight-format", "int3"],
        ["--seq-len", "32,x"],
        ["--device-group", "[zero]"],
        ["--device-group", "[]"],
        ["--device-group", "[-1]"],
        ["--compiler-option", "NUM_STREAMS"],
        ["--compiler-option", "=2"],
        ["--eos-token-id", "end"],
        ["--logit-bias", "5=-100"],
    ],
)
def test_values_that_make_no_sense(args: list[str]) -> None:
    with pytest.raises(click.UsageError) as caught:
        parse(*args)
    assert args[0] in str(caught.value.format_message())


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--ctx-len", "0"], "ctx_len must be"),
        (["--target", "cpuu"], "Did you mean 'cpu'"),
        (["--num-devices", "1", "--device-group", "[0,1]"], "contradict"),
        (["--target", "cpu", "--mxfp6"], "weight_format='int8'"),
        (["--target", "cpu", "--mxint8"], "weight_format='int8'"),
        (["--batch-size", "2", "--full-batch-size", "3"], "contradict"),
    ],
)
def test_options_are_checked_before_a_model_is_loaded(args: list[str], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        parse(*args)


def test_upstreams_flags_about_its_export_do_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse("--dynamo", "--custom-io-file-path", "io.yaml") == {}
    assert capsys.readouterr().err.count("no effect") == 2


def test_order_in_the_help_is_the_order_of_the_decorators() -> None:
    @click.command(cls=Command)
    @flags(click.Option(["--first"]), click.Option(["--second"]))
    @flags(click.Option(["--third"]))
    def command(**params: Any) -> None: ...

    names = [param.name for param in command.params]
    assert names == ["first", "second", "third"]


def test_module_takes_upstreams_flags() -> None:
    result = run_python("-m", "QEfficient.cloud.infer", "--model_name", "gpt2", "--prompt_lenn", "3")
    assert result.code == 2
    assert "There is no option '--prompt-lenn'. Did you mean '--prompt-len'?" in result.err
