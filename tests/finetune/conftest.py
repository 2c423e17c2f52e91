"""A tiny model and data that fine-tuning tests share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from finetune.files import Write

HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.xdist_group("finetune"))  # one process imports TRL


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A causal LM with a tokenizer and a chat template."""
    folder = tiny_models.save(tiny_models.causal_lm("llama"), tmp_path_factory.mktemp("base") / "llama")
    tiny_models.tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return tiny_models.tiny_tokenizer()


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a file of data: rows as JSON lines, or text as it is."""

    def make(content: list[Any] | str, name: str = "data.jsonl") -> Path:
        text = content if isinstance(content, str) else "".join(json.dumps(row) + "\n" for row in content)
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return make
