"""``qefficient bench`` measures models and packages that generate."""

from __future__ import annotations

from pathlib import Path

from cloud.commands import COMPILE, Cli

FEW = ("--prompt-tokens", "12", "--new-tokens", "4", "--num-prompts", "2", "--rounds", "2")
FIGURES = ("prefill_tokens_per_s", "decode_tokens_per_s", "time_to_first_token", "peak_memory_bytes")


def test_a_model_and_its_package(cli: Cli, checkpoint: Path, package: Path) -> None:
    of_model = cli("bench", checkpoint, *COMPILE, *FEW, "--json").json
    assert of_model["package"] == str(package)
    of_package = cli("bench", package, "--full-batch-size", "2", *FEW, "--json").json
    for shown in (of_model, of_package):
        assert (shown["prompt_tokens"], shown["new_tokens"], shown["num_prompts"], shown["rounds"]) == (12, 4, 2, 2)
        assert all(shown[name] > 0 for name in FIGURES)
        assert shown["time_to_first_token"] < 60
        assert 10**7 < shown["peak_memory_bytes"] < 10**11


def test_lines(cli: Cli, package: Path) -> None:
    lines = cli("bench", package, *FEW).out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["Prefill", "Decode", "Time to first token", "Peak memory"]


def test_what_does_not_generate(cli: Cli, encoder: Path) -> None:
    result = cli("bench", encoder, *FEW)
    assert (result.code, result.out) == (2, "")
    assert "is for models that generate text" in result.err


def test_prompts_that_do_not_fit(cli: Cli, package: Path) -> None:
    result = cli("bench", package, "--prompt-tokens", "128")
    assert (result.code, result.out) == (1, "")
    assert "128" in result.err
