"""Adapters on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_models
from cloud.commands import COMPILE, Cli
from lora_adapters import write_adapter

PROMPTS = ("-p", "My name is", "-p", "My name is", "-p", "My name is")
SHORT = ("--generation-len", "6")


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    root, model = tmp_path_factory.mktemp("adapters"), tiny_models.causal_lm("llama")
    write_adapter(root / "one", model, "q_proj", 2, 1)
    write_adapter(root / "two", model, "v_proj", 3, 2)
    return "--adapter", f"one={root / 'one'}", "--adapter", f"two={root / 'two'}"


def texts(cli: Cli, *args: str | Path) -> list[str]:
    return [answer["text"] for answer in cli(*args, "--json").json["answers"]]


def test_each_prompt_selects_an_adapter(cli: Cli, checkpoint: Path, adapters: tuple[str, ...], expected: str) -> None:
    package = cli("compile", checkpoint, *COMPILE, *adapters).out.strip()
    uses = [word for name in ("one", "base", "two") for word in ("--use-adapter", name)]
    answers = texts(cli, "infer", checkpoint, *COMPILE, *adapters, *PROMPTS, *uses, *SHORT)
    assert answers[1] == expected
    assert len({*answers}) == 3
    assert texts(cli, "execute", package, *PROMPTS[:2], "--use-adapter", "two", *SHORT) == answers[2:]
    assert texts(cli, "infer", checkpoint, *COMPILE, *adapters[:2], *PROMPTS[:2], *SHORT) == answers[:1], "the only one"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "Several adapters (one, two): select one with --use-adapter"),
        (("--use-adapter", "ona"), "Did you mean 'one'?"),
        (("--adapter", "three"), "--adapter three: expected NAME=FOLDER"),
        (("--adapter", "one=x"), "the name 'one' is there twice"),
        (("--adapter", "three=nowhere/nothing", "--use-adapter", "one"), "There is no folder 'nowhere/nothing'"),
        (("--use-adapter", "one", "--use-adapter", "two"), "adapter has 2 values for 3 prompts"),
    ],
)
def test_bad_usage(cli: Cli, checkpoint: Path, adapters: tuple[str, ...], args: tuple[str, ...], message: str) -> None:
    result = cli("infer", checkpoint, *COMPILE, *adapters, *PROMPTS, *args)
    assert result.code in (1, 2)
    assert message in result.err


def test_other_models_have_no_adapters(cli: Cli, checkpoint: Path, encoder: Path) -> None:
    result = cli("infer", encoder, "-p", "x", "--use-adapter", "one")
    assert (result.code, "an encoder, which has no adapters" in result.err) == (2, True)
    result = cli("infer", checkpoint, *COMPILE, "-p", "x", "--use-adapter", "one")
    assert "selects no adapters by prompt" in result.err
    result = cli("infer", checkpoint, "--chat", "--use-adapter", "one", "--use-adapter", "two")
    assert "A chat runs with one adapter" in result.err
