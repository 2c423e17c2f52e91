"""Runs commands as the console script does, over one tiny checkpoint that is compiled once."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_models
from cloud.commands import Cli, Result, save

from QEfficient.cloud.app import app
from QEfficient.cloud.terminal import run

HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.xdist_group("cloud"))  # one process exports the checkpoint


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Cli]:
    """Runs ``qefficient`` with these arguments in this process."""
    logger = logging.getLogger("QEfficient")
    before = logger.level, logger.propagate, logger.handlers

    def call(*args: str | Path, stdin: str = "") -> Result:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            run(app, [str(arg) for arg in args], "qefficient")
        out, err = capfd.readouterr()
        assert isinstance(ended.value.code, int)
        return Result(ended.value.code, out, err)

    yield call
    logger.level, logger.propagate, logger.handlers = before


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A causal LM with a tokenizer and a chat template."""
    return save(tiny_models.causal_lm("llama"), tmp_path_factory.mktemp("cloud") / "llama")


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder of 64 positions."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=320,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=64,
    )
    return save(BertModel(config), tmp_path_factory.mktemp("cloud") / "bert")


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of three labels."""
    return save(tiny_models.classifier(num_labels=3), tmp_path_factory.mktemp("cloud") / "classifier")


@pytest.fixture(scope="session")
def package(checkpoint: Path) -> Path:
    """The checkpoint compiled with COMPILE."""
    from QEfficient import QEFFAutoModelForCausalLM

    return QEFFAutoModelForCausalLM.from_pretrained(checkpoint).compile(ctx_len=128, precision="fp32")


@pytest.fixture(scope="session")
def expected(package: Path) -> str:
    """What the package answers to "My name is" in 6 tokens."""
    from QEfficient import from_package

    with from_package(package) as compiled:
        return compiled.generate("My name is", generation_len=6).generated_texts[0]
